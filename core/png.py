"""Label files as PNGs: what kind a file is and whether it is whole; writing masks."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np

from core.cli import UserError
from core.files import write_bytes

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE = 0, 2, 3  # colour types
COLOUR_TYPES = {GREY: "grey", RGB: "RGB", PALETTE: "palette", 4: "grey with alpha", 6: "RGBA"}

# Unfiltered and run-length coded: for areas of one class the fastest to write and to read, and the smallest
# file. OpenCV before 4.12 knows no filters; its default takes as long and a quarter more space.
ENCODING = [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE] if hasattr(cv2, "IMWRITE_PNG_FILTER") else []


def kind(content: bytes, path: str | Path) -> tuple[int, int]:
    """Bit depth and colour type of a PNG file's content, after checking that it is whole.

    Decoders complain on stderr in words of their own, and some return half of an image, so this comes first.
    It costs a hundredth of decoding.

    Raises:
        UserError: no PNG, truncated, or damaged.
    """
    if content[:8] != SIGNATURE or content[12:16] != b"IHDR":
        raise UserError(f"{path} is not a PNG image")
    if found := problem(content):
        raise UserError(f"{path} is {found}; get it again")
    return content[24], content[25]


def problem(content: bytes) -> str:
    """What the chunks of a PNG file's content tell: "truncated", "damaged (wrong checksum)", or "" for a whole one."""
    start, view = len(SIGNATURE), memoryview(content)
    while start + 12 <= len(content):
        length, name = struct.unpack_from(">I4s", content, start)
        end = start + 8 + length
        if end + 4 > len(content):
            break
        if zlib.crc32(view[start + 4 : end]) != struct.unpack_from(">I", content, end)[0]:
            return "damaged (wrong checksum)"
        if name == b"IEND":
            return ""
        start = end + 4
    return "truncated"


def write_mask(path: str | Path, mask: np.ndarray) -> None:
    """Write a mask, uint8 [H,W], as an 8-bit grey PNG, whole or not at all; UserError if the disk refuses."""
    write_bytes(path, cv2.imencode(".png", mask, ENCODING)[1].tobytes(), durable=False)
