"""tools/new_domain.py: how labels are found, what is proposed, what it refuses; see also tests/test_own_data.py."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from core import config
from core.cli import UserError
from datasets import labels, lists
from tools import convert_train_ids, make_lists, new_domain
from tools.domain import domains
from tools.domain.pairs import Rule, find_rule
from tools.domain.propose import geometry

COLOURS = np.array([(128, 64, 128), (70, 70, 70), (0, 0, 0), (9, 200, 3)], np.uint8)


@pytest.mark.parametrize("images, masks, rule", [
    (["a.jpg", "x/b.jpg"], ["a.png", "x/b.png"], Rule()),
    (["x/a.jpg", "y/b.jpg"], ["a.png", "b.png"], Rule(flat=True)),
    (["1_rgb.png", "2_rgb.png"], ["1_gt.png", "2_gt.png"], Rule(("", "rgb"), ("", "gt"), True)),
    (["u/1.png", "u/2.png"], ["u/1_gt.png", "u/2_gt.png"], Rule(("", ""), ("", "_gt"))),
    (["img1.png", "img2.png"], ["lab1.png", "lab2.png"], Rule(("img", ""), ("lab", ""), True)),
    (["a.png"], ["a.png", "b.png"], Rule(flat=True)),
])  # fmt: skip
def test_labels_are_found_by_their_names(images: list[str], masks: list[str], rule: Rule) -> None:
    assert find_rule(images, masks, "labels") == rule


@pytest.mark.parametrize("images, masks, said", [
    (["a.png", "b.png"], ["c.png", "d.png"], "no label in labels belongs to the image a.png"),
    (["x/a.png", "y/b.png"], ["y/a.png", "x/b.png"], "no label in labels"),
    ([f"{i}_i.png" for i in range(9)], [f"{i}_{k}.png" for i in range(9) for k in "ab"], r"\*a.png and \*b.png"),
    ([f"{i}.png" for i in range(100)], [f"{i}.png" for i in range(99)], "1 of 100 images have no label in .*first 99"),
])  # fmt: skip
def test_labels_that_are_not_found(images: list[str], masks: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        find_rule(images, masks, "labels")


def test_crop_and_scales_of_the_published_pair() -> None:
    shape = geometry(np.array([[1052, 1914]] * 3), np.array([[1024, 2048]] * 3))
    assert shape.crop == (512, 1024)
    assert shape.scale == (0.51, 1.02)  # published: 0.5 to 1.0


@pytest.mark.parametrize("source, target, crop", [
    ([[64, 96]], [[60, 90]], (32, 64)),
    ([[400, 300]], [[1000, 2000]], (128, 288)),  # as high and wide as the source allows
    ([[2000, 2000]], [[3000, 3000]], (704, 704)),
])  # fmt: skip
def test_crops(source: list, target: list, crop: tuple[int, int]) -> None:
    assert geometry(np.array(source), np.array(target)).crop == crop


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """JPEGs of several sizes in nested folders, colour labels in another tree; target images with labels, too."""
    monkeypatch.chdir(tmp_path)
    rng, root = np.random.default_rng(0), Path("d")
    for domain, names in (("game", ("mon/m0", "mon/m1", "tue/x/t0")), ("street", ("s0", "s1"))):
        for i, name in enumerate(names):
            image, label = root / domain / f"{name}_rgb.jpg", root / f"{domain}_ann" / f"{name}_gt.png"
            image.parent.mkdir(parents=True, exist_ok=True)
            label.parent.mkdir(parents=True, exist_ok=True)
            index = np.arange(48).reshape(6, 8) % 4
            pixels = COLOURS[index.repeat(8 + i, 0).repeat(8, 1)]
            cv2.imwrite(str(image), rng.integers(0, 256, pixels.shape, np.uint8))
            cv2.imwrite(str(label), pixels[..., ::-1])
    return root


def propose(monkeypatch: pytest.MonkeyPatch, root: Path, *more: str) -> None:
    folders = ["--source-images", root / "game", "--source-labels", root / "game_ann"]
    folders += ["--target-images", root / "street"]
    monkeypatch.setattr(sys, "argv", ["new_domain.py", *map(str, folders), *more])
    new_domain.main()


def test_from_colours_to_lists(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    propose(monkeypatch, data, "--target-labels", str(data / "street_ann"), "--out", "mine.yaml")
    cfg, _ = config.load("mine.yaml")
    assert cfg.TRAIN.TASK == ["mine_source"] and cfg.VAL.LISTS == ["mine_val"] and cfg.DATASET.ROOT == "d"
    classes = labels.load(cfg.DATASET.CLASSES)
    assert classes.names == ("class_09c803", "class_464646", "class_804080")
    assert classes.colours == ((9, 200, 3), (70, 70, 70), (128, 64, 128))  # black is void
    before = {path.name: path.read_bytes() for path in data.glob("*.txt")}
    for kind in ("source", "target"):
        for tool in (convert_train_ids, make_lists):
            monkeypatch.setattr(sys, "argv", ["tool", "--dataset", f"mine_{kind}.yaml"])
            tool.main()
    assert before == {path.name: path.read_bytes() for path in data.glob("*.txt")}  # the domains make the same lists
    assert sorted(before) == ["mine_source.txt", "mine_target.txt", "mine_val.txt"]
    assert all(sample.label is None for sample in lists.read("mine_target", "d"))
    (first, *_) = lists.read("mine_source", "d", labels=True)
    assert first == ("game/mon/m0_rgb.jpg", "game_ann_train_ids/mon/m0_gt.png")
    found = cv2.imread(str(data / first.label), cv2.IMREAD_UNCHANGED)
    assert found[0, ::8].tolist() == [2, 1, 255, 0, 2, 1, 255, 0]
    assert domains.load("mine_target.yaml").labels.encoding == "rgb"


def test_nothing_is_replaced(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    propose(monkeypatch, data)
    Path("configs/own_classes.yaml").write_text("mine")
    with pytest.raises(UserError, match="own_classes.yaml.*already exist; --force"):
        propose(monkeypatch, data)
    assert Path("configs/own_classes.yaml").read_text() == "mine"
    propose(monkeypatch, data, "--force")


def white(path: Path) -> None:
    cv2.imwrite(str(path), np.full((48, 64, 3), 255, np.uint8))


@pytest.mark.parametrize("harm, said", [
    (lambda d: (d / "game_ann/mon/m1_gt.png").unlink(), "no label in|1 of 3 images have no label"),
    (lambda d: cv2.imwrite(str(d / "game_ann/mon/m1_gt.png"), np.zeros((54, 64), np.uint8)), "labels of one kind"),
    (lambda d: white(d / "game_ann/mon/m1_gt.png"), "is 64x54, its label .* is 64x48; they must have the same size"),
    (lambda d: [white(path) for path in d.glob("game_ann/**/*.png")], "the same size"),
    (lambda d: cv2.imwrite(str(d / "game_ann/mon/m0_gt.png"),
                           np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)), "colours: is it a photo"),
    (lambda d: (d / "game/mon/m0_rgb.jpg").write_text("x"), "m0_rgb.jpg"),
    (lambda d: [path.unlink() for path in d.glob("street/*")], "street: no images"),
    (lambda d: (d / "street").rename(d / "gone"), "street: there is no such folder"),
])  # fmt: skip
def test_what_cannot_be_used_is_one_line(
    data: Path, monkeypatch: pytest.MonkeyPatch, harm: object, said: str
) -> None:
    harm(data)
    with pytest.raises(UserError, match=said):
        propose(monkeypatch, data)
    assert not Path("configs").exists()
