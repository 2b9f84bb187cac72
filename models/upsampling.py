"""Logits at stride 8 looked at in the image's size: probabilities, classes, cross-entropy, a few rows at a time.

Upsampling is bilinear with `align_corners=True` (docs/method.md section 2), so a class's picture is U_y L U_xᵀ with
two matrices of two entries a row. Everything of the size [C,H,W] exists in blocks of a few rows only: on the CPU these
stay in the cache, where most of the time would otherwise go into memory; on a GPU a block is the whole picture.
"""

from collections.abc import Iterator
from functools import lru_cache
from math import log
from typing import Any

import torch
from torch import Tensor

ROWS, COLUMNS = 16, 128  # worked on at a time on the CPU; 16 rows of 1024 pixels are 1.2 MB of 19 classes


def blocks(start: int, stop: int, device: torch.device, step: int = ROWS) -> Iterator[slice]:
    """The rows (or columns) start ... stop-1 in the blocks that are worked on at a time."""
    step = step if device.type == "cpu" else max(1, stop - start)
    return (slice(first, min(first + step, stop)) for first in range(start, stop, step))


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _matrix(small: int, large: int, device: torch.device) -> Tensor:
    """U [large,small]: row i holds the weights of the pixels that output i lies between."""
    position = torch.arange(large, dtype=torch.float64) * ((small - 1) / max(1, large - 1))
    distance = (position[:, None] - torch.arange(small)).abs()
    return (1 - distance).clamp(min=0).float().to(device)


def _near(part: slice, small: int, large: int) -> slice:
    """The pixels of a side of `small` that these of `large` lie between: where U's rows `part` are not 0."""
    step = (small - 1) / max(1, large - 1)
    return slice(int(part.start * step), min(small, int((part.stop - 1) * step) + 2))


class Upsampled:
    """The picture [C,H,W] of logits [C,h,w], of which only the rows asked for are made."""

    def __init__(self, logits: Tensor, size: tuple[int, int]) -> None:
        self.small, self.size = logits.shape[1:], size
        self.u_y, self.u_x = (_matrix(*sides, logits.device) for sides in zip(self.small, size, strict=True))
        lines = logits.transpose(0, 1)  # [h,C,w]: then a few rows of the picture are one product of matrices
        wide = [lines[..., near] @ self.u_x[part, near].T for part, near in self._columns()]
        self.wide = torch.cat(wide, dim=2)  # [h,C,W]
        most = next(blocks(0, size[0], logits.device)).stop
        self.memory = self.wide.new_empty(most, self.wide[0].numel())  # [r,CW]

    def _columns(self) -> Iterator[tuple[slice, slice]]:
        """All columns, in blocks, and those of the logits that they lie between."""
        for part in blocks(0, self.size[1], self.u_x.device, COLUMNS):
            yield part, _near(part, self.small[1], self.size[1])

    def rows(self, part: slice) -> Tensor:
        """A block of the picture's rows: [C,r,W], to be changed at will, overwritten by the next block.

        A row's classes lie together in memory.
        """
        near = _near(part, self.small[0], self.size[0])
        lines = self.memory[: part.stop - part.start]
        torch.mm(self.u_y[part, near], self.wide[near].flatten(1), out=lines)
        return lines.view(len(lines), *self.wide.shape[1:]).transpose(0, 1)  # [C,r,W]

    def add_gradient(self, wide: Tensor, gradient: Tensor, part: slice) -> None:
        """Add the gradient [C,r,W] of some rows, in memory as `rows` has it, to that of `self.wide`, `wide` [h,C,W]."""
        near = _near(part, self.small[0], self.size[0])
        wide[near].flatten(1).addmm_(self.u_y[part, near].T, gradient.transpose(0, 1).flatten(1))

    def gradient(self, wide: Tensor) -> Tensor:
        """The gradient of the logits [C,h,w] from that of `self.wide`."""
        total = wide.new_zeros(*wide.shape[:2], self.small[1])  # [h,C,w]
        for part, near in self._columns():
            total[..., near] += wide[..., part] @ self.u_x[part, near]
        return total.transpose(0, 1)


