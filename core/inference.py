"""Predicts an image's mask: one pass, or a mean over scales, flips and windows (docs/method.md section 6)."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core import checkpoint
from core.cli import UserError
from core.compute import Compute
from datasets.transforms import normalise
from models import build
from models.consistency import classes, confidence, upsample

OVERLAP = 1 / 3  # of neighbouring windows
SMALLEST = 8  # pixels per side that every network accepts


def load_network(arch: str, num_classes: int, snapshot: str, teacher: bool = False, **options: Any) -> nn.Module:
    """A snapshot's student, or its teacher, in evaluation mode; arch and options as in `models.build`.

    Raises:
        UserError: the snapshot cannot be read, is of another network, or has no teacher.
    """
    model = checkpoint.load(snapshot)["model"]
    prefix = checkpoint.TEACHER if teacher else checkpoint.STUDENT
    weights = checkpoint.part(model, prefix)
    if teacher and not (weights and checkpoint.has_teacher(model)):
        raise UserError(f"{snapshot} has no teacher; omit --teacher, or use a snapshot of SAC")
    network = build(arch, num_classes, **options)
    checkpoint.load_into(network, weights, snapshot, options.get("encoder", arch))
    return network.eval()


@dataclass(frozen=True)
class Predictor:
    """A network and how it is applied to an image; the result depends on that image only.

    Args:
        network: in evaluation mode, on the device of `compute`.
        compute: device and precision.
        mean, std: of the network's input, as in training.
        scales: of the image, to average over.
        flip: also average with the mirrored image.
        window: (H, W) of the windows for larger images; None = always the whole image.
        watch: wraps the windows of an image, e.g. in a progress bar.
    """

    network: nn.Module
    compute: Compute
    mean: Sequence[float]
    std: Sequence[float]
    scales: Sequence[float] = (1.0,)
    flip: bool = False
    window: tuple[int, int] | None = None
    watch: Callable[[list[tuple[int, int]]], Iterable[tuple[int, int]]] = iter

    @torch.inference_mode()
    def __call__(self, image: Tensor, probabilities: bool = False) -> tuple[Tensor, Tensor | None]:
        """Segment an image, uint8 [H,W,3].

        Returns:
            classes uint8 [H,W]; probabilities float32 [C,H,W] if requested, else None.
        """
        x = normalise(image[None].to(self.compute.device), None, self.mean, self.std)  # [1,3,H,W]
        if probabilities or self.flip or list(self.scales) != [1.0] or self._windows(x):
            mean = self.probabilities(x)
            return confidence(mean[None])[1][0], mean if probabilities else None
        height, width = x.shape[2:]
        return classes(*self._stride_8(x))[0, :height, :width], None

    @torch.inference_mode()
    def probabilities(self, x: Tensor) -> Tensor:
        """Mean softmax over scales and flips of a normalised image [1,3,H,W] -> [C,H,W], float32."""
        size, total, looks = x.shape[2:], 0, 0
        for scale in self.scales:
            sides = size if scale == 1 else [max(SMALLEST, round(side * scale)) for side in size]
            scaled = _resized(x, sides, antialias=True)
            for mirrored in (False, True) if self.flip else (False,):
                look = self._sliding(scaled.flip(3)).flip(3) if mirrored else self._sliding(scaled)
                total, looks = total + _resized(look, size), looks + 1
        return total[0] / looks

    def logits(self, x: Tensor) -> Tensor:
        """Logits of a normalised image [1,3,H,W] at its own size -> [1,C,H,W], float32."""
        logits, size = self._stride_8(x)
        return upsample(logits, size)[:, :, : x.shape[2], : x.shape[3]]

    def _stride_8(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Logits [1,C,h,w] of [1,3,H,W], and the padded size.

        FCN-8s needs sides divisible by 32, VGG at least 8 pixels: zeros are added at the right and bottom.
        """
        multiple = self.network.multiple_of
        bottom, right = (max(SMALLEST - side, -side % multiple) for side in x.shape[2:])
        padded = F.pad(x, (0, right, 0, bottom))
        return self.compute.logits(self.network, padded), padded.shape[2:]

    def _sliding(self, x: Tensor) -> Tensor:
        """Probabilities [1,C,H,W] of x, the mean over all windows that cover a pixel."""
        corners = self._windows(x)
        if not corners:
            return self.logits(x).softmax(1)
        height, width = self.window
        total, seen = None, x.new_zeros(1, 1, *x.shape[2:])
        for top, left in self.watch(corners):
            part = (..., slice(top, top + height), slice(left, left + width))
            look = self.logits(x[part]).softmax(1)
            total = look.new_zeros(1, look.shape[1], *x.shape[2:]) if total is None else total
            total[part] += look
            seen[part] += 1
        return total / seen

    def _windows(self, x: Tensor) -> list[tuple[int, int]]:
        """Corners (top, left) of the windows over x; none if x fits into one."""
        if self.window is None or all(s <= w for s, w in zip(x.shape[2:], self.window, strict=True)):
            return []
        rows, columns = (list(_starts(s, w)) for s, w in zip(x.shape[2:], self.window, strict=True))
        return [(top, left) for top in rows for left in columns]


def _resized(x: Tensor, size: Sequence[int], antialias: bool = False) -> Tensor:
    """Resize [1,n,h,w] -> [1,n,H,W], bilinear; unchanged if it already has this size."""
    if list(x.shape[2:]) == list(size):
        return x
    return F.interpolate(x, size=list(size), mode="bilinear", align_corners=False, antialias=antialias)


def _starts(side: int, window: int) -> Iterator[int]:
    """Where windows start along a side: evenly spaced, overlapping by at least a third, the last one at the end."""
    if side <= window:
        yield 0
        return
    count = 1 - (-(side - window) // max(1, int(window * (1 - OVERLAP))))
    for i in range(count):
        yield round(i * (side - window) / (count - 1))
