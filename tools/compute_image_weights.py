"""Compute the importance weights of a target list from its images' masks (docs/method.md section 7).

Counts the pixels of each class in all masks in --labels, but not in its subfolders: infer_val.py puts the same masks
there as label IDs, under the same names. Writes {mask name: {class: the mask's pixels of the class / all masks' pixels
of the class}}, with an entry for each class that occurs in the mask. Pixels of value 255 do not count. The names are
those that training expects: X_gtFine_labelIds.png for a file X_leftImg8bit.png, X.png for a file X.tif.
"""

import sys
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.cli import Parser, UserError, run  # isort: skip

import numpy as np

from core.files import find_files
from core.metrics import class_counts
from core.outputs import OutputFile
from datasets import labels, lists
from datasets.images import read_label
from datasets.labels import LabelSet
from datasets.lists import Sample
from datasets.sampling import Weights, write_weights
from tools.batch.masks import of_masks
from tools.batch.threads import parallel_map

EXAMPLES = """examples:
  python tools/compute_image_weights.py --labels masks/resnet101_gta --out data/cs_weights_resnet101_gta.data
  python tools/compute_image_weights.py --labels masks/own --ext '*.png' --classes own.yaml --out own.data
"""


def find(folder: Path, pattern: str) -> list[Path]:
    """Masks in a folder whose names match, ignoring case, sorted by name.

    Raises:
        UserError: there is no such folder, or no such file in it.
    """
    if not folder.is_dir():
        raise UserError(f"--labels {folder}: there is no such folder")
    masks = (path for path in find_files(folder) if path.parent == folder)
    found = [path for path in masks if fnmatchcase(path.name.lower(), pattern.lower())]
    if not found:
        raise UserError(f"{folder} has no file {pattern}; --ext sets the pattern of mask names")
    return found


def count(path: Path, classes: LabelSet) -> np.ndarray:
    """Pixels of each class in a mask, int64 [C]; UserError for values other than train IDs and 255."""
    counts = class_counts(read_label(path))
    other = np.flatnonzero(counts[: labels.IGNORE])
    if other.size and other[-1] >= classes.num_classes:
        raise UserError(
            f"{path} holds {other[-1]}, but train IDs are 0 to {classes.num_classes - 1} and 255; "
            "are these raw IDs (the folder cs/), or is --classes missing?"
        )
    return counts[: classes.num_classes]


def fractions(names: list[str], counts: np.ndarray) -> Weights:
    """Each mask's share of all pixels of a class; `counts` int64 [M,C], one row per mask."""
    totals = counts.sum(0)  # [C]
    return {
        name: {int(c): float(row[c] / totals[c]) for c in np.flatnonzero(row)}
        for name, row in zip(names, counts, strict=True)
    }


def main() -> None:
    """Parse the arguments, count, write."""
    parser = Parser(description=__doc__, epilog=EXAMPLES)
    parser.add_argument("--labels", required=True, type=Path, help="folder with the masks")
    parser.add_argument("--out", required=True, type=Path, help="the weights file")
    parser.add_argument("--ext", default="*labelIds.png", help="pattern of mask names (default %(default)s)")
    parser.add_argument("--classes", default="", metavar="NAME|FILE",
                        help="label set (default: as recorded by infer_val.py with the masks, else cityscapes)")
    parser.add_argument("--force", action="store_true", help="replace an existing --out")
    parser.add_argument("--workers", type=int, default=0, help="threads; 0 = one per core")
    args = parser.parse_args()
    classes = of_masks(args.labels, args.classes)
    paths = find(args.labels, args.ext)
    names = lists.mask_names([Sample(path.name, None) for path in paths])
    output = OutputFile("--out", args.out, args.force, [classes.name, *paths])
    rows = parallel_map(lambda path: count(path, classes), paths, args.workers, "counting")
    counts = np.stack(list(rows))  # [M,C]
    if not counts.any():
        raise UserError(f"no mask in {args.labels} has a pixel of any class")
    output.save(partial(write_weights, fractions(names, counts)))

    print(f"{'class':>5}  {'name':20} {'pixels':>14} {'masks':>8}")
    for c, name in enumerate(classes.names):
        print(f"{c:5}  {name:20} {counts[:, c].sum():14} {(counts[:, c] > 0).sum():8}")
    print(f"weights of {len(paths)} masks written to {args.out}")


if __name__ == "__main__":
    run(main)
