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


SEVEN = np.array([(128, 64, 128), (70, 70, 70), (107, 142, 35), (70, 130, 180), (220, 20, 60), (0, 0, 142),
                  (255, 255, 255), (0, 0, 0)], np.uint8)  # classes' RGB colours, and void


def make_coloured(root: Path) -> None:
    """Somebody's own data: JPEGs of several sizes in nested folders, labels as colours in another tree, no target's."""
    rng = np.random.default_rng(0)
    for domain, names in (("game", ("mon/a", "mon/b", "tue/x/c", "tue/x/d")), ("street", ("s/1", "s/t/2", "3"))):
        for i, name in enumerate(names):
            image, label = root / domain / f"{name}_rgb.jpg", root / "game_ann" / f"{name}_gt.png"
            colours = SEVEN[rng.permutation(48).reshape(6, 8) % 8].repeat(12 + i, 0).repeat(12, 1)
            image.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(image), colours // 2 + rng.integers(0, 99, colours.shape, np.uint8))
            if domain == "game":
                label.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(label), colours[..., ::-1])


DAMAGED = ("train_game_9K_3.png", "train_cityscapes_3.png")  # neither is validated


def damage(root: Path) -> None:
    """Make an image of each domain unreadable."""
    (root / DAMAGED[0]).write_bytes(b"")
    (root / DAMAGED[1]).write_bytes(b"no image")
