"""A small tree of random images with labels and its lists, for runs of a few iterations."""

from pathlib import Path

import cv2
import numpy as np

from datasets import lists

LISTS = {"train_game_9K": 16, "val_game_1K": 2, "train_cityscapes": 4, "val_cityscapes": 3}


def make(root: Path) -> None:
    """Images 96x64 of blocks of classes, and their train-ID labels; val2_cityscapes is a part of train_cityscapes."""
    rng = np.random.default_rng(0)
    root.mkdir(exist_ok=True)
    for name, count in LISTS.items():
        names = [f"{name}_{i}" for i in range(count)]
        for sample in names:
            label = rng.integers(0, 19, (4, 6), np.uint8).repeat(16, 0).repeat(16, 1)
            image = (label[..., None] * [12, 7, 3] + rng.integers(0, 30, (64, 96, 3))).astype(np.uint8)
            cv2.imwrite(str(root / f"{sample}.png"), image)
            cv2.imwrite(str(root / f"{sample}_label.png"), label)
        lists.write(root / f"{name}.txt", [lists.Sample(f"{n}.png", f"{n}_label.png") for n in names])
    lists.write(root / "val2_cityscapes.txt", lists.read("train_cityscapes", str(root))[:2])


DAMAGED = ("train_game_9K_3.png", "train_cityscapes_3.png")  # neither is validated


def damage(root: Path) -> None:
    """Make an image of each domain unreadable."""
    (root / DAMAGED[0]).write_bytes(b"")
    (root / DAMAGED[1]).write_bytes(b"no image")
