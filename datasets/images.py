"""Image and label files: reading them, and what may be wrong with them."""

from pathlib import Path

import cv2
import numpy as np

from core import png
from core.cli import UserError
from datasets.labels import IGNORE
from datasets.lists import Sample

# The loader's worker processes are the parallelism: OpenCV's own threads would only compete with them, and a
# pool of threads does not survive the fork that makes a worker.
cv2.setNumThreads(0)
# What is wrong with a file is said once, by DataError. (The function moved in OpenCV 5.)
(cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel)(0)


class DataError(UserError):
    """A UserError about one sample; it begins with the path of the file, and a colon.

    All is in the message: of a worker's exception torch hands on no more than that.
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
    """Read an image: uint8 [H, W, 3], RGB, whatever the file's depth and colours; EXIF's rotation is ignored.

    Raises:
        DataError: the file is missing, empty, truncated, damaged or no image.
    """
    return _decode(path, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)


def read_label(path: str | Path, num_classes: int | None = None) -> np.ndarray:
    """Read a single-channel label: uint8 [H, W], train IDs; with `num_classes`, 0 ... C-1 and 255 alone.

    Raises:
        DataError: as `read_image`; also for a palette, colour or 16-bit file, an ID outside the label set.
    """
    label = _decode(path, cv2.IMREAD_UNCHANGED)
    if label.ndim != 2 or label.dtype != np.uint8:
        raise DataError(
            f"{path}: not a train-ID label, which has one channel of 8 bits and no palette; "
            "make them with tools/convert_train_ids.py"
        )
    if num_classes is not None and num_classes < IGNORE:
        outside = cv2.inRange(label, num_classes, IGNORE - 1)
        if cv2.countNonZero(outside):
            raise DataError(
                f"{path}: label {label[outside > 0][0]} is no train ID (0..{num_classes - 1} or {IGNORE}); "
                "make train IDs with tools/convert_train_ids.py"
            )
    return label


def read_pair(
    root: str | Path, sample: Sample, num_classes: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Read a sample's image (uint8 [H, W, 3]) and label (uint8 [H, W]), which must be of one size.

    Raises:
        DataError: as `read_image` and `read_label`; also for a sample without a label and for two sizes.
    """
    if sample.label is None:
        raise DataError(f"{sample.image}: the list gives no label for it; its lines must be 'image label'")
    image_path, label_path = Path(root, sample.image), Path(root, sample.label)
    image, label = read_image(image_path), read_label(label_path, num_classes)
    if image.shape[:2] != label.shape:
        raise DataError(
            f"{image_path}: it is {image.shape[1]}x{image.shape[0]} but its label {label_path} is "
            f"{label.shape[1]}x{label.shape[0]}; they must be of one size"
        )
    return image, label


def _decode(path: str | Path, flags: int) -> np.ndarray:
    """Read the file once and decode it from memory, which tells a missing file from a damaged one."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror}; check the path, or the list and the root it comes from"
        ) from error
    if not data:
        raise DataError(f"{path}: the file is empty; replace it")
    # libpng would complain on stderr in words of its own: it only gets files that are whole.
    if data.startswith(png.SIGNATURE) and (problem := png.problem(data)):
        raise DataError(f"{path}: a PNG file that is {problem}; replace it")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise DataError(f"{path}: cannot be decoded ({error.err}); replace it") from error
    if pixels is None:
        raise DataError(f"{path}: not an image, or a damaged one; replace it")
    return pixels
