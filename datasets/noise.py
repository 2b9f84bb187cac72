"""Photometric noise: blur, colour jitter, greyscale, on uint8 images (docs/method.md section 5, step 6).

The operations follow the definitions of Pillow and torchvision, computed with OpenCV: for the same factors, the mean
difference is below one grey level.
"""

from math import ceil
from typing import NamedTuple

import cv2
import numpy as np

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R 601-2, RGB
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # as torchvision's ColorJitter numbers them

# Pillow truncates where OpenCV rounds; slightly less than one half, so that whole numbers do not change.
TRUNCATE = -0.499


class Jitter(NamedTuple):
    """Factors of torchvision's ColorJitter."""

    order: tuple[int, ...]  # a permutation of BRIGHTNESS, CONTRAST, SATURATION, HUE
    brightness: float  # >= 0; 1 changes nothing
    contrast: float  # >= 0; 1 changes nothing
    saturation: float  # >= 0; 1 changes nothing
    hue: float  # -0.5 ... 0.5 turns of the colour circle


class Noise(NamedTuple):
    """The noise of one view: x̂ has it, x does not."""

    blur: float  # radius = standard deviation in pixels; 0 = none
    jitter: Jitter | None
    greyscale: bool


def draw_jitter(rng: np.random.Generator, strength: float, hue: float) -> Jitter | None:
    """With probability 1/2, draw factors U(max(0, 1-strength), 1+strength), hue U(-hue, hue) and an order.

    `strength` 0 means no jitter.
    """
    if strength == 0 or rng.random() >= 0.5:
        return None
    factors = rng.uniform(max(0.0, 1 - strength), 1 + strength, 3).tolist()
    return Jitter(tuple(rng.permutation(4).tolist()), *factors, hue=rng.uniform(-hue, hue))


def draw_noise(rng: np.random.Generator, blur: bool, jitter: float, greyscale: float) -> Noise:
    """Draw the noise of a view from RND_BLUR, RND_JITTER (hue at most 0.1) and RND_GREYSCALE (a probability)."""
    return Noise(
        rng.uniform(0.1, 2.0) if blur else 0.0,
        draw_jitter(rng, jitter, min(0.1, jitter)),
        bool(rng.random() < greyscale),
    )


def add_noise(image: np.ndarray, noise: Noise, out: np.ndarray) -> None:
    """Blur, jitter and convert to grey, in this order: x = `image` -> x̂ = `out`, both uint8 [H, W, 3]."""
    if noise.blur > 0:
        blur(image, noise.blur, out)
    else:
        out[...] = image
    if noise.jitter is not None:
        out[...] = jitter(out, noise.jitter)
    if noise.greyscale:
        out[...] = greyscale(out)


def blur(image: np.ndarray, radius: float, out: np.ndarray | None = None) -> np.ndarray:
    """Blur uint8 [H, W, 3] with a Gaussian of standard deviation `radius` in pixels; the border is replicated."""
    # OpenCV's default kernels for bytes extend to 3 standard deviations: slower, and no closer to Pillow's.
    side = 2 * ceil(2.5 * radius) + 1
    return cv2.GaussianBlur(image, (side, side), radius, dst=out, borderType=cv2.BORDER_REPLICATE)


def greyscale(image: np.ndarray) -> np.ndarray:
    """Three equal channels of luma, uint8 [H, W, 3]."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def jitter(image: np.ndarray, factors: Jitter, around: np.ndarray | None = None) -> np.ndarray:
    """Change brightness, contrast, saturation and hue of uint8 [H, W, 3] in the drawn order.

    Contrast is relative to the mean luma of the image at that point. If `image` is only a part, `around` is the whole
    (uint8 [h, w, 3], possibly a small copy) and goes through the same steps.
    """
    for step in factors.order:
        middle = 0.0
        if step == CONTRAST:
            middle = _mean_luma(image if around is None else around)
        image = _adjust(image, step, factors, middle)
        if around is not None:
            around = _adjust(around, step, factors, middle)
    return image


def _adjust(image: np.ndarray, step: int, factors: Jitter, middle: float) -> np.ndarray:
    """One step of the jitter: hue, or a blend f x + (1-f) y with black, the mean grey or the luma."""
    if step == HUE:
        return _turn_hue(image, factors.hue)
    factor = factors[1 + step]
    blend = np.zeros((3, 4))
    blend[:, :3] = factor * np.eye(3)
    blend[:, 3] = TRUNCATE
    if step == CONTRAST:
        blend[:, 3] += (1 - factor) * middle
    if step == SATURATION:
        blend[:, :3] += (1 - factor) * LUMA
    return cv2.transform(image, blend)


def _mean_luma(image: np.ndarray) -> float:
    """The mean luma, rounded as in Pillow."""
    return float(int(LUMA @ cv2.mean(image)[:3] + 0.5))


def _turn_hue(image: np.ndarray, turns: float) -> np.ndarray:
    """Turn the hue in HSV; uint8 arithmetic wraps around the circle."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    # OpenCV rounds hues to 1/256 of the circle, Pillow truncates them to 1/255: one step less comes closest.
    step = (int(255 * turns) - 1) % 256
    height, width = hsv.shape[:2]
    # Add to whole rows: NumPy is slow on every third byte.
    hsv.reshape(height, 3 * width)[...] += np.tile(np.array([step, 0, 0], np.uint8), width)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
