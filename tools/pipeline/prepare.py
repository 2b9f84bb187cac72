"""The stages that convert raw labels and write the lists, for published data sets and for your own data."""

from collections.abc import Sequence
from pathlib import Path

from yacs.config import CfgNode

from core.cli import UserError
from datasets import PUBLISHED, lists
from tools.domain import domains
from tools.pipeline.plan import Command, Stage
from tools.pipeline.record import Record

# Folders of raw labels and of train IDs, for data sets whose full commands are in the docs.
RAW = {"gta": ("game/labels", "game/labels_cs"), "synthia": ("synthia/GT/LABELS", "synthia/labels_cs"),
       "cs": ("cityscapes/gtFine", "cityscapes/gtFine2")}
PUBLISHED_TARGET = "cityscapes"


def target_pairs(target: str, source: str) -> Command:
    """KEY VALUE ... for a target other than the published one, by its name in configs/domains.

    Its labels are mapped to the same classes. The source's list is last in VAL.LISTS and selects the snapshots, so that
    no target label does.

    Args:
        target: "cityscapes" needs no pairs.
        source: the source's training list.
    """
    possible = [name for name in domains.names() if f"train_{name}" in domains.load(name).lists]
    if target not in possible:
        raise UserError(f"--target {target}: expected one of {', '.join(possible)}")
    if target == PUBLISHED_TARGET:
        return ()
    return ("TRAIN.TARGET", f"train_{target}", "VAL.LISTS", f"val_{target},{PUBLISHED[source]}")


def published(sources: Sequence[str], target: str, cfg: CfgNode, record: Record) -> tuple[Stage, ...]:
    """The two stages for sources and a target; none if all lists exist, but were not written by this task."""
    root, tasks = cfg.DATASET.ROOT, cfg.TRAIN.TASK
    selecting = (PUBLISHED[task] for task in tasks if task in PUBLISHED)
    needed = (*tasks, *selecting, f"train_{target}", f"val_{target}")
    if "lists" not in record.stages and all(lists.exists(name, root) for name in needed):
        return ()
    return labels_and_lists(sources, target, root)


def labels_and_lists(sources: Sequence[str], target: str, root: str) -> tuple[Stage, ...]:
    """The two stages, for data sets in configs/domains."""
    names, make_lists = (*sources, target), ("tools/make_lists.py", "--root", root)
    several = tuple((*make_lists, "--dataset", name) for name in names)
    if target == PUBLISHED_TARGET:
        names, several = (*sources, "cs"), (make_lists,)
    return (Stage("convert", "convert raw labels to train IDs", tuple(_convert(name, root) for name in names)),
            Stage("lists", "write the image lists", several, ("convert",)))


def _convert(name: str, root: str) -> Command:
    command = ("tools/convert_train_ids.py", "--dataset", name)
    if name not in RAW:
        return (*command, "--root", root)
    raw, made = RAW[name]
    return (*command, "--ann-data", f"{root}/{raw}", "--ann-out", f"{root}/{made}")


def own(configuration: str, cfg: CfgNode, record: Record) -> tuple[Stage, ...]:
    """The same for the domain files that tools/new_domain.py wrote next to a configuration; none without them."""
    base, root = Path(configuration).with_suffix(""), ("--root", cfg.DATASET.ROOT)
    files = [path for kind in ("source", "target") if Path(path := f"{base}_{kind}.yaml").is_file()]
    labelled = [path for path in files if domains.load(path).labels]
    found: tuple[Stage, ...] = ()
    if labelled:
        commands = (("tools/convert_train_ids.py", "--dataset", path, *root) for path in labelled)
        found = (Stage("convert", "convert raw labels to train IDs", tuple(commands)),)
    named = [name for path in files for name in domains.load(path).lists]
    if files and ("lists" in record.stages or not all(lists.exists(name, cfg.DATASET.ROOT) for name in named)):
        commands = (("tools/make_lists.py", "--dataset", path, *root) for path in files)
        found += (Stage("lists", "write the image lists", tuple(commands), tuple(stage.name for stage in found)),)
    return found
