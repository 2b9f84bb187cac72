"""TRAIN.PRECISION: bfloat16 around the networks alone, and close to float32."""

import copy
from pathlib import Path
from statistics import mean

import batches
import pytest
import small_tree
import torch
from runs import Run
from torch import nn

import core.steps
from core.compute import Compute, uses_bfloat16
from models import build, consistency

CLASSES, SIZE = 5, (32, 64)


def step(bfloat16: bool) -> core.steps.SACStep:
    torch.manual_seed(0)
    net = build("deeplabv2_resnet18", CLASSES)
    for conv in net.model.layer5.conv2d_list:
        nn.init.normal_(conv.weight, 0, 0.02)
    return batches.sac_step(net, copy.deepcopy(net), CLASSES, 2, bfloat16=bfloat16, lr=1e-5)


def losses(training: core.steps.SACStep, steps: int) -> list[tuple[float, float]]:
    rows = []
    for i in range(steps):
        values = training(batches.source(1, SIZE, CLASSES, i), batches.views(1, 2, SIZE, 10 + i), i)
        rows.append((values["loss_ce"].item(), values["self_ce"].item()))
    return rows


def test_the_networks_compute_in_bfloat16_and_nothing_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    training, kinds = step(True), {"inside": set(), "outside": set()}
    for net in (training.network.backbone, training.network.slow_net):
        net.model.layer4.register_forward_hook(lambda m, i, out: kinds["inside"].add(out.dtype))
    names = [name for name in vars(consistency) if callable(getattr(consistency, name)) and name[0].islower()]
    for name in names:

        def watched(*args: object, original: object = getattr(consistency, name), **kwargs: object) -> object:
            result = original(*args, **kwargs)
            values = [*args, *kwargs.values(), *(result if isinstance(result, tuple) else [result])]
            kinds["outside"].update(v.dtype for v in values if torch.is_tensor(v) and v.is_floating_point())
            assert not torch.is_autocast_enabled("cpu")
            return result

        monkeypatch.setattr(consistency, name, watched)
    losses(training, 1)
    assert len(names) > 10
    assert kinds == {"inside": {torch.bfloat16}, "outside": {torch.float32}}
    parameters = list(training.network.parameters()) + list(training.network.buffers())
    assert {p.dtype for p in parameters if p.is_floating_point()} == {torch.float32}
    assert {p.grad.dtype for p in training.network.backbone.parameters()} == {torch.float32}


def test_the_losses_are_within_2_percent_of_float32_s() -> None:
    exact, rough = losses(step(False), 3), losses(step(True), 3)
    assert exact != rough
    for ours, other in zip(exact, rough, strict=True):
        assert other == pytest.approx(ours, rel=0.02)


def test_a_hundred_iterations_of_training(tmp_path: Path) -> None:
    """The loss within 2 %, the student's mIoU within a point."""
    tree = tmp_path / "tree"
    small_tree.make(tree)
    settings = ("TRAIN.NUM_EPOCHS 25 LOG.ITER_VAL 25 LOG.ITER_TARGET 100 TRAIN.SNAPSHOT_ITER 1000 MODEL.OPT Adam "
                "MODEL.LR 3e-3 MODEL.BASELINE True DATASET.RND_JITTER 0 DATASET.RENORM_SOURCE False "
                "DATASET.SCALE_FROM 1.0").split()
    found = {}
    for precision in ("float32", "bfloat16"):
        run = Run(tmp_path / precision, tree, *settings, "TRAIN.PRECISION", precision)
        assert run.start().wait() == 0
        loss = [e["loss_ce"] for e in run.metrics("step")]
        found[precision] = loss, {e["list"]: e["miou"] for e in run.metrics("val")}
    (exact, scores), (rough, others) = found.values()
    assert len(exact) == 100 and exact != rough
    assert mean(exact[-10:]) < 0.9 * mean(exact[:10])  # it learns
    assert mean(rough[-10:]) == pytest.approx(mean(exact[-10:]), rel=0.02)
    assert others == pytest.approx(scores, abs=0.01) and max(scores.values()) > 0.05


@pytest.mark.parametrize(
    "precision, device, supported, expected",
    [
        ("float32", "cuda", True, False), ("bfloat16", "cpu", False, True), ("bfloat16", "cuda", False, True),
        ("auto", "cpu", True, False), ("auto", "cuda", True, True), ("auto", "cuda", False, False),
    ],
)
def test_auto_is_bfloat16_where_the_gpu_computes_in_it(
    precision: str, device: str, supported: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert uses_bfloat16(precision, torch.device(device)) == expected


def test_logits_come_back_in_float32() -> None:
    net = nn.Conv2d(3, 4, 1)
    for bfloat16 in (True, False):
        logits = Compute(batches.CPU, bfloat16).logits(lambda x, seeds: net(x), torch.zeros(1, 3, 2, 2))
        assert logits.dtype == torch.float32
