"""Compare predicted masks with a list's labels: IoU of each class, and their mean.

A mask has the name of its image, with `_leftImg8bit` replaced by `_gtFine_labelIds` (as infer_val.py writes it), and
the full size of the label: nothing is resized here. Pixels labelled 255 do not count; a prediction of 255 is wrong.
Classes that occur in neither labels nor predictions are left out of the means; it is an error if none is left.
"""

import json
import math
import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.cli import Parser, UserError, run  # isort: skip

import torch
from torch import Tensor

from core.metrics import ConfusionMatrix, pair_counts
from core.outputs import OutputFile
from datasets import labels, lists
from datasets.images import read_label
from datasets.labels import LabelSet
from tools.batch.masks import masks_in, of_masks
from tools.batch.threads import parallel_map

SYNTHIA_16, SYNTHIA_13 = (9, 14, 16), (3, 4, 5, 9, 14, 16)  # train IDs that SYNTHIA's protocols leave out
EXAMPLES = """examples:
  python tools/evaluate.py --predictions masks/resnet101_gta --list val_cityscapes
  python tools/evaluate.py --predictions masks/synthia --list val_cityscapes --ignore 9 14 16 --json out.json
"""


def pairs_of(name: str, root: Path, predictions: Path) -> list[tuple[Path, Path]]:
    """Prediction and label of each sample of a list; UserError if predictions are missing."""
    samples = lists.read(name, str(root), labels=True)
    labelled = [root / str(sample.label) for sample in samples]
    return list(zip(masks_in(predictions, samples), labelled, strict=True))


def compare(pair: tuple[Path, Path], num_classes: int) -> Tensor:
    """Confusion table of one image, int64 [C,C+1], as in ConfusionMatrix.

    Args:
        pair: prediction and label files.
        num_classes: C.

    Raises:
        UserError: a file is not a train-ID mask, or the two differ in size.
    """
    prediction, label = (read_label(path) for path in pair)
    if prediction.shape != label.shape:
        sizes = [f"{mask.shape[1]}x{mask.shape[0]}" for mask in (prediction, label)]
        raise UserError(f"{pair[0]} is {sizes[0]}, its label {pair[1]} {sizes[1]}; they must have the same size")
    counts = torch.from_numpy(pair_counts(label, prediction))  # [256,256]
    if counts[num_classes : labels.IGNORE].any() or counts[:, num_classes : labels.IGNORE].any():
        for path in pair:
            read_label(path, num_classes)  # reports which of the two holds other values than train IDs
    rows = counts[:num_classes]
    return torch.cat([rows[:, :num_classes], rows[:, num_classes:].sum(1, keepdim=True)], 1)


def summary(matrix: ConfusionMatrix, classes: LabelSet, ignore: list[int], images: int) -> dict[str, Any]:
    """What --json writes: fractions, null if there is nothing to average."""
    protocols = classes.names == labels.CITYSCAPES.names
    means = {
        "miou": matrix.miou(ignore),
        "miou16": matrix.miou(SYNTHIA_16) if protocols else math.nan,
        "miou13": matrix.miou(SYNTHIA_13) if protocols else math.nan,
    }
    result = {
        **means,
        "iou": dict(zip(classes.names, matrix.iou(), strict=True)),
        "accuracy": matrix.accuracy(),
        "images": images,
    }
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in result.items()}


def table(matrix: ConfusionMatrix, result: dict[str, Any], classes: LabelSet, ignore: list[int]) -> str:
    """The result as text, in percent."""
    lines = [f"{'class':>5}  {'name':20} {'IoU':>6} {'precision':>10} {'recall':>7}"]
    columns = zip(classes.names, matrix.iou(), matrix.precision(), matrix.recall(), strict=True)
    for c, (name, iou, precision, recall) in enumerate(columns):
        numbers = f"{percent(iou):>6} {percent(precision):>10} {percent(recall):>7}"
        lines.append(f"{c:5}  {name:20} {numbers}" + ("  not in the mean" if c in ignore else ""))
    counted = classes.num_classes - len(ignore)
    lines.append(f"mIoU over {counted} classes: {percent(result['miou'])}")
    if classes.names == labels.CITYSCAPES.names:
        lines.append(f"mIoU over 16 classes (SYNTHIA): {percent(result['miou16'])}")
        lines.append(f"mIoU over 13 classes (SYNTHIA): {percent(result['miou13'])}")
    lines.append(f"pixel accuracy: {percent(result['accuracy'])}, images: {result['images']}")
    return "\n".join(lines)


def percent(fraction: float | None) -> str:
    """A fraction in percent; a dash if there is none."""
    return "-" if fraction is None else f"{100 * fraction:.2f}"


def main() -> None:
    """Parse the arguments, compare, print."""
    parser = Parser(description=__doc__, epilog=EXAMPLES)
    parser.add_argument("--predictions", required=True, type=Path, help="folder of the masks (train IDs)")
    parser.add_argument("--list", required=True, help="name or file of a list with labels")
    parser.add_argument("--root", type=Path, default=Path("data"), help="folder of the data (default data)")
    parser.add_argument("--ignore", type=int, nargs="*", default=[], help="classes left out of the mean")
    parser.add_argument("--json", type=Path, help="also write the result, as fractions, to this file")
    parser.add_argument("--force", action="store_true", help="replace an existing --json")
    parser.add_argument("--classes", default="", metavar="NAME|FILE",
                        help="label set (default: as recorded by infer_val.py with the masks, else cityscapes)")
    parser.add_argument("--workers", type=int, default=0, help="threads; 0 = one per core")
    args = parser.parse_args()
    classes = of_masks(args.predictions, args.classes)
    ignore = sorted(set(args.ignore))
    if any(not 0 <= c < classes.num_classes for c in ignore):
        raise UserError(f"--ignore {' '.join(map(str, ignore))}: classes are 0 to {classes.num_classes - 1}")
    if len(ignore) == classes.num_classes:
        raise UserError(f"--ignore names all {len(ignore)} classes: leave one for the mean")
    if not args.predictions.is_dir():
        raise UserError(f"--predictions {args.predictions}: there is no such folder")
    pairs = pairs_of(args.list, args.root, args.predictions)
    inputs = [args.classes, lists.find(args.list, str(args.root)), *(path for pair in pairs for path in pair)]
    output = OutputFile("--json", args.json, args.force, inputs) if args.json else None

    torch.set_num_threads(1)  # the parallelism is over images
    matrix = ConfusionMatrix(classes.num_classes)
    job = partial(compare, num_classes=classes.num_classes)
    for counts in parallel_map(job, pairs, args.workers, "evaluating"):
        matrix.table += counts
    result = summary(matrix, classes, ignore, len(pairs))
    if result["miou"] is None:
        besides = f", except those of --ignore ({' '.join(map(str, ignore))})" if ignore else ""
        raise UserError(f"no mIoU: no pixel in the {len(pairs)} labels of list {args.list} has a class{besides}")
    print(table(matrix, result, classes, ignore))
    if output:
        output.write((json.dumps(result, indent=1) + "\n").encode())
        print(f"written to {args.json}")


if __name__ == "__main__":
    run(main)
