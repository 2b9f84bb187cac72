"""tools/infer_video.py: folders of frames and videos to videos, and what is refused."""

import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from runs import Stub

from core import checkpoint, config, visual
from core.cli import UserError
from core.segment import load
from tools import infer_video

NAMES, COLOURS = ["floor", "wall", "sea"], [[10, 20, 30], [40, 250, 60], [0, 0, 255]]
COUNT, SIZE = 3, (48, 128)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A snapshot of a stub with three classes, a folder of frames, and frames of two sizes."""
    root = tmp_path_factory.mktemp("video")
    torch.manual_seed(0)
    model = {f"{checkpoint.PREFIX}backbone.{k}": v for k, v in Stub(3).state_dict().items()}
    own = {"config": config.load("/dev/null", ["MODEL.ARCH", "stub"])[0].dump(), "classes": NAMES, "colours": COLOURS}
    checkpoint.save(root / "s.pth", {"model": model, "opt": {}, "epoch": 1, "score": 0.5, "run": own})
    for folder, sizes in (("frames", [SIZE] * COUNT), ("mixed", [SIZE, (48, 130)]), ("odd", [(47, 127)])):
        (root / folder).mkdir()
        for i, size in enumerate(sizes):
            picture = np.full((*size, 3), 60 * i + 40, np.uint8)
            picture[:, : size[1] // 2] = (200, 50 * i, 20)
            cv2.imwrite(str(root / folder / f"{i:03d}.png"), picture)
    (root / "empty").mkdir()
    (root / "text.mp4").write_text("no video")
    return root


Call = Callable[..., Path]


@pytest.fixture
def call(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    def run(*options: object, source: str | Path = "frames", out: str = "new/out.avi") -> Path:
        fixed = ["--resume", tree / "s.pth", "--input", tree / source, "--out", tmp_path / out]
        monkeypatch.setattr(sys, "argv", ["tool", *map(str, [*fixed, *options])])
        infer_video.main()
        return tmp_path / out

    return run


def read(path: Path) -> tuple[list[np.ndarray], float]:
    """The frames, RGB, and their number a second."""
    capture, found = cv2.VideoCapture(str(path)), []
    while (frame := capture.read())[0]:
        found.append(frame[1][..., ::-1])
    return found, capture.get(cv2.CAP_PROP_FPS)


def close(a: np.ndarray, b: np.ndarray) -> bool:
    """Alike, up to what the codec loses."""
    return a.shape == b.shape and np.abs(a.astype(int) - b).mean() < 6


def test_a_folder_of_frames(call: Call, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    found, rate = read(call("--fps", 7))
    assert len(found) == COUNT and rate == pytest.approx(7) and "3 frames, 7 per second" in capsys.readouterr().out
    segment = load(str(tree / "s.pth"), device="cpu")
    frame = cv2.imread(str(tree / "frames/001.png"))[..., ::-1]
    expected = visual.overlay(frame, segment(frame), segment.labels.palette())
    assert close(found[1][: SIZE[0]], expected) and found[1].shape[1] == SIZE[1]
    assert close(found[1][SIZE[0] :], visual.legend(NAMES, COLOURS, SIZE[1]))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out.avi"]


def test_a_video_keeps_its_rate(call: Call, tmp_path: Path) -> None:
    first = call("--fps", 12)
    found, rate = read(call("--beside", "--window", 32, 64, "--flip", source=first, out="second.mp4"))
    assert len(found) == COUNT and rate == pytest.approx(12)
    assert found[0].shape[1] == 2 * SIZE[1] and close(found[0][: SIZE[0], : SIZE[1]], read(first)[0][0][: SIZE[0]])


def test_odd_sides_become_even(call: Call) -> None:
    ((frame,), _) = read(call(source="odd"))
    assert frame.shape[1] == 128 and frame.shape[0] % 2 == 0


@pytest.mark.parametrize(
    "options, source, out, said",
    [
        ((), "nowhere", "a.mp4", "no such file"),
        ((), "text.mp4", "a.mp4", "cannot be read: not a video"),
        ((), "empty", "a.mp4", "no images"),
        ((), "mixed", "a.mp4", "001.png is 130x48, the first frame 128x48"),
        ((), "frames", "a.mov", "ends with .mp4 or .avi"),
        (("--fps", "0"), "frames", "a.mp4", "--fps"),
        (("--scales", "0"), "frames", "a.mp4", "--scales"),
        (("--window", "1", "1"), "frames", "a.mp4", "--window"),
    ],
)
def test_mistakes(call: Call, tmp_path: Path, options: tuple, source: str, out: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        call(*options, source=source, out=out)
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_a_codec_that_is_not_there(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(infer_video.CODECS, ".mp4", "ZZZZ")
    with pytest.raises(UserError, match=r"lacks the codec ZZZZ.*choose another --out, ending with .avi"):
        call(out="a.mp4")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_video_stays(call: Call, tmp_path: Path, tree: Path) -> None:
    (tmp_path / "a.avi").write_bytes(b"mine")
    with pytest.raises(UserError, match="--force replaces it"):
        call(out="a.avi")
    assert (tmp_path / "a.avi").read_bytes() == b"mine"
    assert len(read(call("--force", out="a.avi"))[0]) == COUNT
    with pytest.raises(UserError, match="would be replaced"):
        call("--force", source=tmp_path / "a.avi", out="a.avi")


def test_frames_that_the_disk_does_not_take(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        """A writer that loses what it is given, as OpenCV's does on a full disk."""

        def __init__(self, *_: object) -> None: ...
        def isOpened(self) -> bool:  # noqa: N802, the name is OpenCV's
            return True

        def write(self, frame: np.ndarray) -> None: ...
        def release(self) -> None: ...

    monkeypatch.setattr(cv2, "VideoWriter", Full)
    monkeypatch.setattr(cv2, "VideoWriter_fourcc", lambda *_: 0, raising=False)
    with pytest.raises(UserError, match="only 0 of 3 frames could be written"):
        call()
    assert not (tmp_path / "new/out.avi").exists()
