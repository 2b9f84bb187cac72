"""Parameter groups, optimisers and learning rate schedules (docs/method.md section 2)."""

from collections.abc import Iterable
from typing import TypedDict

import torch
from torch import nn

from core.cli import UserError

POWER = 0.9  # of MODEL.SCHEDULE poly
FOUR = ("pretrained_weights", "pretrained_biases", "new_weights", "new_biases")  # groups of `parameter_groups`


class ParameterGroup(TypedDict):
    """One of torch.optim's parameter groups."""

    params: list[nn.Parameter]
    lr: float
    weight_decay: float


def parameter_groups(network: nn.Module, lr: float, weight_decay: float) -> list[ParameterGroup]:
    """The network's parameters in four groups, each in network order.

    Pretrained weights (lr, with decay), pretrained biases (2 lr, without), new layers' weights (10 lr, with
    decay), new layers' biases (20 lr, without). BatchNorm's weight and bias count as weight and bias. The
    order is that of the published snapshots, whose optimiser state identifies parameters only by position.

    Args:
        network: one of `models`; its `new_modules()` are the new layers.
        lr: the learning rate of the pretrained weights, > 0.
        weight_decay: the decay of all weights, >= 0.
    """
    new = _new(network)
    groups: list[ParameterGroup] = [
        {"params": [], "lr": lr, "weight_decay": weight_decay},
        {"params": [], "lr": 2 * lr, "weight_decay": 0.0},
        {"params": [], "lr": 10 * lr, "weight_decay": weight_decay},
        {"params": [], "lr": 20 * lr, "weight_decay": 0.0},
    ]
    for name, parameter in _trained(network):
        is_new, is_bias = id(parameter) in new, name.endswith(".bias")
        groups[2 * is_new + is_bias]["params"].append(parameter)
    return groups


def adamw_groups(
    network: nn.Module, lr: float, weight_decay: float, layer_decay: float = 1.0
) -> list[ParameterGroup]:
    """The network's parameters, grouped as in the usual AdamW recipes, in network order.

    Pretrained parameters have lr · layer_decay^k, k layers before the encoder's last one, new layers 10 lr.
    Norms, biases, scales, tokens and position embeddings are not decayed.

    Args:
        network: one of `models`; with `layers_behind()` if layer_decay is not 1.
        lr: of the last pretrained layer, > 0.
        weight_decay: >= 0.
        layer_decay: in (0, 1].
    """
    new, exempt = _new(network), getattr(network, "no_weight_decay", set)()
    behind = network.layers_behind() if layer_decay != 1 else {}
    groups: dict[tuple[float, float], ParameterGroup] = {}
    for name, parameter in _trained(network):
        rate = 10 * lr if id(parameter) in new else lr * layer_decay ** behind.get(name, 0)
        decays = parameter.ndim > 1 and name.endswith("weight") and name not in exempt
        decay = weight_decay if decays else 0.0
        group = groups.setdefault((rate, decay), {"params": [], "lr": rate, "weight_decay": decay})
        group["params"].append(parameter)
    return list(groups.values())


def group_names(optimiser: torch.optim.Optimizer) -> list[str]:
    """A name for each parameter group of `build_optimiser`, whatever its current rate."""
    groups = optimiser.param_groups
    if not isinstance(optimiser, torch.optim.AdamW):
        return list(FOUR)
    highest = max(group["lr"] for group in groups)
    layers = ("new" if g["lr"] == highest else f"pretrained_x{10 * g['lr'] / highest:.4g}" for g in groups)
    return [f"{name}_{'with' if g['weight_decay'] else 'no'}_decay" for name, g in zip(layers, groups, strict=True)]


def _new(network: nn.Module) -> set[int]:
    return {id(parameter) for module in network.new_modules() for parameter in module.parameters()}


def _trained(network: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad)


def build_optimiser(
    network: nn.Module, name: str, lr: float, momentum: float, nesterov: bool, weight_decay: float, beta1: float = 0.5,
    layer_decay: float = 1.0,
) -> torch.optim.Optimizer:
    """SGD (with momentum and nesterov), Adam with betas beta1 and 0.999, or AdamW with betas 0.9 and 0.999.

    Raises:
        UserError: unknown name.
    """
    if name == "SGD":
        return torch.optim.SGD(parameter_groups(network, lr, weight_decay), lr=lr, momentum=momentum, nesterov=nesterov)
    if name == "Adam":
        return torch.optim.Adam(parameter_groups(network, lr, weight_decay), lr=lr, betas=(beta1, 0.999))
    if name == "AdamW":
        return torch.optim.AdamW(adamw_groups(network, lr, weight_decay, layer_decay), lr=lr, betas=(0.9, 0.999))
    raise UserError(f"unknown optimiser {name!r}; it must be one of SGD, Adam, AdamW")


class Rates:
    """Sets every group's learning rate, a function of the iterations done: it has no state to save.

    Args:
        optimiser: as built, with its highest rates.
        schedule: "constant", or "poly": decay from the highest rate to 0, (1 - fraction done)^0.9.
        warmup: iterations of linear warm-up.
        total: iterations of the whole run.
    """

    def __init__(self, optimiser: torch.optim.Optimizer, schedule: str, warmup: int, total: int) -> None:
        self.optimiser, self.schedule, self.warmup, self.total = optimiser, schedule, warmup, total
        self.highest = [group["lr"] for group in optimiser.param_groups]

    def __call__(self, done: int) -> None:
        """Set the rates for the iteration after `done` iterations."""
        factor = self.factor(done)
        for group, rate in zip(self.optimiser.param_groups, self.highest, strict=True):
            group["lr"] = rate * factor

    def factor(self, done: int) -> float:
        """What all rates are multiplied by, 0 ... 1."""
        if done < self.warmup:
            return (done + 1) / (self.warmup + 1)
        if self.schedule == "constant":
            return 1.0
        return max(0.0, 1 - (done - self.warmup) / max(1, self.total - self.warmup)) ** POWER
