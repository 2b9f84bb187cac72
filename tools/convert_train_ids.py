"""Convert the label files of a data set to train IDs: 8-bit grey PNGs, 0 ... C-1, 255 = ignored.

--dataset is a name in configs/domains (cs = cityscapes), a YAML file of the same form, or own. Labels are read below
--root, where that file says, or from --ann-data into --ann-out: every label with the data set's ending. Encodings:
  raw_ids  8-bit grey PNGs of raw IDs              red16      16-bit RGB PNGs whose red channel is the class
  palette  palette PNGs whose indices are raw IDs  rgb        RGB PNGs of the colours that `raw_colours` names
           (or 8-bit grey ones)                    train_ids  nothing needs to be converted
own: *.png in --ann-data: palette or grey PNGs of raw IDs, or RGB PNGs of colours, as mapped by --classes.

Existing labels are kept, so that an interrupted run resumes where it stopped; labels of your own data that were made
with another map are only replaced with --force. If every pixel of every label would be ignored, nothing is written
(unless there is only one label): the IDs are not those of --dataset.
"""

import os
import sys
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.cli import Parser, UserError, run  # isort: skip

import cv2
import numpy as np

from core.files import find_files, sweep
from core.outputs import OutputFolder, refuse_inputs
from datasets import images, labels, lists
from datasets.labels import LabelSet
from tools.batch import png
from tools.batch.threads import parallel_map
from tools.domain import domains
from tools.domain.domains import Domain
from tools.domain.raw import read_raw, to_train

EXAMPLES = """examples:
  python tools/convert_train_ids.py --dataset acdc
  python tools/convert_train_ids.py --dataset configs/own_source.yaml
  python tools/convert_train_ids.py --dataset gta --ann-data data/game/labels --ann-out data/game/labels_cs
"""


class Task(NamedTuple):
    """What to convert."""

    files: list[tuple[Path, Path]]  # raw label, train-ID label
    encoding: str
    classes: LabelSet
    sources: tuple[str, ...] = ()  # the user's own YAML files that define it
    folder: OutputFolder | None = None  # for a user's own labels; other data sets have one map each

    @property
    def origin(self) -> str:
        """What defines the task, for messages: a user's own YAML file, or --dataset."""
        return self.sources[-1] if self.sources else "--dataset"


def is_done(path: Path) -> bool:
    """Whether a label exists and is complete; UserError for an image that no conversion wrote."""
    try:
        content = path.read_bytes()
    except OSError:
        content = b""  # if it exists after all, writing reports the problem
    if not content.startswith(images.SIGNATURE) or images.inspect(content)[0]:
        if content and not content.startswith(images.SIGNATURE[:4]):
            raise UserError(f"{path} is not a PNG image; --force replaces it, or choose another --ann-out")
        return False  # a power failure may truncate a file
    depth, colour = png.kind(content, path)
    if (depth, colour) != (8, png.GREY):
        found = f"{depth}-bit {png.COLOUR_TYPES.get(colour, 'unknown')} PNG"
        raise UserError(f"{path} is a {found}, not a converted label; --force replaces it, or choose another --ann-out")
    return True


class Outcome(NamedTuple):
    """The result for one label."""

    target: Path
    size: tuple[int, int] = (0, 0)  # height, width; (0, 0): it already existed
    ignored: int = 0  # pixels
    unknown: tuple[int, ...] = ()  # the raw IDs of a label with every pixel ignored; not written yet


def convert(files: tuple[Path, Path], task: Task, table: np.ndarray, force: bool) -> Outcome:
    """Convert one file, and write it if any of its pixels has a class.

    Args:
        files: raw label, train-ID label.
        task: how it is read.
        table: raw ID -> train ID, as from `to_train`.
        force: even if the label exists.
    """
    source, target = files
    if not force and is_done(target):
        return Outcome(target)
    raw = read_raw(source, task.encoding, task.origin)
    label = cv2.LUT(raw, table) if raw.dtype == np.uint8 else table[raw]
    ignored = int(np.count_nonzero(label == labels.IGNORE))
    if ignored == label.size:
        return Outcome(target, label.shape, ignored, tuple(np.unique(raw).tolist()))
    png.write_mask(target, label)
    return Outcome(target, label.shape, ignored)


def write_void(outcomes: list[Outcome], task: Task) -> None:
    """Write the labels with every pixel ignored (the released code wrote none, quirk B14).

    Raises:
        UserError: there are several labels, and all of them are like that: the IDs are not understood.
    """
    void = [outcome for outcome in outcomes if outcome.unknown]
    if len(void) == len(outcomes) > 1:
        ids = sorted({raw for outcome in void for raw in outcome.unknown})
        shown = [f"{raw >> 16} {raw >> 8 & 255} {raw & 255}" if task.encoding == "rgb" else str(raw) for raw in ids]
        some = ", ".join(shown[:10]) + (", ..." if len(ids) > 10 else "")
        what, key = ("colours", "raw_colours") if task.encoding == "rgb" else ("IDs", "raw_ids")
        right = "is --dataset right?" if task.origin == "--dataset" else f"does `{key}` of {task.origin} name them?"
        raise UserError(f"nothing was written: every pixel of the {len(void)} labels, first {task.files[0][0]}, would "
                        f"be ignored; their {what} are {some}; {right}")
    for outcome in void:
        png.write_mask(outcome.target, np.full(outcome.size, labels.IGNORE, np.uint8))


