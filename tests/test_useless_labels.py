"""A run says at its start that its source's labels teach nothing."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import small_tree
from runs import Run

from core.build import useless_labels
from datasets import Data


@pytest.mark.parametrize(
    "value, found", [(255, ["unlabelled"]), (3, ["one_class"]), (None, [])], ids=["nothing", "one class", "as is"])
def test_labels_that_teach_nothing_are_noticed(value: int | None, found: list[str], tmp_path: Path) -> None:
    small_tree.make(tmp_path / "tree")
    for path in (tmp_path / "tree").glob("train_game_9K_*_label.png"):
        if value is not None:
            cv2.imwrite(str(path), np.full((64, 96), value, np.uint8))
    data = Data(Run(tmp_path / "run", tmp_path / "tree").configuration())
    assert [finding.name for finding in useless_labels(data, "train_game_9K")] == found


def test_a_label_that_cannot_be_read_is_left_to_training(tmp_path: Path) -> None:
    small_tree.make(tmp_path / "tree")
    for path in (tmp_path / "tree").glob("train_game_9K_*_label.png"):
        path.write_bytes(b"")
    assert useless_labels(Data(Run(tmp_path / "run", tmp_path / "tree").configuration()), "train_game_9K") == []


def test_the_run_says_so(tmp_path: Path) -> None:
    small_tree.make(tmp_path / "tree")
    for path in (tmp_path / "tree").glob("train_game_9K_*_label.png"):
        cv2.imwrite(str(path), np.full((64, 96), 255, np.uint8))
    process = Run(tmp_path / "run", tmp_path / "tree", "TRAIN.MAX_ITER", "1").start()
    assert process.wait() == 0 and process.said.count("every pixel is ignored (255)") == 1
