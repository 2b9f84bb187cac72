"""TRAIN.MICRO_BATCH changes the memory that a step needs, and nothing else: SAC's gradients and losses stay."""

import copy

import batches
import pytest
import torch
from runs import Stub
from torch import nn

import models.fcn
from core.compute import Compute
from core.steps import SACStep
from models import build
from models.sac import freeze_batchnorm

CLASSES, SIZE = 5, (32, 64)


def network(name: str, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """A network with weights that tell the classes apart a little."""
    monkeypatch.setattr(models.fcn, "HIDDEN", 16)  # FCN-8s as it is, with a small head
    torch.manual_seed(0)
    net = Stub(CLASSES) if name == "stub" else build(name, CLASSES)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, 0.5)
    return net


def two_steps(step: SACStep) -> tuple[list[dict], list[dict[str, torch.Tensor]]]:
    """Values and gradients of two iterations."""
    values, gradients = [], []
    for i in range(2):
        out = step(batches.source(3, SIZE, CLASSES, i), batches.views(2, 3, SIZE, 10 + i), i)
        values.append({name: value.sum().item() for name, value in out.items()})
        named = step.network.backbone.named_parameters()
        gradients.append({name: parameter.grad.clone() for name, parameter in named})
    return values, gradients


@pytest.mark.parametrize(
    "name, constants",
    [
        ("stub", {}),
        ("stub", {"loss": "focal_ce_conf", "fusion": "minentropy_pool"}),
        ("stub", {"loss": "focal_ce", "fusion": ""}),
        ("deeplabv2_resnet18", {}),
        ("fcn_vgg16_bn", {}),  # dropout
    ],
)
def test_gradients_and_losses_are_the_whole_batch_s(
    name: str, constants: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = network(name, monkeypatch)

    def step(micro_batch: int) -> SACStep:
        student, teacher = copy.deepcopy(net), copy.deepcopy(net)
        return batches.sac_step(student, teacher, CLASSES, 3, micro_batch=micro_batch, lr=1e-4, **constants)

    values, gradients = two_steps(step(0))
    assert all(v["kept"] > 0.1 and v["self_ce"] > 0 for v in values) and "teacher_diff" in values[0]
    for micro_batch in (1, 2, 4) if name == "stub" else (2,):  # 3 source images and 6 views: some do not divide
        theirs, others = two_steps(step(micro_batch))
        for ours, other in zip(values, theirs, strict=True):
            assert other == pytest.approx(ours, rel=1e-5, abs=1e-7)
        for ours, other in zip(gradients, others, strict=True):
            for key, gradient in ours.items():
                scale = gradient.abs().max().item()
                torch.testing.assert_close(other[key], gradient, rtol=0, atol=1e-5 * scale + 1e-7, msg=key)


def test_a_forward_pass_has_no_more_images_than_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    net = network("stub", monkeypatch)
    net.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    step = batches.sac_step(net, copy.deepcopy(net), CLASSES, 3, micro_batch=2)
    step(batches.source(3, SIZE, CLASSES), batches.views(2, 3, SIZE), 0)
    assert seen == [2, 1, 2, 2, 2, 2, 2, 2]  # source; teacher on 6 views; student on 6 views
    assert [s.stop - s.start for s in Compute(batches.CPU, False, 4).slices(10)] == [4, 4, 2]
    assert [(s.start, s.stop) for s in Compute(batches.CPU, False).slices(7)] == [(0, 7)]


def test_it_is_the_frozen_batchnorm_that_makes_it_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison above would notice statistics of the micro-batch."""
    net = network("stub", monkeypatch)
    x = batches.source(4, SIZE, CLASSES).image
    net.train()
    assert not torch.allclose(net(x)[:2], net(x[:2]), atol=1e-3)
    freeze_batchnorm(net)
    torch.testing.assert_close(net(x)[:2], net(x[:2]))