def find(ann_data: Path, ann_out: Path, ending: str) -> list[tuple[Path, Path]]:
    """Raw and train-ID label of every file with this ending in or below --ann-data."""
    source, target = (Path(os.path.abspath(folder)) for folder in (ann_data, ann_out))
    if not source.is_dir():
        raise UserError(f"--ann-data {ann_data}: there is no such folder")
    if source.resolve() == target.resolve():
        raise UserError("--ann-out is --ann-data: the raw labels would be overwritten")
    names = [path.relative_to(source) for path in find_files(source, (ending,)) if target not in path.parents]
    if not names:
        raise UserError(f"there is no *{ending} below {ann_data}")
    return [(source / name, target / name) for name in names]


def find_all(domain: Domain, root: Path) -> list[tuple[Path, Path]]:
    """Raw and train-ID label of each of a domain's labels below its root."""
    pattern = domain.labels.files
    folder = root / pattern.folder
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; unpack the labels of {domain.name} there, or give another "
                        "--root, or --ann-data and --ann-out")
    names = [path.relative_to(root).as_posix() for path in find_files(folder, (pattern.tail,))]
    found = [(root / name, root / domain.labels.train_ids.fill(values))
             for name in names if (values := pattern.match(name)) is not None]
    if not found:
        raise UserError(f"there is no label {pattern.text} below {root}; unpack the labels of {domain.name} there")
    return found


def check_names(files: list[tuple[Path, Path]]) -> None:
    """UserError if one label could overwrite another."""
    if pair := lists.clash([target.as_posix() for _, target in files]):
        one, other = (files[i][0] for i in pair)
        raise UserError(f"on some file systems, {one} and {other} are the same file; rename one of them")


def task_of(args: Namespace) -> Task:
    """The task that the arguments describe; UserError if they are inconsistent or there are no labels."""
    if (args.dataset == "own") != (args.classes is not None):
        raise UserError("--classes FILE belongs to --dataset own, which needs it; other data sets have their own maps")
    if (args.ann_data is None) != (args.ann_out is None) or (args.dataset == "own" and not args.ann_data):
        raise UserError("--ann-data and --ann-out belong together; --dataset own needs both")
    if args.dataset == "own":
        classes, sources = labels.load(args.classes), (args.classes,)
        encoding = "rgb" if classes.colour_to_train else "palette"
        files, out = find(args.ann_data, args.ann_out, ".png"), args.ann_out
    else:
        domain = domains.load(args.dataset)
        if domain.labels is None:
            raise UserError(f"--dataset {args.dataset} has no `labels` to convert")
        classes, sources, encoding = domain.classes, domain.sources, domain.labels.encoding
        root = args.root or Path(domain.root)
        files = find(args.ann_data, args.ann_out, domain.labels.ending) if args.ann_data else find_all(domain, root)
        out = args.ann_out or root / domain.labels.train_ids.folder
    option = "--ann-out" if args.ann_out else "labels: train_ids:"
    folder = OutputFolder(option, out, maker(classes, encoding)) if sources else None
    return Task(files, encoding, classes, sources, folder)


def maker(classes: LabelSet, encoding: str) -> dict[str, dict]:
    """What a user's own labels depend on besides the raw ones."""
    if encoding == "rgb":
        return {"raw_colours": {" ".join(map(str, rgb)): train for rgb, train in classes.colour_to_train.items()}}
    return {"raw_ids": dict(classes.raw_to_train)}


def main() -> None:
    """Parse the arguments and convert."""
    parser = Parser(description=__doc__, epilog=EXAMPLES)
    parser.add_argument("--dataset", required=True, metavar="NAME|FILE",
                        help=f"{', '.join(domains.names())}, cs, own, or a YAML file")
    parser.add_argument("--root", type=Path, help="folder of the data (default: data, or as in the YAML file)")
    parser.add_argument("--ann-data", type=Path, help="folder of the raw labels, if they are elsewhere")
    parser.add_argument("--ann-out", type=Path, help="folder for the train-ID labels")
    parser.add_argument("--classes", help="YAML file of the label set, for --dataset own")
    parser.add_argument("--force", action="store_true", help="convert existing labels again")
    parser.add_argument("--workers", type=int, default=0, help="threads; 0 = one per core")
    args = parser.parse_args()
    task = task_of(args)
    if task.encoding == "train_ids":
        print(f"the {len(task.files)} labels of {args.dataset} are already train IDs: nothing to convert")
        return
    check_names(task.files)
    targets = [target for _, target in task.files]
    inputs = [*task.sources, *(source for source, _ in task.files)]
    refuse_inputs("--ann-out" if args.ann_out else "--dataset", targets, inputs)
    if task.folder:
        task.folder.claim(targets, args.force, inputs)
    job = partial(convert, task=task, table=to_train(task.classes, task.encoding), force=args.force)
    try:
        outcomes = list(parallel_map(job, task.files, args.workers, f"converting {args.dataset}"))
        write_void(outcomes, task)
    except UserError:
        if task.folder:
            task.folder.withdraw()
        raise
    for path in {target.parent for target in targets}:
        sweep(path)
    made = [outcome for outcome in outcomes if outcome.size[0]]
    folder = args.ann_out or os.path.commonpath([outcome.target.parent for outcome in outcomes])
    print(f"{len(made)} labels converted, {len(outcomes) - len(made)} already existed: {folder}")
    if made:
        share = sum(outcome.ignored for outcome in made) / sum(h * w for _, (h, w), *_ in made)
        print(f"{100 * share:.1f} % of the converted pixels are ignored (255)")


if __name__ == "__main__":
    run(main)
