"""The files to measure with: a folder with the published layout and lists, or rendered scenes in that layout."""

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
    """How much to measure."""

    quick: bool  # small sizes, to try the tool out
    runs: int  # to take the median of
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
    """A published configuration with the measured network, random weights, and these pairs set."""
    words = ["MODEL.ARCH", settings.network, "MODEL.INIT_MODEL", "", "DATASET.CROP_SIZE", str(list(settings.crop))]
    return config.load(str(ROOT / "configs" / name), [*words, *pairs])[0]


class Material(NamedTuple):
    """Images and labels."""

    root: Path
    source: list[Sample]  # GTA5
    target: list[Sample]  # Cityscapes


def command(name: str, *words: object) -> None:
    """Run one of the project's commands in this process, where everything is already imported, without its output.

    Raises:
        UserError: the command fails; the message is its last line.
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
    """The first images of the published lists under a root."""
    source = lists.read("train_game_9K", str(root), labels=True)[: settings.images]
    return Material(root, source, lists.read("train_cityscapes", str(root))[: settings.images])


def render(folder: Path, settings: Settings) -> Material:
    """Scenes in the real sizes, with sensor noise so that decoding costs as much as for photographs."""
    sizes = ("256x128", "240x132", "160x96") if settings.quick else ("2048x1024", "1914x1052", "1280x760")
    counts = [word for world in ("gta", "synthia", "train") for word in (f"--{world}", settings.images)]
    named = [word for name, size in zip(("size", "gta-size", "synthia-size"), sizes, strict=True)
             for word in (f"--{name}", size)]
    # For a few small scenes, starting processes would cost more than rendering.
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


RAW = (  # raw labels and train IDs of each data set
    ("cs", "cityscapes/gtFine", "cityscapes/gtFine2"),
    ("gta", "game/labels", "game/labels_cs"),
    ("synthia", "synthia/GT/LABELS", "synthia/labels_cs"),
)


def copies(files: list[Path], folder: Path, count: int, ending: str) -> list[Path]:
    """Make `count` links to the files in a new folder."""
    folder.mkdir(parents=True)
    made = [folder / f"{i:05d}{ending}" for i in range(count)]
    for i, path in enumerate(made):
        path.symlink_to(files[i % len(files)].resolve())
    return made
