"""The files to measure with: a folder in the published layout with lists, or scenes rendered like one."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from core.errors import UserError
from datasets import lists
from datasets.lists import Sample

ROOT = Path(__file__).resolve().parents[2]
MASKS = "cityscapes/gtFine2/train"  # of the rendered world


class Settings(NamedTuple):
    """How much is measured."""

    quick: bool  # small sizes, for trying the tool out
    runs: int  # of which the median is taken
    images: int  # of each kind

    @property
    def crop(self) -> tuple[int, int]:
        """Height and width of a crop in training."""
        return (64, 128) if self.quick else (512, 1024)

    @property
    def network(self) -> str:
        """The network to measure with."""
        return "deeplabv2_resnet18" if self.quick else "deeplabv2_resnet101"


class Material(NamedTuple):
    """Images and labels."""

    root: Path
    source: list[Sample]  # GTA5
    target: list[Sample]  # Cityscapes


def command(name: str, *words: object, threads: int = 0) -> None:
    """Run one of the project's commands; UserError with its last line if it fails."""
    environment = dict(os.environ)
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    line = [sys.executable, str(ROOT / name), *map(str, words)]
    done = subprocess.run(line, capture_output=True, text=True, env=environment)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise UserError(f"{name} ended with status {done.returncode}: {said[-1] if said else 'nothing said'}")


def given(root: Path, settings: Settings) -> Material:
    """The first images of the published lists below a root."""
    source = lists.read("train_game_9K", str(root), labels=True)[: settings.images]
    return Material(root, source, lists.read("train_cityscapes", str(root))[: settings.images])


def render(folder: Path, settings: Settings) -> Material:
    """Scenes of the real sizes with sensor noise, so that decoding costs what it costs for photographs."""
    sizes = ("256x128", "240x132", "160x96") if settings.quick else ("2048x1024", "1914x1052", "1280x760")
    counts = [word for world in ("gta", "synthia", "train") for word in (f"--{world}", settings.images)]
    named = [word for name, size in zip(("size", "gta-size", "synthia-size"), sizes, strict=True)
             for word in (f"--{name}", size)]
    command("tools/make_streets.py", "--out", folder, *counts, "--val", 0, "--test", 0, *named)
    for dataset, raw, ids in RAW:
        words = ("--dataset", dataset, "--ann-data", folder / raw, "--ann-out", folder / ids)
        command("tools/convert_train_ids.py", *words)
    names = [f"{i + 1:05d}.png" for i in range(settings.images)]
    images = sorted(str(p.relative_to(folder)) for p in (folder / "cityscapes/leftImg8bit").rglob("*.png"))
    labels = [n.replace("leftImg8bit/", "gtFine2/").replace("_leftImg8bit", "_gtFine_labelIds") for n in images]
    return Material(folder, [Sample(f"game/images/{n}", f"game/labels_cs/{n}") for n in names],
                    [Sample(*pair) for pair in zip(images, labels, strict=True)])


RAW = (  # raw labels and train ids of each data set
    ("cs", "cityscapes/gtFine", "cityscapes/gtFine2"),
    ("gta", "game/labels", "game/labels_cs"),
    ("synthia", "synthia/GT/LABELS", "synthia/labels_cs"),
)


def copies(files: list[Path], folder: Path, count: int, ending: str) -> list[Path]:
    """`count` names for the files' contents in a folder."""
    folder.mkdir(parents=True)
    made = [folder / f"{i:05d}{ending}" for i in range(count)]
    for i, path in enumerate(made):
        path.symlink_to(files[i % len(files)].resolve())
    return made
