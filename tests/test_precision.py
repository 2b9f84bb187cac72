"""TRAIN.PRECISION: bfloat16 around the networks alone, and close to float32."""

import copy

import batches
import pytest
import torch
from torch import nn

import core.steps
from core.compute import Compute, uses_bfloat16
from models import build, consistency

CLASSES, SIZE, STEPS = 5, (32, 64), 4


def step(bfloat16: bool) -> core.steps.SACStep:
    torch.manual_seed(0)
    net = build("deeplabv2_resnet18", CLASSES)
    for conv in net.model.layer5.conv2d_list:
        nn.init.normal_(conv.weight, 0, 0.02)
    return batches.sac_step(net, copy.deepcopy(net), CLASSES, 2, bfloat16=bfloat16, lr=1e-5)


def losses(training: core.steps.SACStep) -> list[tuple[float, float]]:
    rows = []
    for i in range(STEPS):
        values = training(batches.source(2, SIZE, CLASSES, i), batches.views(2, 2, SIZE, 10 + i), i)
        rows.append((values["loss_ce"].item(), values["self_ce"].item()))
    return rows


def test_the_networks_compute_in_bfloat16_and_nothing_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    training, kinds = step(True), {"inside": set(), "outside": set()}
    for net in (training.sac.backbone, training.sac.slow_net):
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
    losses(training)
    assert len(names) > 10
    assert kinds == {"inside": {torch.bfloat16}, "outside": {torch.float32}}
    parameters = list(training.sac.parameters()) + list(training.sac.buffers())
    assert {p.dtype for p in parameters if p.is_floating_point()} == {torch.float32}
    assert {p.grad.dtype for p in training.sac.backbone.parameters()} == {torch.float32}


def test_the_losses_are_within_2_percent_of_float32_s() -> None:
    exact, rough = losses(step(False)), losses(step(True))
    assert exact != rough
    for ours, other in zip(exact, rough, strict=True):
        assert other == pytest.approx(ours, rel=0.02)


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
