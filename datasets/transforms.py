"""Geometry of training images, as pure functions of a Frame and previously drawn parameters; normalisation.

A frame's image, label and padding mask always move together. Section numbers are those of docs/method.md.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from datasets.labels import IGNORE

Size = tuple[int, int]  # (height, width)


class Frame(NamedTuple):
    """An image with its label and padding mask."""

    image: np.ndarray  # uint8 [H, W, 3], RGB
    label: np.ndarray | None  # uint8 [H, W], train IDs, 255 = ignored; None = no label
    padding: np.ndarray  # bool [H, W], true outside the image

    @property
    def size(self) -> Size:
        """Height and width in pixels."""
        return self.image.shape[:2]


class Window(NamedTuple):
    """A rectangle of a frame in pixels; parts outside the frame are padding."""

    top: int
    left: int
    height: int
    width: int

    def mirrored(self, width: int) -> "Window":
        """The position of the window in an image of `width` pixels before the image is flipped.

        Cropping it and flipping the (small) crop equals flipping the image and cropping `self`.
        """
        return self._replace(left=width - self.left - self.width)


def whole(image: np.ndarray, label: np.ndarray | None = None) -> Frame:
    """A frame of an image as read from its file, without padding."""
    return Frame(image, label, np.zeros(image.shape[:2], bool))


def draw_size(rng: np.random.Generator, size: Size, scale: tuple[float, float]) -> Size:
    """Scale `size` by s ~ U(scale): (int(s H), int(s W)), at least one pixel."""
    s = rng.uniform(*scale)
    return max(1, int(s * size[0])), max(1, int(s * size[1]))


def draw_window(rng: np.random.Generator, size: Size, crop_size: Size) -> Window:
    """Draw a random crop of an image of `size`; a side that is too short is centred in it (section 5)."""
    top, left = (
        int(rng.integers(0, side - crop, endpoint=True)) if side >= crop else -((crop - side) // 2)
        for side, crop in zip(size, crop_size, strict=True)
    )
    return Window(top, left, *crop_size)


def centre_window(size: Size, crop_size: Size) -> Window:
    """The centre crop of an image of `size`, rounded as in torchvision (section 6); it may exceed the image."""
    top, left = (
        round((side - crop) / 2) if side >= crop else -((crop - side) // 2)
        for side, crop in zip(size, crop_size, strict=True)
    )
    return Window(top, left, *crop_size)


def resize(frame: Frame, size: Size) -> Frame:
    """Resize the image with antialiased bilinear interpolation, label and padding by nearest neighbour (section 5)."""
    if frame.size == size:
        return frame
    label = None if frame.label is None else _nearest(frame.label, size)
    if frame.padding.any():
        padding = _nearest(frame.padding.view(np.uint8), size).view(bool)
    else:
        padding = np.zeros(size, bool)
    return Frame(_bilinear(frame.image, size), label, padding)


def crop(frame: Frame, window: Window) -> Frame:
    """Cut out a window. Outside the frame: image 0, label 255, padding true. It may share memory with the frame."""
    label = None if frame.label is None else _cut(frame.label, window, IGNORE)
    return Frame(_cut(frame.image, window, 0), label, _cut(frame.padding, window, True))


def flip(frame: Frame) -> Frame:
    """Mirror the frame from left to right; the result shares no memory with it."""
    label = None if frame.label is None else cv2.flip(frame.label, 1)
    return Frame(cv2.flip(frame.image, 1), label, cv2.flip(frame.padding.view(np.uint8), 1).view(bool))


def normalise(image: Tensor, padding: Tensor | None, mean: Sequence, std: Sequence) -> Tensor:
    """Normalise a batch on its device: (image / 255 - mean) / std, exactly 0 where there is padding.

    Args:
        image: uint8 [B, H, W, 3].
        padding: bool [B, H, W], or None if there is no padding.
        mean: [3] per channel, in 0..1; or [B][3], one for each image.
        std: likewise.

    Returns:
        float32 [B, 3, H, W], channels-last in memory.
    """
    # Do not wait for the device, as a blocking copy of these few numbers would.
    scaled = (torch.tensor([mean, std]) * 255).to(image.device, non_blocking=True)
    centre, deviation = scaled.view(2, -1, 3, 1, 1)  # [1 or B, 3, 1, 1] each
    batch = image.permute(0, 3, 1, 2).float().sub_(centre).div_(deviation)  # [B, 3, H, W]
    return batch if padding is None else batch.masked_fill_(padding[:, None], 0.0)


def renormalised(
    mean: Sequence[float], std: Sequence[float], source_mean: Sequence[float], source_std: Sequence[float],
    target_mean: Sequence[float], target_std: Sequence[float],
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation that map the source's statistics to the target's (RENORM_SOURCE, section 6)."""
    centre = [
        m_s - d_s / d_t * (m_t - m)
        for m, m_s, d_s, m_t, d_t in zip(mean, source_mean, source_std, target_mean, target_std, strict=True)
    ]
    return centre, [d_s * d / d_t for d, d_s, d_t in zip(std, source_std, target_std, strict=True)]


def _bilinear(image: np.ndarray, size: Size) -> np.ndarray:
    """Resize uint8 [h, w, 3] to [H, W, 3] like Pillow's BILINEAR, within one grey level, rarely two.

    torch's vectorised uint8 code, which needs a channels-last batch, takes a third to a seventh of Pillow's time.
    Pillow can compute only the part that a crop keeps (`box`), which pays off from a scale of 1.5, but its box is
    float32 and so further from a crop of the resized image than torch's result.
    """
    batch = torch.from_numpy(np.ascontiguousarray(image))[None].permute(0, 3, 1, 2)  # [1, 3, h, w]
    batch = F.interpolate(batch, size=size, mode="bilinear", antialias=True)
    return np.ascontiguousarray(batch[0].permute(1, 2, 0).numpy())


def _nearest(plane: np.ndarray, size: Size) -> np.ndarray:
    """Resize uint8 [h, w] to [H, W] with Pillow: pixel i is taken from floor((i + 0.5) h / H)."""
    return np.array(Image.fromarray(plane).resize(size[::-1], Image.Resampling.NEAREST))


def _cut(plane: np.ndarray, window: Window, fill: int) -> np.ndarray:
    """Cut a window out of [h, w, ...], with `fill` outside the plane."""
    height, width = plane.shape[:2]
    y0, y1 = np.clip((window.top, window.top + window.height), 0, height).tolist()
    x0, x1 = np.clip((window.left, window.left + window.width), 0, width).tolist()
    if (y1 - y0, x1 - x0) == window[2:]:
        return plane[y0:y1, x0:x1]
    cut = np.full(window[2:] + plane.shape[2:], fill, plane.dtype)
    cut[y0 - window.top : y1 - window.top, x0 - window.left : x1 - window.left] = plane[y0:y1, x0:x1]
    return cut