def probabilities(logits: Tensor, size: tuple[int, int], out: Tensor) -> Tensor:
    """Softmax of the upsampled logits [C,h,w] into `out` [C,H,W], float32."""
    picture = Upsampled(logits / log(2), size)
    for rows in blocks(0, size[0], logits.device):
        x = picture.rows(rows)
        # 2^x, of logits divided by ln 2: the CPU takes a third of e^x's time.
        torch.exp2(x.sub_(x.amax(dim=0)), out=x)
        torch.div(x, x.sum(dim=0), out=out[:, rows])
    return out


def classes(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """The likeliest class of every pixel: logits [B,C,h,w] -> uint8 [B,H,W]."""
    label = torch.empty(len(logits), *size, dtype=torch.uint8, device=logits.device)
    for one, own in zip(logits, label, strict=True):
        picture = Upsampled(one, size)
        for rows in blocks(0, size[0], logits.device):
            own[rows] = highest(picture.rows(rows))[1]
    return label


def highest(x: Tensor, blockwise: bool = False) -> tuple[Tensor, Tensor]:
    """Maximum of x [C,...] over the classes and the first class that has it: x's type and uint8, [...].

    A maximum alone is many times faster on the CPU than one with its place. `blockwise`: x [C,H,W] is whole.
    """
    if blockwise:
        parts = zip(*(highest(x[:, rows]) for rows in blocks(0, x.shape[1], x.device)), strict=True)
        best, label = (torch.cat(part) for part in parts)
        return best, label
    best = x.amax(dim=0)
    has_it = torch.eq(x, best, out=torch.empty_like(x))  # 1.0 or 0.0
    behind = torch.arange(len(x) - 1, -1, -1, device=x.device, dtype=x.dtype)  # [C], classes behind each
    place = has_it.mul_(behind.view(-1, *[1] * best.dim())).amax(dim=0)
    return best, (len(x) - 1 - place).to(torch.uint8)


def cross_entropy(logits: Tensor, label: Tensor, class_weight: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean over all pixels of the upsampled logits' cross-entropy, weighted by class and by pixel.

    Args:
        logits: [n,C,h,w] float32, with or without gradient.
        label: any integer type [n,H,W]; 0 ... C-1, and 255 for pixels that count with 0.
        class_weight: [C].
        weight: [n,H,W] or [1,H,W], for every picture; None = 1.

    Returns:
        A scalar.
    """
    by_label = class_weight.new_zeros(256)
    by_label[: len(class_weight)] = class_weight
    return _CrossEntropy.apply(logits.float(), label, by_label, weight)


class _CrossEntropy(torch.autograd.Function):
    """`cross_entropy`, with the weight of all 256 labels; the gradient comes with the loss, so that nothing is kept."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, label: Tensor, by_label: Tensor, weight: Tensor | None) -> Tensor:
        loss, gradient = logits.new_zeros(()), torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        for i, (one, labels) in enumerate(zip(logits, label, strict=True)):
            picture = Upsampled(one / log(2), label.shape[1:])
            wide = None if gradient is None else torch.zeros_like(picture.wide)
            for rows in blocks(0, label.shape[1], logits.device):
                index = labels[rows].long()  # [r,W]
                w = by_label.index_select(0, index.flatten()).view_as(index)
                if weight is not None:
                    w *= weight[i % len(weight), rows]
                index.clamp_(max=logits.shape[1] - 1)  # what is ignored has w = 0
                x = picture.rows(rows)  # [C,r,W], in base 2 as in `probabilities`
                of_label = x.sub_(x.amax(dim=0)).gather(0, index[None])[0]
                total = x.exp2_().sum(dim=0)
                loss += ((total.log2() - of_label) * w).sum()
                if wide is None:
                    continue
                x.mul_(w / total).scatter_add_(0, index[None], -w[None])
                picture.add_gradient(wide, x, rows)
            if gradient is not None:
                gradient[i] = picture.gradient(wide)
        if gradient is not None:
            ctx.save_for_backward(gradient.div_(label.numel()))
        return loss * (log(2) / label.numel())

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.saved_tensors[0] * outer, None, None, None
