"""Resizing along one side as a matrix product, whose gradient is deterministic on every device.

Torch's own resizing is not deterministic on CUDA for most modes, and TRAIN.DETERMINISTIC rejects it there.
"""

import torch
from torch import Tensor


def stride_8(side: int, stride: int, n: int, device: torch.device) -> Tensor:
    """The matrix [side//8+1,n] from a row of n features at `stride` to the logits of a side of `side` pixels.

    The logits are spaced evenly from the first pixel's centre to the last one's, where upsampling with
    `align_corners=True` expects them. Feature k is at the centre of its `stride` pixels.
    """
    pixels = torch.arange(side // 8 + 1, device=device) * ((side - 1) / (side // 8))
    return linear((pixels + 0.5) / stride - 0.5, n)


def linear(positions: Tensor, n: int) -> Tensor:
    """The matrix [m,n] that interpolates a row of n values linearly at `positions` [m], clamped to 0 ... n-1."""
    cells = torch.arange(n, device=positions.device)
    positions = positions.clamp(min=0).minimum(cells[-1])
    return (1 - (positions[:, None] - cells).abs()).clamp(min=0)


def bicubic(m: int, n: int, device: torch.device) -> Tensor:
    """The matrix [m,n] that resizes a row of n values to m like `F.interpolate`, bicubic and antialiased."""
    ratio = torch.as_tensor(n / m, device=device)
    centres = (torch.arange(m, device=device) + 0.5) * ratio - 0.5
    t = (centres[:, None] - torch.arange(n, device=device)).abs() / ratio.clamp(min=1)
    near, far = (1.5 * t - 2.5) * t * t + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2
    weights = torch.where(t < 1, near, torch.where(t < 2, far, torch.zeros_like(t)))
    return weights / weights.sum(dim=1, keepdim=True)
