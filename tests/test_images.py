"""Image and label files: what is read from them, and what is said about those that cannot be used."""

import io
import pickle
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from core.cli import UserError
from datasets import images
from datasets.images import DataError, read_image, read_label
from tools.batch.png import kind


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


# --- EXIF: files whose pixels lie in each of the eight ways, and show one scene

TURN = Image.Transpose
STORED = dict(enumerate((None, TURN.FLIP_LEFT_RIGHT, TURN.ROTATE_180, TURN.FLIP_TOP_BOTTOM, TURN.TRANSPOSE,
                         TURN.ROTATE_90, TURN.TRANSVERSE, TURN.ROTATE_270), 1))  # fmt: skip
SCENE = cv2.resize(np.random.default_rng(1).integers(0, 256, (4, 6, 3), np.uint8), (96, 64))
KINDS = {
    "jpg": ("RGB", "L", "CMYK"), "png": ("RGB", "L", "P", "RGBA", "LA", "I;16"), "webp": ("RGB", "RGBA"),
    "tif": ("RGB", "L", "P", "RGBA", "CMYK", "I;16"),
}  # fmt: skip


def scene(mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(SCENE[..., 0].astype(np.uint16) * 256 + 7)
    return Image.fromarray(SCENE) if mode == "RGB" else Image.fromarray(SCENE).convert(mode)


def exif(orientation: object, order: str = "II") -> bytes:
    """EXIF with nothing but an orientation, little (II) or big (MM) endian."""
    e = "<" if order == "II" else ">"
    entry = struct.pack(e + "HHIHH", 0x0112, 3, 1, orientation, 0)
    return order.encode() + struct.pack(e + "HIH", 42, 8, 1) + entry + bytes(4)


def save(path: Path, orientation: int, mode: str = "RGB") -> None:
    """The scene as a camera would store it that was held so."""
    image, options = scene(mode), {"lossless": True} if path.suffix == ".webp" else {}
    stored = image.transpose(STORED[orientation]) if orientation > 1 else image
    tags = Image.Exif()
    tags[0x0112] = orientation
    stored.save(path, exif=tags, **options)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix, mode", [(suffix, mode) for suffix, modes in KINDS.items() for mode in modes])
def test_images_are_read_upright(tmp_path: Path, suffix: str, mode: str, orientation: int) -> None:
    save(tmp_path / f"image.{suffix}", orientation, mode)
    expected = SCENE[..., :1].repeat(3, 2) if mode == "I;16" else np.asarray(scene(mode).convert("RGB"))
    ours = read_image(tmp_path / f"image.{suffix}")
    assert ours.shape == expected.shape and ours.flags.c_contiguous
    assert np.abs(ours - expected.astype(int)).mean() < (4 if suffix == "jpg" else 0.5)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_labels_are_read_upright(tmp_path: Path, suffix: str, orientation: int) -> None:
    save(tmp_path / f"label.{suffix}", orientation, "L")
    np.testing.assert_array_equal(read_label(tmp_path / f"label.{suffix}"), np.asarray(scene("L")))


def app1(content: bytes) -> bytes:
    return b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content


def chunk(name: bytes, content: bytes) -> bytes:
    body = name + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def placed(suffix: str, extra: bytes, end: bool = False) -> bytes:
    """The scene as it lies under orientation 6, with bytes after its header, or before its last chunk."""
    file = io.BytesIO()
    scene("RGB").transpose(TURN.ROTATE_90).save(file, suffix)
    content, at = file.getvalue(), {"JPEG": 2, "PNG": 33}[suffix]
    at = len(content) - 12 if end else at
    return content[:at] + extra + content[at:]


def raw_profile() -> bytes:
    info, text = PngImagePlugin.PngInfo(), b"Exif\0\0" + exif(6)
    info.add_text("Raw profile type exif", f"\nexif\n{len(text):8}\n{text.hex()}\n", zip=True)
    file = io.BytesIO()
    scene("RGB").transpose(TURN.ROTATE_90).save(file, "PNG", pnginfo=info)
    return file.getvalue()


XMP = app1(b"http://ns.adobe.com/xap/1.0/\0<x/>")
ELSEWHERE = {
    "JPEG, big endian": placed("JPEG", app1(b"Exif\0\0" + exif(6, "MM"))),
    "JPEG, XMP first": placed("JPEG", XMP + app1(b"Exif\0\0" + exif(6))),
    "JPEG, XMP last": placed("JPEG", app1(b"Exif\0\0" + exif(6, "MM")) + XMP),
    "PNG, big endian": placed("PNG", chunk(b"eXIf", exif(6, "MM"))),
    "PNG, after the pixels": placed("PNG", chunk(b"eXIf", exif(6)), end=True),
    "PNG, of ImageMagick": raw_profile(),
}


@pytest.mark.parametrize("content", ELSEWHERE.values(), ids=ELSEWHERE)
def test_exif_wherever_it_stands(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "image").write_bytes(content)
    ours = read_image(tmp_path / "image")
    assert ours.shape == SCENE.shape and np.abs(ours - SCENE.astype(int)).mean() < 4


NOTHING = {
    "an orientation of 9": exif(9), "of 0": exif(0), "of 65535": exif(65535), "cut off": exif(6)[:9],
    "no EXIF": b"what is this?", "a directory outside": b"II*\0\xff\xff\xff\x7f", "empty": b"",
    "an orientation in words": b"II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x02\0\0\0six\0" + bytes(4),
}  # fmt: skip


@pytest.mark.parametrize("content", NOTHING.values(), ids=NOTHING)
@pytest.mark.parametrize("suffix", ["JPEG", "PNG"])
def test_exif_that_says_nothing(tmp_path: Path, suffix: str, content: bytes) -> None:
    extra = app1(b"Exif\0\0" + content) if suffix == "JPEG" else chunk(b"eXIf", content)
    (tmp_path / "image").write_bytes(placed(suffix, extra))
    assert read_image(tmp_path / "image").shape == (*SCENE.shape[1::-1], 3)  # as it lies


def test_pillow_keeps_its_warnings_to_itself(tmp_path: Path) -> None:
    (tmp_path / "image.jpg").write_bytes(placed("JPEG", app1(b"Exif\0\0" + NOTHING["a directory outside"])))
    code = "import sys; from datasets.images import read_image; read_image(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "image.jpg")], capture_output=True, text=True,
                          cwd=Path(__file__).parents[1])  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_a_png_without_exif_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "image.png", COLOURS)
    monkeypatch.setattr(images.Image, "open", None)  # nobody else looks at it
    np.testing.assert_array_equal(read_image(tmp_path / "image.png"), COLOURS)


