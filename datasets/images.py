"""Image files: reads them upright, reports what is wrong with them, inspects PNG files."""

import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, TiffImagePlugin, WebPImagePlugin  # noqa: F401 (Pillow opens formats that are imported)

from core.cli import UserError
from datasets.labels import IGNORE
from datasets.lists import Sample

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")  # of images
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
MAX_PIXELS = 2**28  # 16384 x 16384; more is a mistake or an attack, and would take gigabytes per loader process

SIGNATURE = b"\x89PNG\r\n\x1a\n"

# The loader's workers already run in parallel: OpenCV's own threads would only compete with them, and a thread
# pool does not survive the fork that creates a worker.
cv2.setNumThreads(0)
# Only DataError reports what is wrong with a file. (The function moved in OpenCV 5.)
(cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel)(0)
warnings.filterwarnings("ignore", module="PIL")
Image.MAX_IMAGE_PIXELS = None  # MAX_PIXELS applies instead


class DataError(UserError):
    """A UserError about one sample; it starts with the path of the file and a colon.

    The message contains everything, since torch passes on nothing else from a worker's exception.
    """

    @property
    def path(self) -> str:
        """The file that cannot be used."""
        return str(self).partition(": ")[0]

    @property
    def reason(self) -> str:
        """What is wrong with it."""
        return str(self).partition(": ")[2]


def read_image(path: str | Path) -> np.ndarray:
    """Read an image of any bit depth and colour type: uint8 [H, W, 3], RGB, upright.

    Transparency is dropped; of an animation or several pages, the first is read.

    Raises:
        DataError: the file is missing, empty, truncated, damaged, too large or not an image.
    """
    return _read(path, cv2.IMREAD_COLOR_RGB)


def read_label(path: str | Path, num_classes: int | None = None) -> np.ndarray:
    """Read a single-channel label: uint8 [H, W], train IDs; with `num_classes`, only 0 ... C-1 and 255.

    Raises:
        DataError: as `read_image`; also for a palette, colour or 16-bit file, or an ID outside the label set.
    """
    label = _read(path, cv2.IMREAD_UNCHANGED)
    if label.ndim != 2 or label.dtype != np.uint8:
        raise DataError(
            f"{path}: not a train-ID label, which has one channel, 8 bits and no palette; "
            "make train IDs with tools/convert_train_ids.py"
        )
    if num_classes is not None and num_classes < IGNORE:
        outside = cv2.inRange(label, num_classes, IGNORE - 1)
        if cv2.countNonZero(outside):
            raise DataError(
                f"{path}: label {label[outside > 0][0]} is not a train ID (0..{num_classes - 1} or {IGNORE}); "
                "make train IDs with tools/convert_train_ids.py"
            )
    return label


def read_pair(root: str | Path, sample: Sample, num_classes: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Read a sample's image (uint8 [H, W, 3]) and label (uint8 [H, W]), which must have the same size.

    Raises:
        DataError: as `read_image` and `read_label`; also for a sample without a label and for different sizes.
    """
    if sample.label is None:
        raise DataError(f"{sample.image}: the list gives no label for it; its lines must be 'image label'")
    image_path, label_path = Path(root, sample.image), Path(root, sample.label)
    image, label = read_image(image_path), read_label(label_path, num_classes)
    if image.shape[:2] != label.shape:
        raise DataError(
            f"{image_path}: it is {image.shape[1]}x{image.shape[0]} but its label {label_path} is "
            f"{label.shape[1]}x{label.shape[0]}; they must have the same size"
        )
    return image, label


def _read(path: str | Path, flags: int) -> np.ndarray:
    """Read the file once and decode it from memory, to distinguish a missing file from a damaged one."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror}; check the path, or the list and the root it comes from"
        ) from error
    if not data:
        raise DataError(f"{path}: the file is empty; replace it")
    return decode(data, path, flags)


def decode(data: bytes, path: str | Path, flags: int) -> np.ndarray:
    """Decode the content of an image file, upright; uint8 or uint16 [H, W] or [H, W, 3 or 4] as OpenCV's `flags` say.

    Raises:
        DataError: the content is not an image of FORMATS, is damaged, or has more than MAX_PIXELS.
    """
    form, (width, height), orientation = _header(data, path)
    if width * height > MAX_PIXELS:
        raise DataError(f"{path}: {width}x{height} pixels, at most {MAX_PIXELS} are allowed; scale it down or split it")
    try:
        # OpenCV finds the orientation in fewer files, and which ones differs between versions.
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise DataError(f"{path}: cannot be decoded ({error.err}); replace it") from error
    if pixels is None:
        raise DataError(f"{path}: cannot be decoded ({form}): it is damaged, or of an unsupported kind; "
                        "replace it, or save it as an 8-bit PNG or JPEG")
    return upright(pixels, orientation)


def _header(data: bytes, path: str | Path) -> tuple[str, tuple[int, int], int]:
    """What a file says about itself before it is decoded: format in words, (width, height), EXIF orientation.

    Raises:
        DataError: an incomplete PNG file, or not a file of FORMATS.
    """
    if data.startswith(SIGNATURE):
        # libpng would print its own errors to stderr: it only gets intact files.
        found, exif = inspect(data)
        if found:
            raise DataError(f"{path}: a PNG file that is {found}; replace it")
        if not exif:
            return "PNG", struct.unpack_from(">II", data, 16), 1
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            # OpenCV rotates TIFF files itself, whatever its flags.
            orientation = 1 if image.format == "TIFF" else _orientation(image)
            return f"{image.format}, mode {image.mode}", image.size, orientation
    except Exception as error:  # arbitrary bytes may make Pillow raise anything
        raise DataError(
            f"{path}: not an image, or a damaged one (supported: {', '.join(FORMATS)}); replace it"
        ) from error


def _orientation(image: Image.Image) -> int:
    """EXIF orientation of an open file, 1 ... 8."""
    try:
        found = image.getexif().get(0x0112)
    except Exception:  # invalid EXIF data is ignored, as by other programs
        return 1
    return int(found) if found in range(1, 9) else 1


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn the pixels [H, W, ...] of a file upright; `orientation` as in EXIF, 1 ... 8."""
    if orientation > 4:
        pixels = cv2.transpose(pixels)
    axis = (None, 1, -1, 0)[(orientation - 1) % 4]  # of OpenCV's flip: columns, both, rows
    return pixels if axis is None else cv2.flip(pixels, axis)


def inspect(content: bytes) -> tuple[str, bool]:
    """What is wrong with the chunks of a PNG file's content ("" = nothing), and whether one of them is EXIF."""
    start, view, exif = len(SIGNATURE), memoryview(content), False
    if content[12:16] != b"IHDR":
        return "damaged (no header)", exif
    while start + 12 <= len(content):
        length, name = struct.unpack_from(">I4s", content, start)
        end = start + 8 + length
        if end + 4 > len(content):
            break
        if zlib.crc32(view[start + 4 : end]) != struct.unpack_from(">I", content, end)[0]:
            return "damaged (wrong checksum)", exif
        if name == b"IEND":
            return "", exif
        # The latter as ImageMagick wrote it before PNG had a chunk for it.
        exif |= name == b"eXIf" or content[start + 8 : start + 29] == b"Raw profile type exif"
        start = end + 4
    return "truncated", exif
