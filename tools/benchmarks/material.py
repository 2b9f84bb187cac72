"""The files to measure with: a folder in the published layout with lists, or scenes rendered like one."""

import io
import runpy
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import torch
from yacs.config import CfgNode

from core import config
from core.cli import UserError
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


def published(settings: Settings, *pairs: str, name: str = "deeplabv2_resnet101_train.yaml") -> CfgNode:
    """A published configuration with the network that is measured, from random weights, and with these pairs set."""
    words = ["MODEL.ARCH", settings.network, "MODEL.INIT_MODEL", "", "DATASET.CROP_SIZE", str(list(settings.crop))]
    return config.load(str(ROOT / "configs" / name), [*words, *pairs])[0]


class Material(NamedTuple):
    """Images and labels."""

    root: Path
    source: list[Sample]  # GTA5
    target: list[Sample]  # Cityscapes


def command(name: str, *words: object) -> None:
    """Run one of the project's commands within this process, where everything is imported, and without its output.

    Raises:
        UserError: it fails; with its last line.
    """
    before, threads, said = sys.argv, torch.get_num_threads(), io.StringIO()
    sys.argv = [name, *map(str, words)]
    try:
        with redirect_stdout(said), redirect_stderr(said):
            runpy.run_path(str(ROOT / name), run_name="__main__")
    except SystemExit as end:
        if end.code:
            last = said.getvalue().strip().rpartition("\n")[2]
            raise UserError(f"{name} ended with status {end.code}: {last}") from None
    finally:
        sys.argv = before
        torch.set_num_threads(threads)


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
    # Processes for a few small scenes would cost more than the scenes.
    workers = ("--workers", 1) if settings.quick else ()
    command("tools/make_streets.py", "--out", folder, *counts, "--val", 0, "--test", 0, *named, *workers)
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
