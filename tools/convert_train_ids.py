"""Convert the label files of a data set into train ids: 8-bit grey PNGs, 0 ... C-1, 255 = ignored.

What is read, below --ann-data:
  cs       **/*labelIds.png   8-bit grey PNGs of label ids; the tree of folders is kept
  gta      *.png              palette PNGs whose indices are Cityscapes label ids (or 8-bit grey ones)
  synthia  *.png              16-bit RGB PNGs whose red channel is SYNTHIA's class
  own      **/*.png           palette or 8-bit grey PNGs of the raw ids that the label set --classes maps

Labels that are there already are not made again, so that an interrupted run goes on where it stopped.
"""

import sys
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core import png
from core.cli import Parser, UserError, run
from core.files import read_bytes, sweep
from core.outputs import OutputFolder, refuse_inputs
from core.threads import parallel_map
from datasets import labels

EXAMPLES = r"""examples:
  python tools/convert_train_ids.py --dataset cs \
      --ann-data data/cityscapes/gtFine --ann-out data/cityscapes/gtFine2
  python tools/convert_train_ids.py --dataset gta --ann-data data/game/labels --ann-out data/game/labels_cs
  python tools/convert_train_ids.py --dataset synthia \
      --ann-data data/synthia/GT/LABELS --ann-out data/synthia/labels_cs
"""


def read_grey(path: Path) -> np.ndarray:
    """Raw ids of an 8-bit grey PNG, uint8 [H,W]."""
    return _decode(path, [(8, png.GREY)], "an 8-bit grey PNG of label ids")


def read_indices(path: Path) -> np.ndarray:
    """Raw ids of a palette PNG (its indices, whatever the colours) or of an 8-bit grey PNG, uint8 [H,W]."""
    content = read_bytes(path)
    if png.kind(content, path)[1] != png.PALETTE:
        return _decode(path, [(8, png.GREY)], "a palette or 8-bit grey PNG of label ids")
    try:
        return np.asarray(Image.open(BytesIO(content)))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be decoded ({error}); get it again") from None


def read_red16(path: Path) -> np.ndarray:
    """Raw ids in the red channel of a 16-bit RGB PNG, uint8 [H,W]."""
    red = cv2.extractChannel(_decode(path, [(16, png.RGB)], "a 16-bit RGB PNG of SYNTHIA"), 2)  # OpenCV: BGR
    if red.max() > 255:
        raise UserError(f"{path} has the class {red.max()} in its red channel; is it a label of SYNTHIA?")
    return red.astype(np.uint8)


def _decode(path: Path, kinds: list[tuple[int, int]], expected: str) -> np.ndarray:
    content = read_bytes(path)
    depth, colour = png.kind(content, path)
    if (depth, colour) not in kinds:
        found = f"{depth}-bit {png.COLOUR_TYPES.get(colour, 'unknown')} PNG"
        raise UserError(f"{path} is a {found}, expected {expected}; is --dataset right?")
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise UserError(f"{path} cannot be decoded; get it again")
    return image


DATASETS: dict[str, tuple[str, Callable[[Path], np.ndarray]]] = {  # which files, and how they are read
    "cs": ("**/*labelIds.png", read_grey),
    "gta": ("*.png", read_indices),
    "synthia": ("*.png", read_red16),
    "own": ("**/*.png", read_indices),
}


def is_done(path: Path) -> bool:
    """Whether a label is there and complete; UserError for a picture that no conversion has written."""
    try:
        content = path.read_bytes()
    except OSError:
        content = b""  # if it is there all the same, writing tells what is wrong
    if not content.startswith(png.SIGNATURE) or png.problem(content):
        if content and not content.startswith(png.SIGNATURE[:4]):
            raise UserError(f"{path} is there and is not a PNG image; --force replaces it, or choose another --ann-out")
        return False  # a power failure may cut a file off
    depth, colour = png.kind(content, path)
    if (depth, colour) != (8, png.GREY):
        found = f"{depth}-bit {png.COLOUR_TYPES.get(colour, 'unknown')} PNG"
        raise UserError(f"{path} is there and is a {found}, no converted label; --force replaces it, or choose another "
                        "--ann-out")
    return True


def convert(
    files: tuple[Path, Path], read: Callable[[Path], np.ndarray], table: np.ndarray, force: bool
) -> bool:
    """Convert one file.

    Args:
        files: raw label, train-id label.
        read: file -> raw ids, uint8 [H,W].
        table: raw id -> train id, uint8 [256].
        force: also where the label is there.

    Returns:
        whether there was anything to do.
    """
    source, target = files
    if not force and is_done(target):
        return False
    # Where nothing is mapped, all of it is 255; the released code wrote no file then (quirk B14).
    png.write_mask(target, cv2.LUT(read(source), table))
    return True


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

    source, target = args.ann_data.resolve(), args.ann_out.resolve()
    if not source.is_dir():
        raise UserError(f"--ann-data {args.ann_data}: there is no such folder")
    if source == target:
        raise UserError("--ann-out is --ann-data: the raw labels would be overwritten")
    pattern, read = DATASETS[args.dataset]
    files = [(path, target / path.relative_to(source)) for path in sorted(source.glob(pattern))
             if target not in path.parents]
    if not files:
        raise UserError(f"there is no {pattern} below {args.ann_data}")
    targets = [path for _, path in files]
    refuse_inputs("--ann-out", targets, (path for path, _ in files))
    if args.classes:  # the published data sets have one map each
        maker = {"raw_ids": {str(raw): train for raw, train in mapping.items()}}
        OutputFolder("--ann-out", target, maker).claim(targets, args.force)
    job = partial(convert, read=read, table=labels.lookup_table(mapping), force=args.force)
    made = sum(parallel_map(job, files, args.workers, f"converting {args.dataset}"))
    for folder in {path.parent for path in targets}:
        sweep(folder)
    print(f"{made} labels converted, {len(files) - made} were there already: {args.ann_out}")


if __name__ == "__main__":
    run(main)
