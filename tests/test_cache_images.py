"""tools/cache_images.py: training from the files that it writes sees the same pixels."""

import shutil
from collections import namedtuple
from pathlib import Path

import cv2
import pytest
import small_tree
import torch
from runs import Run

import datasets
from core.cli import UserError
from datasets import lists
from tools import cache_images

Usage = namedtuple("Usage", "total used free")
NAMES = ("train_game_9K", "val_game_1K", "train_cityscapes", "val_cityscapes")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small tree whose GTA5 images are resized; one of them has another size, as in GTA5."""
    root = tmp_path / "tree"
    small_tree.make(root)
    for ending in ("", "_label"):
        path = root / f"train_game_9K_2{ending}.png"
        cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[:60])
    key = next(k for k in cache_images.config.KEYS if k.name == "DATASET.GAME_SIZE")
    keys = [k._replace(default=[64, 96]) if k is key else k for k in cache_images.config.KEYS]
    monkeypatch.setattr(cache_images.config, "KEYS", keys)
    return root


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr("sys.argv", ["cache_images.py", *map(str, words)])
    cache_images.main()


def test_training_sees_the_same_pixels(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "fast"
    run(monkeypatch, "--root", tree, "--out", out, "--lists", *NAMES)
    both = []
    for root in (tree, out):
        cfg = Run(tmp_path / root.name / "run", root, "DATASET.GAME_SIZE", "64,96").configuration()
        data = datasets.Data(cfg)
        both.append([[*data.training()][:4], *([*data.validation(name)] for name in ("val_game_1K", "val_cityscapes"))])
    flat = [[x for x in torch.utils._pytree.tree_leaves(items) if isinstance(x, torch.Tensor)] for items in both]
    assert len(flat[0]) == len(flat[1]) > 40 and all(torch.equal(a, b) for a, b in zip(*flat, strict=True))
    assert cv2.imread(str(out / "train_game_9K_2.bmp")).shape == (64, 96, 3)
    assert lists.read("val_cityscapes", str(out))[1] == ("val_cityscapes_1.bmp", "val_cityscapes_1_label.bmp")


def test_what_is_there_is_kept(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "fast"
    words = ("--root", tree, "--out", out, "--lists", "val_cityscapes")
    run(monkeypatch, *words)
    (out / "val_cityscapes_1.bmp").unlink()
    before = {path: path.stat().st_mtime_ns for path in out.glob("*_0*.bmp")}
    run(monkeypatch, *words)
    assert {path: path.stat().st_mtime_ns for path in out.glob("*_0*.bmp")} == before and len(before) == 2
    assert len(list(out.glob("*.bmp"))) == 6


def test_mistakes_are_one_line(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--root", tree, "--lists", "val_cityscapes", "--out")
    with pytest.raises(UserError, match="is the --root"):
        run(monkeypatch, *words, tree)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 1000))
    with pytest.raises(UserError, match="0.0 GB are needed"):
        run(monkeypatch, *words, tmp_path / "fast")
    lists.write(tree / "twins.txt", [lists.Sample("a.png", None), lists.Sample("a.jpg", None)])
    with pytest.raises(UserError, match=r"a.png and a.jpg would both become a.bmp"):
        run(monkeypatch, "--root", tree, "--lists", "twins", "--out", tmp_path / "fast")
