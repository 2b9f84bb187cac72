"""Resizing as a product with a matrix, along one side: its gradient has a fixed order on every device.

Torch's own resizing has none on CUDA for most modes, and TRAIN.DETERMINISTIC refuses it there.
"""

import torch
from torch import Tensor


def stride_8(side: int, stride: int, n: int, device: torch.device) -> Tensor:
    """What brings a row of n features at `stride` to the logits of a side of so many pixels: [side//8+1,n].

    The first logit lies on the first pixel's centre and the last on the last one's, evenly between: where the
    upsampling with `align_corners=True` expects them. Feature k stands for the centre of its `stride` pixels.
    """
    pixels = torch.arange(side // 8 + 1, device=device) * ((side - 1) / (side // 8))
    return linear((pixels + 0.5) / stride - 0.5, n)


def linear(positions: Tensor, n: int) -> Tensor:
    """What interpolates a row of n values linearly at `positions` [m], clamped to 0 ... n-1: [m,n]."""
    cells = torch.arange(n, device=positions.device)
    positions = positions.clamp(min=0).minimum(cells[-1])
    return (1 - (positions[:, None] - cells).abs()).clamp(min=0)


def bicubic(m: int, n: int, device: torch.device) -> Tensor:
    """What resizes a row of n values to m as `F.interpolate` does, bicubic and antialiased: [m,n]."""
    ratio = torch.as_tensor(n / m, device=device)
    centres = (torch.arange(m, device=device) + 0.5) * ratio - 0.5
    t = (centres[:, None] - torch.arange(n, device=device)).abs() / ratio.clamp(min=1)
    near, far = (1.5 * t - 2.5) * t * t + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2
    weights = torch.where(t < 1, near, torch.where(t < 2, far, torch.zeros_like(t)))
    return weights / weights.sum(dim=1, keepdim=True)
