"""Convert the label files of a data set into train ids: 8-bit grey PNGs, 0 ... C-1, 255 = ignored.

What is read, in --ann-data and the folders below it, which --ann-out gets as well:
  cs       *labelIds.png   8-bit grey PNGs of label ids
  gta      *.png           palette PNGs whose indices are Cityscapes label ids (or 8-bit grey ones)
  synthia  *.png           16-bit RGB PNGs whose red channel is SYNTHIA's class
  own      *.png           palette or 8-bit grey PNGs of the raw ids that the label set --classes maps

Labels that are there already are not made again, so that an interrupted run resumes where it stopped. Where all
pixels of several labels, of every one, would be ignored, nothing is written: the ids are not those of --dataset.
"""

import os
import sys
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.cli import Parser, UserError, run  # isort: skip

import cv2
import numpy as np
from PIL import Image, ImageOps

from core.files import find_files, read_bytes, sweep
from core.outputs import OutputFolder, refuse_inputs
from core.threads import parallel_map
from datasets import images, labels, lists

EXAMPLES = r"""examples:
  python tools/convert_train_ids.py --dataset cs \
      --ann-data data/cityscapes/gtFine --ann-out data/cityscapes/gtFine2
  python tools/convert_train_ids.py --dataset gta --ann-data data/game/labels --ann-out data/game/labels_cs
  python tools/convert_train_ids.py --dataset synthia \
      --ann-data data/synthia/GT/LABELS --ann-out data/synthia/labels_cs
"""
# What is expected, and what to do where it is something else.
LABEL_IDS = "an 8-bit grey PNG of label ids; is --dataset right?"
INDICES = "a palette or 8-bit grey PNG of label ids; is --dataset right?"
OWN = "a palette or 8-bit grey PNG of the ids that `raw_ids` in --classes maps"
RED16 = "a 16-bit RGB PNG of SYNTHIA; is --dataset right?"


def read_grey(path: Path) -> np.ndarray:
    """Raw ids of an 8-bit grey PNG, uint8 [H,W]."""
    return _decode(path, [(8, images.GREY)], LABEL_IDS)


def read_indices(path: Path, expected: str = INDICES) -> np.ndarray:
    """Raw ids of a palette PNG (its indices, whatever the colours) or of an 8-bit grey PNG, uint8 [H,W]."""
    content = read_bytes(path)
    if images.kind(content, path)[1] != images.PALETTE:
        return _decode(path, [(8, images.GREY)], expected)
    try:
        return np.asarray(ImageOps.exif_transpose(Image.open(BytesIO(content))))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be decoded ({error}); get it again") from None


def read_red16(path: Path) -> np.ndarray:
    """Raw ids in the red channel of a 16-bit RGB PNG, uint8 [H,W]."""
    red = cv2.extractChannel(_decode(path, [(16, images.RGB)], RED16), 2)  # OpenCV: BGR
    if red.max() > 255:
        raise UserError(f"{path} has the class {red.max()} in its red channel; is it a label of SYNTHIA?")
    return red.astype(np.uint8)


def _decode(path: Path, kinds: list[tuple[int, int]], expected: str) -> np.ndarray:
    content = read_bytes(path)
    depth, colour = images.kind(content, path)
    if (depth, colour) not in kinds:
        found = f"{depth}-bit {images.COLOUR_TYPES.get(colour, 'unknown')} PNG"
        raise UserError(f"{path} is a {found}, expected {expected}")
    return images.decode(content, path, cv2.IMREAD_UNCHANGED)


DATASETS: dict[str, tuple[str, Callable[[Path], np.ndarray]]] = {  # how their names end, and how they are read
    "cs": ("labelIds.png", read_grey),
    "gta": (".png", read_indices),
    "synthia": (".png", read_red16),
    "own": (".png", partial(read_indices, expected=OWN)),
}


def is_done(path: Path) -> bool:
    """Whether a label is there and complete; UserError for a picture that no conversion has written."""
    try:
        content = path.read_bytes()
    except OSError:
        content = b""  # if it is there all the same, writing tells what is wrong
    if not content.startswith(images.SIGNATURE) or images.problem(content):
        if content and not content.startswith(images.SIGNATURE[:4]):
            raise UserError(f"{path} is not a PNG image; --force replaces it, or choose another --ann-out")
        return False  # a power failure may cut a file off
    depth, colour = images.kind(content, path)
    if (depth, colour) != (8, images.GREY):
        found = f"{depth}-bit {images.COLOUR_TYPES.get(colour, 'unknown')} PNG"
        raise UserError(f"{path} is a {found}, not a converted label; --force replaces it, or choose another --ann-out")
    return True


class Outcome(NamedTuple):
    """What became of a label."""

    target: Path
    size: tuple[int, int] = (0, 0)  # height, width; (0, 0): it was there already
    ignored: int = 0  # pixels
    unknown: tuple[int, ...] = ()  # the raw ids of a label that is ignored all over; it is not written yet


