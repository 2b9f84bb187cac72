"""PNG files: detecting their kind, and writing masks."""

import struct
from pathlib import Path

import cv2
import numpy as np

from core.cli import UserError
from core.files import write_bytes
from datasets.images import MAX_PIXELS, SIGNATURE, inspect

GREY, RGB, PALETTE, RGBA = 0, 2, 3, 6  # colour types of PNGs
COLOUR_TYPES = {GREY: "grey", RGB: "RGB", PALETTE: "palette", 4: "grey with alpha", RGBA: "RGBA"}

# Unfiltered and run-length coded: for areas of one class, the fastest to write and read, and the smallest. OpenCV
# before 4.12 cannot choose filters; its default takes as long and a quarter more space.
ENCODING = [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE] if hasattr(cv2, "IMWRITE_PNG_FILTER") else []


def kind(content: bytes, path: str | Path) -> tuple[int, int]:
    """Bit depth and colour type of a PNG file's content, after checking that it is complete.

    Decoders print their own complaints to stderr, and some return half an image, so this comes first. It costs a
    hundredth of decoding.

    Raises:
        UserError: not a PNG, truncated, damaged, or too large.
    """
    if not content.startswith(SIGNATURE):
        raise UserError(f"{path} is not a PNG image")
    if found := inspect(content)[0]:
        raise UserError(f"{path} is {found}; get it again")
    width, height = struct.unpack_from(">II", content, 16)
    if width * height > MAX_PIXELS:
        raise UserError(f"{path} has {width}x{height} pixels, at most {MAX_PIXELS} are allowed; is it a label?")
    return content[24], content[25]


def write_mask(path: str | Path, mask: np.ndarray) -> None:
    """Write a mask, uint8 [H, W], as an 8-bit grey PNG, whole or not at all; UserError if the disk refuses."""
    write_bytes(path, cv2.imencode(".png", mask, ENCODING)[1].tobytes(), durable=False)
