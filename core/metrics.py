"""Pixel counts by class, and by true and predicted class, with IoU and related metrics."""

import math
from collections.abc import Collection, Iterable

import cv2
import numpy as np
import torch
from torch import Tensor

from core import distributed


def class_counts(mask: np.ndarray) -> np.ndarray:
    """Number of pixels with each value, int64 [256], in a mask, uint8 [H,W]."""
    # Counting pairs of neighbours takes two thirds of the time of counting single pixels.
    flat = mask.reshape(-1)
    even = flat.size // 2 * 2
    pairs = _joint_counts([flat[:even].reshape(1, -1, 2)])
    return pairs.sum(0) + pairs.sum(1) + np.bincount(flat[even:], minlength=256)


def without(counts: np.ndarray, classes: Iterable[int]) -> np.ndarray:
    """Pixels by label, int64 [256], where some classes are ignored: they count as 255."""
    ignored, left = sorted(set(classes)), counts.copy()
    left[ignored] = 0
    left[255] += counts[ignored].sum()
    return left


def pair_counts(label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Number of pixels with each pair of values, int64 [256,256], in two masks, uint8 [H,W]; row = label."""
    return _joint_counts([label.reshape(1, -1), prediction.reshape(1, -1)])


def _joint_counts(channels: list[np.ndarray]) -> np.ndarray:
    """Counts of the pairs of values in two channels, int64 [256,256]; channels: two uint8 [1,n], or one [1,n,2]."""
    # OpenCV's float32 counts are exact only up to 2^24, hence the parts.
    counts = np.zeros((256, 256), np.int64)
    for start in range(0, channels[0].shape[1], 2**24):
        part = [np.ascontiguousarray(channel[:, start : start + 2**24]) for channel in channels]
        counts += cv2.calcHist(part, [0, 1], None, [256, 256], [0, 256, 0, 256]).astype(np.int64)
    return counts


class ConfusionMatrix:
    """Counts pixels by true and predicted class, exactly (int64), on the device where they are.

    A pixel whose label is not a class (255, or anything outside 0 ... C-1) does not count. If its label is a class but
    its prediction is not, it is a miss: it counts against that class, and against no other.
    """

    def __init__(self, num_classes: int, device: str | torch.device = "cpu") -> None:
        self.num_classes = num_classes
        # [C,C+1]: row = truth, column = prediction, the last column = predicted as no class
        self.table = torch.zeros(num_classes, num_classes + 1, dtype=torch.int64, device=device)

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Count the pixels of a batch.

        Args:
            prediction: classes, any integer type, any shape.
            label: true classes, any integer type, of the same shape.
        """
        if prediction.shape != label.shape:
            raise ValueError(f"prediction {tuple(prediction.shape)} and label {tuple(label.shape)} differ")
        bins = self.num_classes + 1  # the last is for what is not a class, so no pixels need to be selected
        dtype = torch.int16 if bins**2 <= 2**15 else torch.int32  # the smallest that holds a number for each pair
        pairs = self._bin(label, dtype).mul_(bins).add_(self._bin(prediction, dtype))
        self.table += torch.bincount(pairs.flatten(), minlength=bins**2).view(bins, bins)[:-1]

    def _bin(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """A new tensor: `x` where it is a class, else C."""
        c = self.num_classes
        if x.dtype == torch.uint8:
            return x.to(dtype).clamp_(max=c)
        return x.long().where((x >= 0) & (x < c), c).to(dtype)

    def reduce(self) -> None:
        """Sum over all processes."""
        self.table = distributed.total(self.table)

    @property
    def counts(self) -> Tensor:
        """Pixels by true (row) and predicted (column) class, int64 [C,C]."""
        return self.table[:, : self.num_classes]

    def iou(self) -> list[float | None]:
        """Intersection over union, tp / (tp + fp + fn), of each class; None if it does not occur."""
        hits, missed, wrong = self._outcomes()
        return _ratios(hits, hits + missed + wrong)

    def precision(self) -> list[float | None]:
        """Precision, tp / (tp + fp), of each class; None if it is never predicted."""
        hits, _, wrong = self._outcomes()
        return _ratios(hits, hits + wrong)

    def recall(self) -> list[float | None]:
        """Recall, tp / (tp + fn), of each class; None if no label has it."""
        hits, missed, _ = self._outcomes()
        return _ratios(hits, hits + missed)

    def miou(self, ignore: Collection[int] = ()) -> float:
        """Mean IoU over the classes that occur and are not in `ignore`; NaN if there are none."""
        values = [v for c, v in enumerate(self.iou()) if v is not None and c not in ignore]
        return math.fsum(values) / len(values) if values else math.nan

    def accuracy(self) -> float:
        """Share of labelled pixels that are predicted correctly; NaN if there are none."""
        total = int(self.table.sum())
        return int(self.counts.diagonal().sum()) / total if total else math.nan

    def _outcomes(self) -> tuple[Tensor, Tensor, Tensor]:
        """True positives, false negatives and false positives of each class, int64 [C] on the CPU."""
        table = self.table.cpu()
        hits = table.diagonal()
        return hits, table.sum(1) - hits, table[:, : self.num_classes].sum(0) - hits


def _ratios(part: Tensor, whole: Tensor) -> list[float | None]:
    return [p / w if w else None for p, w in zip(part.tolist(), whole.tolist(), strict=True)]
