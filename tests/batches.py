"""Random batches and steps of SAC, in the form in which the step takes them."""

import torch
from torch import nn

from core.compute import Compute, Source, Views
from core.optim import build_optimiser
from core.steps import Method, SACStep
from models.sac import SAC

CPU = torch.device("cpu")


def source(n: int, size: tuple[int, int], classes: int, seed: int = 0) -> Source:
    g = torch.Generator().manual_seed(seed)
    label = torch.randint(0, classes, (n, *size), generator=g)
    label[torch.rand(label.shape, generator=g) < 0.1] = 255
    return Source(torch.randn(n, 3, *size, generator=g), label, torch.arange(n) + 100, n)


def views(images: int, t: int, size: tuple[int, int], seed: int = 1) -> Views:
    """`t` views of each image: mirrored, zoomed, with some padding."""
    n, g = images * t, torch.Generator().manual_seed(seed)
    noisy, clean = torch.randn(2, n, 3, *size, generator=g)
    padding = torch.zeros(n, *size, dtype=torch.bool)
    padding[1::3, :, :3] = True
    zoom = 1 + torch.rand(n, generator=g) * 0.5
    flip = torch.where(torch.rand(n, generator=g) < 0.5, -1.0, 1.0)
    shift = torch.rand(n, 2, generator=g) * 0.2
    a = torch.zeros(n, 2, 3)
    a[:, 0, 0], a[:, 1, 1], a[:, :, 2] = zoom * flip, zoom, shift
    inverse = torch.zeros_like(a)
    inverse[:, 0, 0], inverse[:, 1, 1] = flip / zoom, 1 / zoom
    inverse[:, 0, 2], inverse[:, 1, 2] = -shift[:, 0] * flip / zoom, -shift[:, 1] / zoom
    return Views(noisy, clean, padding, a, inverse, torch.arange(n) + 200, n)


def sac_step(
    student: nn.Module, teacher: nn.Module, classes: int, t: int, *, micro_batch: int = 0, bfloat16: bool = False,
    lr: float = 0.01, **constants: object
) -> SACStep:
    values = {
        "views": t, "lr_target": 5.0, "net_momentum": 0.9, "net_momentum_iter": 2, "stat_momentum": 0.9,
        "fusion": "avg_pool", "upper": 0.75, "lower": 0.0, "beta": 1e-3, "discount": True,
        "loss": "focal_ce_conf_batch", "focal_p": 3.0,
    } | constants
    sac = SAC(student, teacher, classes)
    optimiser = build_optimiser(student, "SGD", lr, 0.9, False, 5e-4)
    return SACStep(sac, optimiser, Compute(CPU, bfloat16, micro_batch), Method(**values))
