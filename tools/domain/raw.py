"""Labels as encoded by a data set: raw IDs or colours, and the look-up tables to train IDs."""

from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from core.cli import UserError
from core.files import read_bytes
from datasets import images, labels
from datasets.labels import LabelSet
from tools.batch import png
from tools.domain.domains import ENCODED


def read_raw(path: Path, encoding: str, origin: str = "--dataset") -> np.ndarray:
    """Raw IDs of a label, uint8 [H,W]; for RGB labels, colours as numbers 0xRRGGBB, int32 [H,W].

    Raises:
        UserError: the file does not have this encoding, which `origin` specifies.
    """
    kinds, words = ENCODED[encoding]
    content = read_bytes(path)
    depth, colour = png.kind(content, path)
    if (depth, colour) not in kinds:
        found = f"{depth}-bit {png.COLOUR_TYPES.get(colour, 'unknown')} PNG"
        raise UserError(f"{path} is a {found}, expected {words}; is {origin} right?")
    if colour == png.PALETTE:
        return read_indices(content, path)
    pixels = images.decode(content, path, cv2.IMREAD_UNCHANGED)
    if encoding == "red16":
        red = cv2.extractChannel(pixels, 2)  # OpenCV: BGR
        if red.max() > 255:
            raise UserError(f"{path} has the class {red.max()} in its red channel, more than 255; is {origin} right?")
        return red.astype(np.uint8)
    return pixels[..., :3] @ np.array([1, 1 << 8, 1 << 16], np.int32) if encoding == "rgb" else pixels


def read_indices(content: bytes, path: Path) -> np.ndarray:
    """The indices of a palette PNG, whatever its colours, uint8 [H,W]."""
    try:
        return np.asarray(ImageOps.exif_transpose(Image.open(BytesIO(content))))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be decoded ({error}); get it again") from None


def to_train(classes: LabelSet, encoding: str) -> np.ndarray:
    """Look-up table from values of `read_raw` to train IDs, uint8 [256 or 2**24]."""
    if encoding != "rgb":
        return classes.to_train()
    table = np.full(1 << 24, labels.IGNORE, np.uint8)
    for (red, green, blue), train in classes.colour_to_train.items():
        table[red << 16 | green << 8 | blue] = train
    return table
