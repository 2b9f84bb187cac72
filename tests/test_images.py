"""Image and label files: what is read from them, and what is said about those that cannot be used."""

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from core.cli import UserError
from datasets.images import DataError, read_image, read_label


def write(path: Path, pixels: np.ndarray, mode: str | None = None) -> None:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)


def png(pixels: np.ndarray, kind: str = ".png") -> bytes:
    return cv2.imencode(kind, pixels)[1].tobytes()


COLOURS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
UNUSABLE = {
    "empty": b"",
    "text": b"this is no image\n" * 20,
    "zeros": bytes(500),
    "half a PNG": png(COLOURS)[:3000],
    "PNG without its end": png(COLOURS)[:-12],
    "PNG of some bytes": png(COLOURS)[:20],
    "half a JPEG": png(COLOURS, ".jpg")[:1500],
    "half a BMP": png(COLOURS, ".bmp")[:1500],
}


@pytest.mark.parametrize("read", [read_image, read_label])
@pytest.mark.parametrize("content", UNUSABLE.values(), ids=UNUSABLE)
def test_unusable_files(tmp_path, capfd, content, read):
    path = tmp_path / "file.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match="file.png: ") as error:
        read(path)
    assert "\n" not in str(error.value)
    # The libraries keep their own opinions to themselves.
    assert capfd.readouterr() == ("", "")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(UserError, match="none.png: No such file or directory; check"):
        read_image(tmp_path / "none.png")
    with pytest.raises(UserError, match="Is a directory"):
        read_image(tmp_path)


@pytest.mark.parametrize("place", [20, 40, 3000, -10, -14], ids=["header", "size", "pixels", "end", "checksum"])
def test_damaged_inside(tmp_path, capfd, place):
    content = bytearray(png(COLOURS))
    content[place] ^= 255
    (tmp_path / "file.png").write_bytes(content)
    with pytest.raises(UserError, match=r"file.png: a PNG file that is (damaged|truncated)"):
        read_image(tmp_path / "file.png")
    assert capfd.readouterr() == ("", "")  # libpng has words of its own for a bad checksum


@pytest.mark.parametrize(
    "mode, suffix", [("L", "png"), ("RGBA", "png"), ("P", "png"), ("CMYK", "jpg"), ("1", "png")]
)
def test_images_of_any_kind_become_rgb(tmp_path, mode, suffix):
    path = tmp_path / f"image.{suffix}"
    smooth = cv2.resize(COLOURS[:4, :6], (60, 40))
    write(path, smooth, mode)
    ours = read_image(path)
    expected = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert ours.dtype == np.uint8
    # Two decoders of JPEG's inks need not agree to the last bit.
    assert np.abs(ours - expected).max() <= (0 if suffix == "png" else 3)


def test_sixteen_bits_become_eight(tmp_path):
    write(tmp_path / "image.png", (COLOURS[..., 0].astype(np.uint16) << 8) + 77)
    np.testing.assert_array_equal(read_image(tmp_path / "image.png"), COLOURS[..., :1].repeat(3, 2))


LABEL = np.arange(12, dtype=np.uint8).reshape(3, 4)


@pytest.mark.parametrize(
    "pixels, mode",
    [(LABEL, "P"), (LABEL, "RGB"), (LABEL, "LA"), (LABEL.astype(np.uint16), None)],
    ids=["palette", "colours", "transparency", "16 bits"],
)
def test_files_that_are_no_labels(tmp_path, pixels, mode):
    write(tmp_path / "label.png", pixels, mode)
    with pytest.raises(UserError, match=r"label.png: not a train-ID label.*convert_train_ids"):
        read_label(tmp_path / "label.png")


def test_ids_outside_of_the_label_set(tmp_path):
    write(tmp_path / "label.png", LABEL)
    np.testing.assert_array_equal(read_label(tmp_path / "label.png", 12), LABEL)
    with pytest.raises(UserError, match=r"label.png: label 11 is no train ID \(0..10 or 255\)"):
        read_label(tmp_path / "label.png", 11)
    write(tmp_path / "label.png", np.array([[0, 255, 10]], np.uint8))
    assert read_label(tmp_path / "label.png", 11).tolist() == [[0, 255, 10]]


def test_the_message_survives_pickling():
    error = pickle.loads(pickle.dumps(DataError("file.png: it is empty")))
    assert type(error) is DataError and str(error) == "file.png: it is empty"
