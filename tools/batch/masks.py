"""Folders of masks that infer_val.py wrote: the masks of a list, and their classes."""

from collections.abc import Sequence
from pathlib import Path

from core.cli import UserError
from datasets import labels
from datasets.labels import BESIDE_MASKS, LabelSet
from datasets.lists import Sample, mask_names


def masks_in(folder: Path, samples: Sequence[Sample]) -> list[Path]:
    """Every sample's mask in a folder that infer_val.py wrote; UserError if some are missing, or as `mask_names`."""
    paths = [folder / name for name in mask_names(samples)]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        some = f"{len(missing)} of {len(paths)} masks are missing, first: {missing[0]}"
        raise UserError(f"{some}; infer_val.py writes them")
    return paths


def of_masks(folder: Path, given: str = "") -> LabelSet:
    """The label set of a folder of masks: `given`, or what infer_val.py has said there, or Cityscapes'."""
    beside = folder / BESIDE_MASKS
    return labels.load(given or (str(beside) if beside.is_file() else labels.CITYSCAPES.name))
