"""A training step against its networks alone, the method's part of a step, and a confusion matrix."""

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode

from core import build
from core.compute import Compute, Source, Views
from core.metrics import ConfusionMatrix
from core.steps import SACStep, descend
from datasets import view_policy
from datasets.views import affine
from models import consistency
from models.sac import SAC
from tools.benchmarks.material import Settings, published
from tools.benchmarks.measure import Row, in_turns

CLASSES = 19
CPU = torch.device("cpu")
# Number of arrays [8,C,H,W] that the plain operations write and read. Fusion: masked, warped, times v, warped back,
# times valid. Loss: upsampled, log-softmax.
FUSION_AND_LOSS = 7
# Upsampled, softmax; the gradients of the picked log-probabilities and of the log-softmax.
REST = 4


def sac_step(cfg: CfgNode, compute: Compute) -> SACStep:
    """A configuration's step with random weights and an initialised teacher."""
    step = build.step(cfg, compute, CLASSES, "")
    step.network.update_teacher(step.constants.net_momentum, step.constants.beta)
    return step


def batch(cfg: CfgNode, device: torch.device) -> tuple[Source, Views]:
    """Random images for an iteration, with views drawn as configured."""
    rng, size, n = np.random.default_rng(0), cfg.DATASET.CROP_SIZE, cfg.TRAIN.BATCH_SIZE
    drawn = [view for i in range(cfg.TRAIN.NUM_GROUPS) for view in view_policy(cfg).draw(rng, i).views]
    a, a_inv = (torch.from_numpy(np.stack(m)).to(device)
                for m in zip(*(affine(view, *size) for view in drawn), strict=True))
    images = torch.randn(n + 2 * len(drawn), 3, *size).to(device, memory_format=torch.channels_last)
    source, noisy, clean = images.split((n, len(drawn), len(drawn)))
    seeds = torch.arange(n + len(drawn))
    label = torch.randint(0, CLASSES, (n, *size), dtype=torch.uint8, device=device)
    padding = torch.zeros(len(drawn), *size, dtype=torch.bool, device=device)
    return Source(source, label, seeds[:n], n), Views(noisy, clean, padding, a, a_inv, seeds[n:], len(drawn))


def networks_alone(step: SACStep, source: Source, views: Views) -> None:
    """Only what the networks do in a step, in the same order and with the same micro-batches."""

    def loss_of(image: Tensor, seeds: Tensor, part: slice) -> Tensor:
        return step.compute.logits(step.called, image[part], seeds[part]).sum()

    step.network.train()
    step.optimiser.zero_grad(set_to_none=True)
    descend(step.compute, partial(loss_of, source.image, source.seeds), step.compute.slices(source.total), source.total)
    with torch.no_grad():
        step.teach(views.clean)
    descend(step.compute, partial(loss_of, views.noisy, views.seeds), step.compute.slices(views.total), views.total)


def step_rows(settings: Settings) -> list[Row]:
    """The SAC step on the CPU against its networks alone, in bfloat16 if the CPU supports it, else in float32."""
    size = (64, 128) if settings.quick else (256, 512)
    cfg = published(settings, "DATASET.CROP_SIZE", str(list(size)), "TRAIN.BATCH_SIZE", "2", "TRAIN.NUM_GROUPS", "1",
                    "TRAIN.GROUP_SIZE", "2", "MODEL.LR", "1e-5")
    source, views = batch(cfg, CPU)
    bfloat16 = torch.cpu._is_avx512_bf16_supported()
    step = sac_step(cfg, Compute(CPU, bfloat16))
    functions = [partial(step, source, views, 1), partial(networks_alone, step, source, views)]
    if bfloat16:
        plain = sac_step(cfg, Compute(CPU, False))
        plain.network.to(memory_format=torch.contiguous_format)
        contiguous = views._replace(noisy=views.noisy.contiguous(), clean=views.clean.contiguous())
        functions.append(partial(plain, source._replace(image=source.image.contiguous()), contiguous, 1))
    taken, floor, *compared = in_turns(*functions, runs=settings.runs)
    what = (f"2 source + 2 target crops of {size[0]}x{size[1]}, {settings.network}, "
            f"{'bfloat16' if bfloat16 else 'float32'}")
    rows = [Row("step", f"{what}; floor: the networks alone", taken, floor, 1.15)]
    return rows + [Row("step_float32", f"{what}; compared with: the same in float32, contiguous", taken, x, 1 / 2.3)
                   for x in compared]


