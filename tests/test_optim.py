"""The four parameter groups and the steps that they take."""

import pytest
import torch
from torch import nn

from core.cli import UserError
from core.optim import build_optimiser, parameter_groups
from models import build


class Tiny(nn.Module):
    """One pretrained and one new layer of one weight and one bias each, and a BatchNorm between."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 1)
        self.norm = nn.BatchNorm1d(1)
        self.body = nn.Linear(1, 1)

    def new_modules(self) -> list[nn.Module]:
        return [self.head]


def names(network: nn.Module) -> list[list[str]]:
    known = {id(parameter): name for name, parameter in network.named_parameters()}
    return [[known[id(p)] for p in group["params"]] for group in parameter_groups(network, 1.0, 0.5)]


def test_weights_and_biases_old_and_new() -> None:
    expected = [["norm.weight", "body.weight"], ["norm.bias", "body.bias"], ["head.weight"], ["head.bias"]]
    assert names(Tiny()) == expected
    groups = parameter_groups(Tiny(), 1.0, 0.5)
    assert [(g["lr"], g["weight_decay"]) for g in groups] == [(1, 0.5), (2, 0), (10, 0.5), (20, 0)]


def test_every_parameter_is_in_one_group() -> None:
    network = build("deeplabv2_resnet18", 19)
    grouped = [name for group in names(network) for name in group]
    assert sorted(grouped) == sorted(name for name, _ in network.named_parameters())
    assert [len(group) for group in names(network)] == [40, 20, 4, 4]
    assert names(network)[3] == [f"model.layer5.conv2d_list.{i}.bias" for i in range(4)]


def step(network: nn.Module, optimiser: torch.optim.Optimizer, gradient: float) -> dict[str, float]:
    """All parameters after a step with this gradient everywhere."""
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    optimiser.step()
    return {name: parameter.item() for name, parameter in network.named_parameters()}


@pytest.mark.parametrize("nesterov", [False, True])
def test_two_steps_of_sgd_by_hand(nesterov: bool) -> None:
    network, lr, momentum, decay = Tiny(), 0.01, 0.9, 0.5
    for parameter in network.parameters():
        nn.init.ones_(parameter)
    optimiser = build_optimiser(network, "SGD", lr, momentum, nesterov, decay)
    first, second = step(network, optimiser, 0.2), step(network, optimiser, -0.1)
    for name in first:
        rate = lr * (10 if name.startswith("head") else 1) * (2 if name.endswith("bias") else 1)
        own_decay = decay if name.endswith("weight") else 0.0
        w, buffer = 1.0, 0.0
        for gradient, after in ((0.2, first[name]), (-0.1, second[name])):
            g = gradient + own_decay * w
            buffer = momentum * buffer + g
            w -= rate * (g + momentum * buffer if nesterov else buffer)
            assert after == pytest.approx(w, rel=1e-5)


def test_adam() -> None:
    network = Tiny()
    optimiser = build_optimiser(network, "Adam", 1e-3, 0.9, False, 0.0)
    assert isinstance(optimiser, torch.optim.Adam)
    assert all(group["betas"] == (0.5, 0.999) for group in optimiser.param_groups)
    before = network.head.bias.item()
    # Adam's first step is the learning rate, whatever the gradient.
    assert step(network, optimiser, 0.3)["head.bias"] == pytest.approx(before - 0.02, abs=1e-6)


def test_another_optimiser_is_the_user_s_mistake() -> None:
    with pytest.raises(UserError, match="'adamw'.*SGD, Adam"):
        build_optimiser(Tiny(), "adamw", 0.1, 0.9, False, 0.0)
