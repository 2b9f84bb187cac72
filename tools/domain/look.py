"""Inspect the files of a data set: sizes and colours of the images, kinds and values of the labels."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from core.cli import UserError
from core.files import read_bytes
from datasets import images
from tools.batch import png
from tools.batch.threads import parallel_map
from tools.domain.domains import ENCODED
from tools.domain.raw import read_raw

MOST_COLOURS = 254  # in the labels


class Images(NamedTuple):
    """The images of a domain."""

    sizes: np.ndarray  # int [N,2], height and width
    mean: list[float]  # of all pixels, as fractions of 255
    std: list[float]


class Values(NamedTuple):
    """The labels of a domain."""

    encoding: str
    pixels: Counter[int]  # raw ID, or colour 0xRRGGBB -> number of pixels
    sizes: np.ndarray  # int [N,2]


def moments(image: np.ndarray) -> np.ndarray:
    """Number of pixels, sums and sums of squares of an image's channels, float64 [3,3]."""
    mean, std = (x[:, 0] for x in cv2.meanStdDev(image))  # exact enough: float64 over one image
    return np.stack([np.ones(3), mean, std**2 + mean**2]) * (image.shape[0] * image.shape[1])


def mean_std(total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation, as fractions of 255, of the sum of `moments`; float64 [3] each."""
    mean = total[1] / total[0]
    return mean / 255, np.sqrt(np.maximum(total[2] / total[0] - mean**2, 0)) / 255


def at_images(paths: Sequence[Path], workers: int, what: str) -> Images:
    """Sizes and statistics of images; UserError if one cannot be read."""

    def look(path: Path) -> tuple[tuple[int, int], np.ndarray]:
        image = images.read_image(path)
        return image.shape[:2], moments(image)

    seen = list(parallel_map(look, paths, workers, what))
    mean, std = mean_std(sum(m for _, m in seen))
    return Images(np.array([size for size, _ in seen]), mean.tolist(), std.tolist())


def at_labels(paths: Sequence[Path], workers: int, what: str) -> Values:
    """Encoding and values of labels; UserError if they are of several kinds, or cannot be labels."""
    kinds = {encoding: path for path in reversed(paths) for encoding in [encoding_of(path)]}
    if set(kinds) == {"raw_ids", "palette"}:
        kinds.pop("raw_ids")  # the reader of palettes takes both
    if len(kinds) > 1:
        one, other = list(kinds)[:2]
        raise UserError(f"{kinds[one]} is {ENCODED[one][1]}, {kinds[other]} is {ENCODED[other][1]}: expected labels of "
                        "one kind; see --label-ending")
    (encoding,) = kinds

    def look(path: Path) -> tuple[tuple[int, int], Counter[int]]:
        raw = read_raw(path, encoding)
        values, pixels = np.unique(raw, return_counts=True)
        if len(values) > MOST_COLOURS + 1:
            raise UserError(f"{path} has {len(values)} colours: is it a photo, or a label that was scaled or blended?")
        return raw.shape, Counter(dict(zip(values.tolist(), pixels.tolist(), strict=True)))

    seen = list(parallel_map(look, paths, workers, what))
    total: Counter[int] = Counter()
    for _, pixels in seen:
        total.update(pixels)
    if len(total) > MOST_COLOURS:
        raise UserError(f"the labels have {len(total)} values, but at most {MOST_COLOURS} classes are possible; are "
                        "they labels?")
    return Values(encoding, total, np.array([size for size, _ in seen]))


def encoding_of(path: Path) -> str:
    """A label's encoding, according to its header."""
    kind = png.kind(read_bytes(path), path)
    for encoding in ("raw_ids", "palette", "rgb", "red16"):
        if kind in ENCODED[encoding][0]:
            return encoding
    found = f"{kind[0]}-bit {png.COLOUR_TYPES.get(kind[1], 'unknown')} PNG"
    raise UserError(f"{path} is a {found}: expected 8-bit grey or palette, or RGB of 8 or 16 bits")
