"""The four parameter groups and the optimiser (docs/method.md section 2)."""

from typing import TypedDict

import torch
from torch import nn


class ParameterGroup(TypedDict):
    """One of torch.optim's parameter groups."""

    params: list[nn.Parameter]
    lr: float
    weight_decay: float


def parameter_groups(network: nn.Module, lr: float, weight_decay: float) -> list[ParameterGroup]:
    """The network's parameters in four groups, each in the order of the network.

    Pretrained weights (lr, with decay), pretrained biases (2 lr, without), new layers' weights (10 lr, with
    decay), new layers' biases (20 lr, without). BatchNorm's weight and bias count as weight and bias. The
    order is the published snapshots', whose optimiser state knows a parameter by its position alone.

    Args:
        network: one of `models`; its `new_modules()` are the new layers.
        lr: the learning rate of the pretrained weights, > 0.
        weight_decay: the decay of all weights, >= 0.
    """
    new = {id(parameter) for module in network.new_modules() for parameter in module.parameters()}
    groups: list[ParameterGroup] = [
        {"params": [], "lr": lr, "weight_decay": weight_decay},
        {"params": [], "lr": 2 * lr, "weight_decay": 0.0},
        {"params": [], "lr": 10 * lr, "weight_decay": weight_decay},
        {"params": [], "lr": 20 * lr, "weight_decay": 0.0},
    ]
    for name, parameter in network.named_parameters():
        is_new, is_bias = id(parameter) in new, name.endswith(".bias")
        groups[2 * is_new + is_bias]["params"].append(parameter)
    return groups


def build_optimiser(
    network: nn.Module, name: str, lr: float, momentum: float, nesterov: bool, weight_decay: float, beta1: float = 0.5
) -> torch.optim.Optimizer:
    """SGD (with momentum and nesterov), or Adam with betas beta1 and 0.999, over the four groups.

    Raises:
        ValueError: another name.
    """
    groups = parameter_groups(network, lr, weight_decay)
    if name == "SGD":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov)
    if name == "Adam":
        return torch.optim.Adam(groups, lr=lr, betas=(beta1, 0.999))
    raise ValueError(f"unknown optimiser {name!r}")
