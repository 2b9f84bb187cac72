"""Folders of masks written by infer_val.py: the masks of a list, and their classes."""

from collections.abc import Sequence
from pathlib import Path

from core.cli import UserError
from datasets import labels
from datasets.labels import BESIDE_MASKS, LabelSet
from datasets.lists import Sample, mask_names


def masks_in(folder: Path, samples: Sequence[Sample]) -> list[Path]:
    """Each sample's mask in a folder written by infer_val.py; UserError if some are missing, or from `mask_names`."""
    paths = [folder / name for name in mask_names(samples)]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        some = f"{len(missing)} of {len(paths)} masks are missing, first: {missing[0]}"
        raise UserError(f"{some}; infer_val.py writes them")
    return paths


def of_masks(folder: Path, given: str = "") -> LabelSet:
    """The label set of a folder of masks: `given`, else as recorded there by infer_val.py, else Cityscapes'."""
    beside = folder / BESIDE_MASKS
    return labels.load(given or (str(beside) if beside.is_file() else labels.CITYSCAPES.name))
