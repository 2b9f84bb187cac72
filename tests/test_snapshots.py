"""Snapshots that cannot be used, and disks that cannot be written: one line, and no code of the file is run."""

import os
import pickle
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import small_tree
import torch
from runs import Run

import core.run_folder
import datasets
from core import checkpoint
from core.cli import UserError
from core.files import write_bytes
from core.log import Log


class Code:
    """Pickles into a call that leaves a trace."""

    def __reduce__(self) -> tuple:
        return Path.touch, (Path("trace.txt"),)


def snapshot(**changes: object) -> dict:
    return {"model": {"module.backbone.weight": torch.ones(3)}, "opt": {}, "epoch": 1, "score": 0.5} | changes


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no snapshot")


def truncated(path: Path) -> None:
    torch.save(snapshot(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "does not exist"),
    "a folder": (lambda path: path.mkdir(), "is not a file"),
    "empty": (lambda path: path.write_bytes(b""), "is damaged"),
    "text": (lambda path: path.write_text("<html>not found</html>"), "is damaged"),
    "truncated": (truncated, "is damaged"),
    "a zip": (write_zip, "is damaged"),
    "a tensor": (lambda path: torch.save(torch.zeros(3), path), "is not a snapshot"),
    "no model": (lambda path: torch.save({"opt": {}}, path), "is not a snapshot"),
    "no tensors": (lambda path: torch.save(snapshot(model={"a": 1}), path), "a is not a tensor"),
    "NaN": (lambda path: torch.save(snapshot(model={"a": torch.tensor([1, float("nan")])}), path), "a holds NaN"),
    "infinite": (lambda path: torch.save(snapshot(model={"a": torch.tensor([float("inf")])}), path), "a holds NaN"),
    "code": (lambda path: torch.save(snapshot(opt=Code()), path), "not just tensors and plain values"),
    "code, old form": (lambda path: torch.save(snapshot(opt=Code()), path, _use_new_zipfile_serialization=False),
                       "not just tensors and plain values"),
    "a pickle with code": (lambda path: path.write_bytes(pickle.dumps(snapshot(model=Code()))), "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_refused(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make, said = BAD[case]
    make(tmp_path / "bad.pth")
    with pytest.raises(UserError, match=f"bad.pth.*({said})") as error:
        checkpoint.load("bad.pth")
    assert "\n" not in str(error.value) and not Path("trace.txt").exists()


def test_the_code_would_have_been_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Code()))
    assert Path("trace.txt").exists()


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder where nothing can be written: a read-only file system, else one without permission."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(path)], capture_output=True).returncode
    if mounted == 0:
        yield path
        subprocess.run(["umount", str(path)], check=True)
    elif os.geteuid() != 0:
        path.chmod(0o555)
        yield path
        path.chmod(0o755)
    else:
        yield Path("/proc/self")  # root that may not mount


def test_a_disk_that_cannot_be_written(read_only: Path, tmp_path: Path) -> None:
    place = core.run_folder.Run("e", "r", snapshot_dir=str(read_only / "new"), log_dir=str(read_only / "new"))
    file = tmp_path / "file"
    file.write_text("mine")
    through = core.run_folder.Run("e", "r", snapshot_dir=str(file), log_dir=str(file))  # an output path that is a file
    for attempt in (
        lambda: checkpoint.save(place.last, snapshot()), lambda: write_bytes(read_only / "new", b"x"), place.lock,
        lambda: Log(place.logs).begin(0), through.lock, lambda: Log(through.logs).begin(0),
        lambda: checkpoint.save(through.last, snapshot()),
    ):  # fmt: skip
        with pytest.raises(UserError, match="cannot write") as error:
            attempt()
        assert "\n" not in str(error.value)
    assert file.read_text() == "mine"


def test_images_of_one_pixel_are_trained_on(tmp_path: Path) -> None:
    """Scaled, cropped, seen in views: padding does the rest."""
    small_tree.make(tmp_path)
    for name in [*tmp_path.glob("train_*_?.png"), *tmp_path.glob("train_*_??.png")]:
        cv2.imwrite(str(name), np.full((1, 1, 3), 7, np.uint8))
        cv2.imwrite(str(name).replace(".png", "_label.png"), np.full((1, 1), 7, np.uint8))
    cfg = Run(tmp_path / "run", tmp_path, "TRAIN.NUM_EPOCHS", "1").configuration()
    batches = list(datasets.Data(cfg).training())
    assert len(batches) == 4
    for source, target, skipped in batches:
        assert source.image.shape == (4, 32, 64, 3) and target.noisy.shape == (4, 32, 64, 3) and skipped == []
        assert set(source.label.unique().tolist()) <= {7, 255}