# --- kinds of files that only look like pictures, or are too much of one


def gif(path: Path) -> None:
    Image.fromarray(COLOURS).save(path, "GIF", save_all=True, append_images=[Image.fromarray(255 - COLOURS)])


def promise(kind: str, width: int = 30_000, height: int = 30_000) -> bytes:
    """A file of a few bytes whose header promises gigabytes."""
    if kind == "PNG":
        head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        pixels = chunk(b"IDAT", zlib.compress(b"\0" * 10))
        return images.SIGNATURE + chunk(b"IHDR", head) + pixels + chunk(b"IEND", b"")
    file = io.BytesIO()
    Image.new("RGB", (513, 257)).save(file, kind)
    content = bytearray(file.getvalue())
    if kind == "BMP":
        struct.pack_into("<ii", content, 18, width, height)
    elif kind == "JPEG":
        struct.pack_into(">HH", content, content.index(b"\xff\xc0") + 5, height, width)
    else:
        for place, value in ((0x100, width), (0x101, height)):
            tag = content.index(struct.pack("<HH", place, 4), 8)
            struct.pack_into("<I", content, tag + 8, value)
    return bytes(content)


FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "an animated GIF": (gif, "not an image, or a damaged one .supported: PNG, JPEG, BMP, TIFF, WEBP"),
    "floats": (lambda p: Image.fromarray(COLOURS[..., 0] / np.float32(255)).save(p, "TIFF"), "mode F"),
    "NaN": (lambda p: Image.fromarray(np.full((4, 5), np.nan, np.float32)).save(p, "TIFF"), "mode F"),
    "32-bit integers": (lambda p: Image.fromarray(COLOURS[..., 0].astype(np.int32)).save(p, "TIFF"), "mode I"),
    **{f"a bomb, {kind}": (lambda p, kind=kind: p.write_bytes(promise(kind)), "30000x30000 pixels, at most")
       for kind in ("PNG", "JPEG", "BMP", "TIFF")},
}  # fmt: skip


@pytest.mark.parametrize("read", [read_image, read_label])
@pytest.mark.parametrize("kind", FOREIGN)
def test_files_that_are_not_read(tmp_path: Path, capfd: pytest.CaptureFixture, kind: str, read: Callable) -> None:
    make, words = FOREIGN[kind]
    make(tmp_path / "file")
    if read is read_label and "mode" in words:
        words = "not a train-ID label"
    with pytest.raises(DataError, match=f"file: .*{words}.*; ") as error:
        read(tmp_path / "file")
    assert "\n" not in str(error.value) and capfd.readouterr() == ("", "")


def test_a_raw_label_that_promises_gigabytes() -> None:
    with pytest.raises(UserError, match=r"^a\.png has 30000x30000 pixels"):
        kind(promise("PNG"), "a.png")


@pytest.mark.parametrize("suffix", ["webp", "tif", "png"])
def test_the_first_of_several_pictures(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(COLOURS).save(path, save_all=True, append_images=[Image.fromarray(255 - COLOURS)], **options)
    np.testing.assert_array_equal(read_image(path), COLOURS)


def test_one_pixel(tmp_path: Path) -> None:
    for suffix in ("png", "jpg", "bmp", "tif", "webp"):
        write(tmp_path / f"image.{suffix}", COLOURS[:1, :1])
        assert read_image(tmp_path / f"image.{suffix}").shape == (1, 1, 3)


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
    with pytest.raises(UserError, match=r"label.png: label 11 is not a train ID \(0..10 or 255\)"):
        read_label(tmp_path / "label.png", 11)
    write(tmp_path / "label.png", np.array([[0, 255, 10]], np.uint8))
    assert read_label(tmp_path / "label.png", 11).tolist() == [[0, 255, 10]]


def test_the_message_survives_pickling():
    error = pickle.loads(pickle.dumps(DataError("file.png: it is empty")))
    assert type(error) is DataError and str(error) == "file.png: it is empty"