class Known(nn.Module):
    """A network that returns given logits [n,C,h,w], whatever the image."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x: Tensor, seeds: Tensor | None = None) -> Tensor:
        """The logits."""
        return self.logits


def known_logits(n: int, size: tuple[int, int]) -> Tensor:
    """Scene-like logits at stride 8: areas of some 60 pixels with one class each, plus noise."""
    areas = F.interpolate(4 * torch.randn(n, CLASSES, size[0] // 8 + 1, size[1] // 8 + 1), size=size, mode="bicubic")
    return areas + 0.3 * torch.randn(n, CLASSES, *size)


def refine_rows(settings: Settings) -> list[Row]:
    """The method's part of a step: from fusion to loss, and in full, from the logits to the student's gradient."""
    cfg, crop = published(settings), settings.crop
    _, views = batch(cfg, CPU)
    n, small = len(views.clean), (crop[0] // 8 + 1, crop[1] // 8 + 1)
    student, teacher = (Known(known_logits(n, small)) for _ in range(2))
    optimiser = torch.optim.SGD(student.parameters())
    step = SACStep(SAC(student, teacher, CLASSES), optimiser, Compute(CPU, False), build.constants(cfg))
    step.class_prior.fill_(0.05)
    m = consistency.upsample(teacher.logits, crop).softmax(dim=1)
    times = in_turns(partial(from_fusion_to_loss, step, views, m),
                     lambda: step.descend_target(views, step.label(views, learn=False), step.constants.lr_target),
                     m.clone, runs=settings.runs)
    parts = (("refine", "from fusion to loss", times[0], FUSION_AND_LOSS),
             ("refine_all", "from the logits to the student's gradient", times[1], FUSION_AND_LOSS + REST))
    what = f"{n} views of {crop[0]}x{crop[1]}, {{}}; floor: {{}} copies of [{n},{CLASSES},H,W]"
    return [Row(name, what.format(part, copies), taken, copies * times[2]) for name, part, taken, copies in parts]


@torch.no_grad()
def from_fusion_to_loss(step: SACStep, views: Views, m: Tensor) -> Tensor:
    """Sections 4.7 to 4.9 for views with given probabilities m [n,C,H,W]: the loss, without gradient."""
    c, chi = step.constants, step.class_prior
    fused = [consistency.confidence(consistency.fuse_views(*image, c.fusion))
             for image in zip(*(x.split(c.views) for x in (m, views.padding, views.A, views.A_inv)), strict=True)]
    best, guess = (torch.cat(parts) for parts in zip(*fused, strict=True))
    theta = consistency.thresholds(best, guess, consistency.discount(chi, c.beta), c.upper, c.lower)
    label, w = consistency.pseudo_labels(best, guess, theta, views.padding), consistency.pixel_weight(best, c.loss)
    return consistency.focal_loss(step.student.logits, label, chi, c.focal_p, w)


def confusion_rows(settings: Settings) -> list[Row]:
    """The confusion matrix of a validation image."""
    label, prediction = torch.randint(0, CLASSES, (2, *settings.crop), dtype=torch.uint8)
    bins = torch.randint(0, CLASSES**2, (label.numel(),), dtype=torch.int16)
    matrix = ConfusionMatrix(CLASSES)

    def ten(function: partial) -> None:
        for _ in range(10):
            function()

    times = in_turns(partial(ten, partial(matrix.update, prediction, label)),
                     partial(ten, partial(torch.bincount, bins, minlength=CLASSES**2)), runs=settings.runs)
    what = f"a confusion matrix of {settings.crop[0]}x{settings.crop[1]}; floor: one bincount of that size"
    return [Row("confusion", what, times[0] / 10, times[1] / 10, 1.5)]
