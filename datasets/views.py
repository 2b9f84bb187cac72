"""Views of a target image: parameters, the views themselves, the maps A and A⁻¹ (docs/method.md section 5)."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from datasets.transforms import Frame, Size, Window, crop, draw_size, draw_window, flip, resize


class SharedParams(NamedTuple):
    """What all views of an image have in common: steps 2 and 3."""

    size: Size  # after the scaling s0
    window: Window  # the crop, in the scaled image
    flip: bool


@dataclass(frozen=True)
class ViewParams:
    """The geometry of one view relative to the reference frame of its image: steps 4 and 5."""

    flip: int = 1  # -1: mirrored
    dy: float = 0.0  # the crop's centre minus the image's, in pixels
    dx: float = 0.0
    scale: float = 1.0  # s: < 1 enlarges a part; > 1 shrinks the image and pads it

    def window(self, height: int, width: int) -> Window:
        """The part that the view shows of the (mirrored) image of this size: int(s H) x int(s W) pixels."""
        h, w = max(1, int(self.scale * height)), max(1, int(self.scale * width))
        return Window(round(self.dy + (height - h) / 2), round(self.dx + (width - w) / 2), h, w)


def draw_shared(
    rng: np.random.Generator, crop_size: Size, target_scale: tuple[float, float], hflip: bool
) -> SharedParams:
    """Draw s0 ~ U(target_scale), a random crop and, with probability 1/2, a flip of all views."""
    size = draw_size(rng, crop_size, target_scale)
    return SharedParams(size, draw_window(rng, size, crop_size), hflip and bool(rng.random() < 0.5))


def apply_shared(frame: Frame, params: SharedParams) -> Frame:
    """Steps 1 to 3: from an image as read from its file to the reference frame, of the crop's size."""
    frame = resize(resize(frame, params.window[2:]), params.size)
    frame = crop(frame, params.window)
    return flip(frame) if params.flip else frame


def draw_views(
    rng: np.random.Generator, count: int, size: Size, zoom: tuple[float, float], guided_hflip: bool
) -> list[ViewParams]:
    """Draw T = `count` views of an image of `size`: flips for all of them, zooms for all but view 0."""
    flips = [-1 if guided_hflip and rng.random() < 0.5 else 1 for _ in range(count)]
    views = [ViewParams(flips[0])]
    for flip_ in flips[1:]:
        views.append(_draw_zoom(rng, flip_, size, zoom))
    return views


def _draw_zoom(rng: np.random.Generator, flip_: int, size: Size, zoom: tuple[float, float]) -> ViewParams:
    """Draw s ~ U(zoom), and the position of the crop or of the image in its padding; equal bounds mean no zoom."""
    if zoom[0] == zoom[1]:  # released code: whatever their value
        return ViewParams(flip_)
    scale = rng.uniform(*zoom)
    offsets = []
    for side in size:
        spare = side - max(1, int(scale * side))  # negative where s > 1
        start = int(rng.integers(min(0, spare), max(0, spare), endpoint=True))
        offsets.append(start - spare / 2)
    return ViewParams(flip_, *offsets, scale=scale)


def apply_view(frame: Frame, params: ViewParams) -> Frame:
    """One view of a reference frame, without noise: x. It may share memory with the frame."""
    height, width = frame.size
    window = params.window(height, width)
    if params.flip > 0:
        return resize(crop(frame, window), frame.size)
    # It is cheaper to mirror the crop.
    return resize(flip(crop(frame, window.mirrored(width))), frame.size)


def affine(params: ViewParams, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The maps between the reference frame and a view of `height` x `width`.

    Returns:
        A: float32 [2, 3], which maps reference coordinates to the view's, and A⁻¹: float32 [2, 3]. Coordinates are
        (x, y, 1) from -1 to 1, as for `affine_grid`. A uses the exact 1/s although the crop has int(s H) x
        int(s W) pixels, and half-sides are rounded down to whole numbers (released code: both).
    """
    x, y = params.dx / (width // 2), params.dy / (height // 2)
    s, flip_ = params.scale, params.flip
    forward = np.array([[flip_ / s, 0, -x / s], [0, 1 / s, -y / s]], np.float32)
    inverse = np.array([[flip_ * s, 0, flip_ * x], [0, s, y]], np.float32)
    return forward, inverse
