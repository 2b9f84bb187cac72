"""core/segment.py: five lines from a snapshot and a picture to a mask; names and colours come from the snapshot."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from runs import Stub

from core import checkpoint, config, visual
from core.cli import UserError
from core.segment import described, load
from datasets import labels

ROOT = Path(__file__).parents[1]
NAMES, COLOURS = ["floor", "wall", "sea"], [[1, 2, 3], [40, 50, 60], [0, 0, 255]]


def write(path: Path, **run: object) -> Path:
    """A baseline's snapshot of a stub with three classes, with these entries in its `run`."""
    torch.manual_seed(0)
    model = {f"{checkpoint.PREFIX}backbone.{k}": v for k, v in Stub(3).state_dict().items()}
    checkpoint.save(path, {"model": model, "opt": {}, "epoch": 1, "score": 0.5} | ({"run": run} if run else {}))
    return path


def dumped(*pairs: str) -> str:
    return config.load("/dev/null", ["MODEL.ARCH", "stub", *pairs])[0].dump()


def test_a_picture_of_any_size(tmp_path: Path) -> None:
    path = write(tmp_path / "s.pth", config=dumped("DATASET.CLASSES", "gone.yaml"), classes=NAMES, colours=COLOURS)
    segment = load(str(path), device="cpu")
    assert segment.labels.names == tuple(NAMES) and segment.labels.palette()[2].tolist() == COLOURS[2]
    for size in ((8, 8), (33, 70), (64, 41)):
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        mask = segment(image)
        assert mask.shape == size and mask.dtype == np.uint8 and mask.max() < 3
        assert np.array_equal(segment(image[:, ::-1][:, ::-1]), mask)  # strides do not matter
        drawn = segment.overlay(image, mask)
        assert np.array_equal(drawn[: size[0]], visual.overlay(image, mask, segment.labels.palette()))
        assert drawn.shape[1] == size[1] and len(drawn) > size[0]


def test_the_authors_need_a_configuration(tmp_path: Path) -> None:
    path = write(tmp_path / "s.pth")
    with pytest.raises(UserError, match="contains no configuration; pass one as cfg"):
        load(str(path))
    (tmp_path / "classes.yaml").write_text(json.dumps({"names": NAMES, "colours": COLOURS}))
    settings = {"MODEL": {"ARCH": "stub"}, "DATASET": {"CLASSES": str(tmp_path / "classes.yaml")}}
    (tmp_path / "cfg.yaml").write_text(yaml.dump(settings))
    assert load(str(path), str(tmp_path / "cfg.yaml"), device="cpu").labels.names == tuple(NAMES)


def test_an_older_snapshot_of_ours_has_no_colours(tmp_path: Path) -> None:
    """And a newer one's keys are none of ours."""
    text = yaml.dump(yaml.safe_load(dumped()) | {"NEW": {"KEY": 1}})
    _, label_set = described(str(write(tmp_path / "s.pth", config=text, classes=list(labels.CITYSCAPES.names))))
    assert label_set == labels.CITYSCAPES


@pytest.mark.parametrize("text", ["[", "1", "{MODEL: 3}", "{MODEL: {ARCH: vit}}"])
def test_a_damaged_configuration(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        load(str(write(tmp_path / "s.pth", config=text, classes=NAMES, colours=COLOURS)))


@pytest.mark.parametrize("image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32)])
def test_what_is_no_picture(image: np.ndarray, tmp_path: Path) -> None:
    path = write(tmp_path / "s.pth", config=dumped(), classes=NAMES, colours=COLOURS)
    with pytest.raises(UserError, match="expected a picture"):
        load(str(path), device="cpu")(image)


def test_the_five_lines_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    monkeypatch.chdir(tmp_path)
    write(tmp_path / "last.pth", config=dumped(), classes=NAMES, colours=COLOURS)
    cv2.imwrite("street.jpg", np.zeros((20, 30, 3), np.uint8))
    (code,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    code = re.sub(r'load\(".*?"\)', 'load("last.pth")', code)
    assert len([line for line in code.splitlines() if line.strip()]) == 5
    found: dict = {}
    exec(code, found)
    assert found["mask"].shape == (20, 30)


def test_a_legend_holds_every_colour_within_its_width() -> None:
    sheet = visual.legend(labels.CITYSCAPES.names, labels.CITYSCAPES.colours, 300)
    assert sheet.shape[1] == 300 and sheet.shape[0] > 40
    seen = {tuple(map(int, pixel)) for pixel in sheet.reshape(-1, 3)}
    assert set(labels.CITYSCAPES.colours) <= seen
    assert visual.legend((), (), 50).shape == (0, 50, 3)
