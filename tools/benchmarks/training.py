"""A training step against its networks, and what the method adds to them."""

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.compute import Compute
from core.metrics import ConfusionMatrix
from core.optim import build_optimiser
from core.steps import Method, SACStep, Source, Views
from datasets.views import affine, draw_views
from models import build, consistency, set_batchnorm
from models.sac import SAC
from tools.benchmarks.material import Settings
from tools.benchmarks.measure import Row, in_turns

CLASSES = 19
CPU = torch.device("cpu")


def method(views: int) -> Method:
    """The published constants."""
    return Method(views=views, lr_target=5.0, net_momentum=0.99, net_momentum_iter=100, stat_momentum=0.99,
                  fusion="avg_pool", upper=0.75, lower=0.2, beta=1e-3, discount=True, loss="focal_ce_conf_batch",
                  focal_p=3.0)


def sac_step(network: str, compute: Compute, views: int, layout: torch.memory_format) -> SACStep:
    """The step of a network with random weights, after its first iteration."""
    student, teacher = (build(network, CLASSES).to(compute.device, memory_format=layout) for _ in range(2))
    sac = SAC(student, teacher, CLASSES).to(compute.device)
    sac.update_teacher(0.99, 1e-3)
    optimiser = build_optimiser(student, "SGD", 1e-5, 0.9, False, 5e-4)
    return SACStep(sac, optimiser, compute, method(views))


def batch(sources: int, groups: int, views: int, size: tuple[int, int], device: torch.device) -> tuple[Source, Views]:
    """Random images, with the maps of views drawn as the published files have them."""
    rng = np.random.default_rng(0)
    drawn = [view for _ in range(groups) for view in draw_views(rng, views, size, (0.5, 1.0), True)]
    a, a_inv = (torch.from_numpy(np.stack(m)).to(device)
                for m in zip(*(affine(view, *size) for view in drawn), strict=True))
    images = torch.randn(sources + 2 * len(drawn), 3, *size).to(device, memory_format=torch.channels_last)
    source, noisy, clean = images.split((sources, len(drawn), len(drawn)))
    seeds = torch.zeros(sources + len(drawn), dtype=torch.int64)
    label = torch.randint(0, CLASSES, (sources, *size), device=device)
    padding = torch.zeros(len(drawn), *size, dtype=torch.bool, device=device)
    return Source(source, label, seeds[:sources]), Views(noisy, clean, padding, a, a_inv, seeds[sources:])


def networks_alone(step: SACStep, source: Source, views: Views) -> None:
    """Student forward and backward on all images, teacher forward on the views: nothing else."""
    set_batchnorm(step.network.train().backbone, False)
    step.compute.logits(step.student, torch.cat([source.image, views.noisy])).sum().backward()
    with torch.no_grad():
        step.compute.logits(step.teacher, views.clean)


def step_rows(settings: Settings) -> list[Row]:
    """The SAC step on the CPU against its networks alone, and in bfloat16 against float32."""
    size = (64, 128) if settings.quick else (256, 512)
    source, views = batch(2, 1, 2, size, CPU)
    fast = sac_step(settings.network, Compute(CPU, bfloat16=True), 2, torch.channels_last)
    plain = sac_step(settings.network, Compute(CPU, bfloat16=False), 2, torch.contiguous_format)
    contiguous = [type(part)(*(x.contiguous() for x in part)) for part in (source, views)]
    times = in_turns(partial(fast, source, views, 1), partial(networks_alone, fast, source, views),
                     partial(plain, *contiguous, 1), runs=settings.runs)
    what = f"2 source + 2 target crops of {size[0]}x{size[1]}, {settings.network}, bfloat16"
    return [
        Row("step", f"{what}; floor: the networks alone", times[0], times[1], 1.10),
        Row("step_float32", f"{what}; floor: the same in float32, contiguous", times[0], times[2], 1 / 2.3),
    ]