def convert(files: tuple[Path, Path], read: Callable[[Path], np.ndarray], table: np.ndarray, force: bool) -> Outcome:
    """Convert one file, and write it if any of its pixels has a class.

    Args:
        files: raw label, train-id label.
        read: file -> raw ids, uint8 [H,W].
        table: raw id -> train id, uint8 [256].
        force: also where the label is there.
    """
    source, target = files
    if not force and is_done(target):
        return Outcome(target)
    raw = read(source)
    label = cv2.LUT(raw, table)
    ignored = int(np.count_nonzero(label == labels.IGNORE))
    if ignored == label.size:
        return Outcome(target, label.shape, ignored, tuple(np.unique(raw).tolist()))
    images.write_mask(target, label)
    return Outcome(target, label.shape, ignored)


def write_void(outcomes: list[Outcome], args: Namespace) -> None:
    """Write the labels that are ignored all over (the released code wrote none, quirk B14).

    Raises:
        UserError: there are several labels, and all of them are: it is the ids that are not understood.
    """
    void = [outcome for outcome in outcomes if outcome.unknown]
    if len(void) == len(outcomes) > 1:
        ids = sorted({raw for outcome in void for raw in outcome.unknown})
        some = ", ".join(map(str, ids[:10])) + (", ..." if len(ids) > 10 else "")
        right = f"does `raw_ids` of {args.classes} name them?" if args.classes else "is --dataset right?"
        raise UserError(f"nothing was written: every pixel of the {len(void)} labels in {args.ann_data} would be "
                        f"ignored; their ids are {some}; {right}")
    for outcome in void:
        images.write_mask(outcome.target, np.full(outcome.size, labels.IGNORE, np.uint8))


def find(args: Namespace, ending: str) -> list[tuple[Path, Path]]:
    """Raw and train-id label of every file; UserError if there are none, or one could overwrite another."""
    source, target = (Path(os.path.abspath(folder)) for folder in (args.ann_data, args.ann_out))
    if not source.is_dir():
        raise UserError(f"--ann-data {args.ann_data}: there is no such folder")
    if source.resolve() == target.resolve():
        raise UserError("--ann-out is --ann-data: the raw labels would be overwritten")
    names = [path.relative_to(source) for path in find_files(source, (ending,)) if target not in path.parents]
    if not names:
        raise UserError(f"there is no *{ending} below {args.ann_data}")
    if pair := lists.clash([name.as_posix() for name in names]):
        one, other = (names[i] for i in pair)
        raise UserError(f"some file systems take {one} and {other} in {args.ann_data} for one file; rename one of them")
    return [(source / name, target / name) for name in names]


def main() -> None:
    """Parse the arguments and convert."""
    parser = Parser(description=__doc__, epilog=EXAMPLES)
    parser.add_argument("--dataset", required=True, choices=DATASETS)
    parser.add_argument("--ann-data", required=True, type=Path, help="folder with the raw labels")
    parser.add_argument("--ann-out", required=True, type=Path, help="folder for the labels as train ids")
    parser.add_argument("--classes", help="YAML file of the label set, for --dataset own")
    parser.add_argument("--force", action="store_true", help="convert again what is there already")
    parser.add_argument("--workers", type=int, default=0, help="threads; 0 = one a core")
    args = parser.parse_args()
    if (args.dataset == "own") != (args.classes is not None):
        raise UserError("--dataset own needs --classes FILE, the published data sets have their own maps")
    mapping = labels.load(args.classes).raw_to_train if args.classes else labels.RAW_MAPS[args.dataset]

    ending, read = DATASETS[args.dataset]
    files = find(args, ending)
    targets = [target for _, target in files]
    refuse_inputs("--ann-out", targets, (source for source, _ in files))
    # The published data sets have one map each.
    folder = OutputFolder("--ann-out", args.ann_out, {"raw_ids": dict(mapping)}) if args.classes else None
    if folder:
        folder.claim(targets, args.force)
    job = partial(convert, read=read, table=labels.lookup_table(mapping), force=args.force)
    try:
        outcomes = list(parallel_map(job, files, args.workers, f"converting {args.dataset}"))
        write_void(outcomes, args)
    except UserError:
        if folder:
            folder.withdraw()
        raise
    for path in {target.parent for target in targets}:
        sweep(path)
    made = [outcome for outcome in outcomes if outcome.size[0]]
    print(f"{len(made)} labels converted, {len(files) - len(made)} were there already: {args.ann_out}")
    if made:
        share = sum(outcome.ignored for outcome in made) / sum(h * w for _, (h, w), *_ in made)
        print(f"{100 * share:.1f} % of the converted pixels are ignored (255)")


if __name__ == "__main__":
    run(main)
