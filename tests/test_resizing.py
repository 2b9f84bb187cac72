"""How far torch's resizing of bytes is from Pillow's, over many kinds of images and at the published sizes.

For pictures of your own: python tests/test_resizing.py FILE...
"""

import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets import transforms
from datasets.source import Augmentation
from datasets.transforms import resize, whole
from datasets.views import apply_shared, apply_view, draw_shared, draw_views
from tools.streets.render import render
from tools.streets.worlds import GAME, REAL

SIDES = (240, 320)
SCALES = [0.2, 0.25, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8, 0.9, 0.95, 1.05, 1.1, 1.2, 1.3, 1.5, 1.7, 2.0]
GTA, CITYSCAPES = (1046, 1914), (1024, 2048)


def pillows(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.array(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))


def noise(h: int, w: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (h, w, 3), np.uint8)


def extremes(h: int, w: int) -> np.ndarray:
    return noise(h, w) // 128 * 255


def gradient(h: int, w: int) -> np.ndarray:
    y, x = np.mgrid[:h, :w]
    return np.stack([255 * x / w, 255 * y / h, 255 * (x + y) / (w + h)], -1).astype(np.uint8)


def sawtooth(h: int, w: int) -> np.ndarray:
    y, x = np.mgrid[:h, :w]
    return np.stack([x * 7 % 256, y * 5 % 256, (x * 3 + y * 11) % 256], -1).astype(np.uint8)


def chessboard(h: int, w: int) -> np.ndarray:
    return np.repeat((np.add.outer(np.arange(h), np.arange(w)) % 2 * 255)[..., None], 3, -1).astype(np.uint8)


def smooth(h: int, w: int) -> np.ndarray:
    return np.array(Image.fromarray(noise(8, 12)).resize((w, h), Image.Resampling.BICUBIC))


def game_scene(h: int, w: int) -> np.ndarray:
    return render(GAME, w, h, np.random.default_rng(1))[0]


def real_scene(h: int, w: int) -> np.ndarray:
    return render(REAL, w, h, np.random.default_rng(2))[0]


KINDS = [noise, extremes, gradient, sawtooth, chessboard, smooth, game_scene, real_scene]
SCENES = (game_scene, real_scene)


def differences(work: Callable[[], np.ndarray]) -> np.ndarray:
    """Grey levels between what `work` makes with our resizing and with Pillow's."""
    ours = work()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transforms, "_bilinear", pillows)
        return np.abs(ours.astype(int) - work())


def at_all_scales(image: np.ndarray) -> Iterator[np.ndarray]:
    for scale in SCALES:
        size = tuple(max(1, int(scale * side)) for side in image.shape[:2])
        yield differences(lambda size=size: resize(whole(image), size).image)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_one_resize(kind: Callable) -> None:
    found = list(at_all_scales(kind(*SIDES)))
    shares = [(levels > 0).mean() for levels in found]
    assert max(levels.max() for levels in found) <= 2
    assert max((levels > 1).mean() for levels in found) < 1e-3
    assert np.mean(shares) < 0.03 and max(shares) < (0.08 if kind in SCENES else 0.16)


@cache
def sample(kind: Callable, size: tuple[int, int]) -> np.ndarray:
    return kind(*size)


@pytest.mark.parametrize("kind", [noise, game_scene, real_scene], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("crop", [(640, 640), (512, 1024)])
def test_the_published_source(kind: Callable, seed: int, crop: tuple[int, int]) -> None:
    """Made GTA5's one size, scaled, cropped."""
    augmentation = Augmentation(crop, (0.5, 2.0 if crop == (640, 640) else 1.0))
    params = augmentation.draw(np.random.default_rng(seed), (1052, 1914))
    frame = whole(sample(kind, GTA))
    levels = differences(lambda: augmentation.apply(resize(frame, (1052, 1914)), params).image)
    assert levels.max() <= 2 and (levels > 0).mean() < 0.025


@pytest.mark.parametrize("kind", [noise, real_scene], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("seed", range(2))
def test_the_published_views(kind: Callable, seed: int) -> None:
    """Halved, scaled by up to 1.1, cropped, zoomed by 0.5 to 1."""
    rng, size, frame = np.random.default_rng(seed), (512, 1024), whole(sample(kind, CITYSCAPES))
    shared, view = draw_shared(rng, size, (1.0, 1.1), True), draw_views(rng, 2, size, (0.5, 1.0), True)[1]
    levels = differences(lambda: apply_view(apply_shared(frame, shared), view).image)
    assert levels.max() <= 2 and (levels > 0).mean() < 0.025


def test_halving_is_exact() -> None:
    """As the target's images, and those that are validated, are halved."""
    assert differences(lambda: resize(whole(sample(noise, CITYSCAPES)), (512, 1024)).image).max() == 0


if __name__ == "__main__":
    pictures = [np.array(Image.open(name).convert("RGB")) for name in sys.argv[1:]]
    every = [levels for picture in pictures for levels in at_all_scales(picture)]
    parts = [(levels > 0).mean() for levels in every]
    largest = max(levels.max() for levels in every)
    print(f"{len(every)} resizes of {len(pictures)} pictures: {100 * np.mean(parts):.2f} % of the values differ, "
          f"at worst {100 * max(parts):.2f} %, by at most {largest} grey levels")