class Known(nn.Module):
    """A network whose logits [n,C,h,w] are known, whatever the image."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x: Tensor, seeds: Tensor | None = None) -> Tensor:
        """The logits."""
        return self.logits

    def new_modules(self) -> list[nn.Module]:
        """None."""
        return []


def known_logits(n: int, size: tuple[int, int]) -> Tensor:
    """Logits at stride 8 of a scene: areas of some 60 pixels with a class each, and noise."""
    areas = F.interpolate(4 * torch.randn(n, CLASSES, size[0] // 8 + 1, size[1] // 8 + 1), size=size, mode="bicubic")
    return areas + 0.3 * torch.randn(n, CLASSES, *size)


def refine_rows(settings: Settings) -> list[Row]:
    """The method's part of a step, on all cores and on one."""
    # The allocator keeps blocks up to the size of the largest that was freed, at most 32 MB. The networks of a step
    # have freed such; here it is done on purpose.
    del_me = torch.empty(2**23 - 2**16)
    del del_me
    rows, before = [], torch.get_num_threads()
    for threads in dict.fromkeys((before, 1)):
        torch.set_num_threads(threads)
        rows += _refine(settings, "" if threads == before else "_one_thread")
    torch.set_num_threads(before)
    return rows


def _refine(settings: Settings, name: str) -> list[Row]:
    """From probabilities to the loss; and all of it, from the networks' logits to the student's gradient."""
    crop = settings.crop
    small = (crop[0] // 8 + 1, crop[1] // 8 + 1)
    _, views = batch(1, 2, 4, crop, CPU)
    student, teacher = (Known(known_logits(8, small)) for _ in range(2))
    sac = SAC(student, teacher, CLASSES)
    sac.slow_init.fill_(1)
    sac.running_conf.fill_(0.05)
    step = SACStep(sac, build_optimiser(student, "SGD", 0.0, 0.9, False, 0.0), Compute(CPU, False), method(4))
    m = torch.stack([consistency.upsample(x[None], crop)[0].softmax(0) for x in teacher.logits.detach()])
    copied = torch.empty_like(m).zero_()

    def floor() -> None:
        for _ in range(10):
            copied.copy_(m)

    def everything() -> None:
        step.target_pass(views, step.label(views))

    times = in_turns(partial(from_fusion_to_loss, step, views, m), everything, floor, runs=settings.runs)
    parts = dict(from_fusion_to_loss(step, views, m).ms)
    what = f"8 views of {crop[0]}x{crop[1]}, {{}}, {torch.get_num_threads()} threads; floor: 10 copies of [8,19,H,W]"
    return [
        Row(f"refine{name}", what.format("from fusion to loss"), times[0], times[2], 2.0, parts),
        Row(f"refine_all{name}", what.format("from the logits at stride 8 to their gradient"), times[1], times[2]),
    ]


@torch.no_grad()
def from_fusion_to_loss(step: SACStep, views: Views, m: Tensor) -> Laps:
    """Sections 4.7 to 4.9 for 8 views whose probabilities m [8,C,H,W] are there: the loss, without gradient."""
    c, lap = step.constants, Laps()
    best = views.clean.new_empty(len(views.A), *views.padding.shape[1:])
    guess, merged = torch.empty_like(best, dtype=torch.uint8), best.new_empty(m.shape[1:])
    for start in range(0, len(m), c.views):
        image = slice(start, start + c.views)
        fused = consistency.fuse(m[image], views.padding[image], views.A[image], views.A_inv[image], c.fusion, merged)
        lap("fusion")
        best[image], guess[image] = consistency.confidence_in_views(*fused, views.A_inv[image])
        lap("confidence_in_views")
    chi = step.network.running_conf
    theta = consistency.thresholds(best, guess, consistency.discount(chi, c.beta), c.upper, c.lower)
    label = consistency.pseudo_labels(best, guess, theta, views.padding)
    weight = consistency.pixel_weight(best, c.loss)
    lap("labels_and_weights")
    consistency.focal_loss(step.student.logits.detach(), label, chi, c.focal_p, weight)
    lap("loss")
    return lap


def confusion_rows(settings: Settings) -> list[Row]:
    """A validation image's confusion matrix."""
    label = torch.randint(0, CLASSES, settings.crop, dtype=torch.uint8)
    prediction = torch.randint(0, CLASSES, settings.crop, dtype=torch.uint8)
    bins = torch.randint(0, CLASSES**2, (label.numel(),))
    matrix = ConfusionMatrix(CLASSES)

    def ten(function: partial) -> None:
        for _ in range(10):
            function()

    times = in_turns(partial(ten, partial(matrix.update, prediction, label)),
                     partial(ten, partial(torch.bincount, bins, minlength=CLASSES**2)), runs=settings.runs)
    what = f"a confusion matrix of {settings.crop[0]}x{settings.crop[1]}; floor: one bincount of that size"
    return [Row("confusion", what, times[0] / 10, times[1] / 10, 1.5)]
