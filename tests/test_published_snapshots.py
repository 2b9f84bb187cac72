"""Snapshots as the authors published them, of both kinds, start training; ours have the same names."""

import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_data import GOLDEN

from core import checkpoint, resume
from core.cli import UserError
from core.optim import build_optimiser
from core.run_folder import Run
from models import build
from models.sac import SAC

KEYS = json.loads((GOLDEN / "c07_checkpoint_keys.json").read_text())
ARCH = "deeplabv2_vgg16_bn"


def optimiser_of(network: torch.nn.Module) -> torch.optim.Optimizer:
    return build_optimiser(network, "SGD", 0.5, 0.9, False, 5e-4)


def published(path: Path, kind: str) -> OrderedDict:
    """A file of the published form: keys of c07_checkpoint_keys.json in their order, random values."""
    torch.manual_seed(1)
    dtypes = {"float32": torch.float32, "int64": torch.int64}
    model = OrderedDict()
    for name, shape, dtype in KEYS[ARCH][kind]["state_dict_keys"]:
        model[name] = (torch.rand(shape) + 0.5).to(dtypes[dtype])
    if "module.slow_init" in model:
        model["module.slow_init"].fill_(1)
    optimiser = optimiser_of(build(ARCH, 19))
    for group in optimiser.param_groups:
        group["lr"] = 1e-3
        for parameter in group["params"]:
            optimiser.state[parameter]["momentum_buffer"] = torch.full_like(parameter, 0.25)
    torch.save({"model": model, "opt": optimiser.state_dict(), "epoch": 12, "score": np.float64(0.5)}, path)
    return model


def start(
    network: torch.nn.Module, optimiser: torch.optim.Optimizer, path: Path, arch: str = ARCH
) -> tuple[int, list[str]]:
    """Start from a snapshot; the epochs done, and the lines for the log."""
    expected = {"arch": arch, "num_epochs": 20}
    begun = resume.begin(resume.Origin(False, str(path), ""), Run("e", "r"), network, optimiser, expected)
    return begun.progress.epoch, begun.lines


def new_sac() -> SAC:
    return SAC(build(ARCH, 19), build(ARCH, 19), 19)


@pytest.mark.parametrize("kind", ["SAC_Baseline", "SAC"])
def test_start_of_sac_from_a_published_file(kind: str, tmp_path: Path) -> None:
    model = published(tmp_path / "p.pth", kind)
    sac = new_sac()
    optimiser = optimiser_of(sac.backbone)
    epoch, lines = start(sac, optimiser, tmp_path / "p.pth")
    assert epoch == 12
    for name, value in sac.state_dict().items():
        if name.startswith("backbone.") or kind == "SAC":
            assert torch.equal(value, model["module." + name]), name
    assert sac.slow_init.item() == (1 if kind == "SAC" else 0)
    assert [g["lr"] for g in optimiser.param_groups] == [0.5, 1.0, 5.0, 10.0]  # this run's own
    parameter = next(sac.backbone.parameters())
    assert torch.equal(optimiser.state[parameter]["momentum_buffer"], torch.full_like(parameter, 0.25))
    said = " ".join(lines)
    assert "momentum" in said and "learning rate and best score" in said
    assert ("class prior" in lines[0]) == (kind == "SAC")


@pytest.mark.parametrize("kind", ["SAC_Baseline", "SAC"])
def test_start_of_a_baseline_from_a_published_file(kind: str, tmp_path: Path) -> None:
    model = published(tmp_path / "p.pth", kind)
    network = build(ARCH, 19)
    epoch, _ = start(torch.nn.ModuleDict({"backbone": network}), optimiser_of(network), tmp_path / "p.pth")
    assert epoch == 12
    assert all(torch.equal(v, model[f"module.backbone.{k}"]) for k, v in network.state_dict().items())


def test_our_names_are_the_published_ones() -> None:
    ours = {checkpoint.PREFIX + name: list(value.shape) for name, value in new_sac().state_dict().items()}
    assert ours == {name: shape for name, shape, _ in KEYS[ARCH]["SAC"]["state_dict_keys"]}


def test_a_snapshot_of_another_network_is_refused_by_name(tmp_path: Path) -> None:
    published(tmp_path / "p.pth", "SAC_Baseline")
    sac = SAC(build("deeplabv2_resnet18", 19), build("deeplabv2_resnet18", 19), 19)
    with pytest.raises(UserError, match="does not fit deeplabv2_resnet18.*MODEL.ARCH"):
        start(sac, optimiser_of(sac.backbone), tmp_path / "p.pth", "deeplabv2_resnet18")
