"""The stages that make train IDs and lists of raw labels: of the published archives, and of one's own data."""

from collections.abc import Sequence
from pathlib import Path

from yacs.config import CfgNode

from core.cli import UserError
from datasets import PUBLISHED, lists
from tools.domain import domains
from tools.pipeline.plan import Command, Stage
from tools.pipeline.record import Record

# Folders of raw labels and of train IDs, of the data sets whose commands the docs have always given in full.
RAW = {"gta": ("game/labels", "game/labels_cs"), "synthia": ("synthia/GT/LABELS", "synthia/labels_cs"),
       "cs": ("cityscapes/gtFine", "cityscapes/gtFine2")}
PUBLISHED_TARGET = "cityscapes"


def target_pairs(target: str, source: str) -> Command:
    """KEY VALUE ... of another target than the published one, by its name in configs/domains.

    Its labels are mapped to the same classes. What chooses snapshots is the source's list, so that no label of the
    target does; where the target's colours are known, they are given, too.

    Args:
        target: "cityscapes" needs nothing.
        source: the training list.
    """
    possible = [name for name in domains.names() if f"train_{name}" in domains.load(name).lists]
    if target not in possible:
        raise UserError(f"--target {target}: expected one of {', '.join(possible)}")
    if target == PUBLISHED_TARGET:
        return ()
    return ("TRAIN.TARGET", f"train_{target}", "VAL.LISTS", f"val_{target},{PUBLISHED[source]}")


def published(sources: Sequence[str], target: str, cfg: CfgNode, record: Record) -> tuple[Stage, ...]:
    """Train IDs and lists of sources and a target; none where the lists are there already, made by other means."""
    root, tasks = cfg.DATASET.ROOT, cfg.TRAIN.TASK
    selecting = (PUBLISHED[task] for task in tasks if task in PUBLISHED)
    needed = (*tasks, *selecting, f"train_{target}", f"val_{target}")
    if "lists" not in record.stages and all(lists.exists(name, root) for name in needed):
        return ()
    return labels_and_lists(sources, target, root)


def labels_and_lists(sources: Sequence[str], target: str, root: str) -> tuple[Stage, ...]:
    """The two stages, for data sets of configs/domains."""
    names, make_lists = (*sources, target), ("tools/make_lists.py", "--root", root)
    several = tuple((*make_lists, "--dataset", name) for name in names)
    if target == PUBLISHED_TARGET:
        names, several = (*sources, "cs"), (make_lists,)
    return (Stage("convert", "make train IDs of the raw labels", tuple(_convert(name, root) for name in names)),
            Stage("lists", "write the lists", several, ("convert",)))


def _convert(name: str, root: str) -> Command:
    command = ("tools/convert_train_ids.py", "--dataset", name)
    if name not in RAW:
        return (*command, "--root", root)
    raw, made = RAW[name]
    return (*command, "--ann-data", f"{root}/{raw}", "--ann-out", f"{root}/{made}")


def own(configuration: str, cfg: CfgNode, record: Record) -> tuple[Stage, ...]:
    """The same for the domains that tools/new_domain.py has described beside a configuration; none without them."""
    base, root = Path(configuration).with_suffix(""), ("--root", cfg.DATASET.ROOT)
    files = [path for kind in ("source", "target") if Path(path := f"{base}_{kind}.yaml").is_file()]
    labelled = [path for path in files if domains.load(path).labels]
    found: tuple[Stage, ...] = ()
    if labelled:
        commands = (("tools/convert_train_ids.py", "--dataset", path, *root) for path in labelled)
        found = (Stage("convert", "make train IDs of the raw labels", tuple(commands)),)
    named = [name for path in files for name in domains.load(path).lists]
    if files and ("lists" in record.stages or not all(lists.exists(name, cfg.DATASET.ROOT) for name in named)):
        commands = (("tools/make_lists.py", "--dataset", path, *root) for path in files)
        found += (Stage("lists", "write the lists", tuple(commands), tuple(stage.name for stage in found)),)
    return found
