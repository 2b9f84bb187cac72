"""Mean and standard deviation of a list's images and, if they have labels, the share of each class.

Mean and deviation are over all pixels of all images, per channel, as fractions of 255, printed as configuration lines
ready to copy. A class's share is of the pixels that are not ignored (255).
"""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.cli import Parser, UserError, run  # isort: skip

import numpy as np

from core.metrics import class_counts
from core.outputs import OutputFile
from datasets import labels, lists
from datasets.images import read_image, read_label
from datasets.labels import IGNORE, LabelSet
from datasets.lists import Sample
from tools.batch.threads import parallel_map
from tools.domain.look import mean_std, moments

EXAMPLES = """examples:
  python tools/dataset_stats.py --list own_source --root data/own --classes configs/custom_classes.yaml
  python tools/dataset_stats.py --list own_target --root data/own --as TARGET
"""


class Counts(NamedTuple):
    """What one image contributes."""

    moments: np.ndarray  # float64 [3,3], of its pixels
    classes: np.ndarray  # int64 [256], pixels of each label; all 0 without a label


def measure(sample: Sample, root: Path, num_classes: int) -> Counts:
    """Count one image and its label; UserError if either cannot be read."""
    image = read_image(root / sample.image)
    classes = np.zeros(256, np.int64)
    if sample.label is not None:
        classes = class_counts(read_label(root / sample.label, num_classes))
    return Counts(moments(image), classes)


def statistics(counts: list[Counts], label_set: LabelSet) -> dict[str, Any]:
    """What --json writes: fractions; classes are null if there are no labels."""
    mean, std = mean_std(sum(c.moments for c in counts))
    classes = sum(c.classes for c in counts)
    labelled = int(classes[: label_set.num_classes].sum())
    shares = classes[: label_set.num_classes] / max(1, labelled)
    return {
        "images": len(counts),
        "mean": [round(x, 6) for x in mean.tolist()],
        "std": [round(x, 6) for x in std.tolist()],
        "classes": dict(zip(label_set.names, shares.tolist(), strict=True)) if labelled else None,
        "ignored": float(classes[IGNORE] / classes.sum()) if classes.any() else None,
    }


def text(result: dict[str, Any], domain: str) -> str:
    """The result as text, with lines for the configuration."""
    lines = [f"{result['images']} images; for the configuration:", "DATASET:"]
    for key in ("mean", "std"):
        lines.append(f"  {domain}_{key.upper()}: [{', '.join(f'{x:.3f}' for x in result[key])}]")
    if result["classes"] is None:
        return "\n".join([*lines, "no labels, so no class shares"])
    lines.append(f"{'class':>5}  {'name':20} {'share':>8}")
    for c, (name, share) in enumerate(result["classes"].items()):
        lines.append(f"{c:5}  {name:20} {100 * share:7.3f}%" + ("  never occurs" if share == 0 else ""))
    return "\n".join([*lines, f"{IGNORE:5}  {'ignored':20} {100 * result['ignored']:7.3f}% of all pixels"])


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = Parser(description=__doc__, epilog=EXAMPLES)
    parser.add_argument("--list", required=True, help="name or file of a list")
    parser.add_argument("--root", type=Path, default=Path("data"), help="folder of the data (default data)")
    parser.add_argument("--classes", default="cityscapes", help="label set: cityscapes, or a YAML file")
    parser.add_argument("--as", choices=("SOURCE", "TARGET"), dest="domain",
                        help="prefix of the printed keys (default: SOURCE with labels, TARGET without)")
    parser.add_argument("--json", type=Path, help="also write the result, as fractions, to this file")
    parser.add_argument("--force", action="store_true", help="replace an existing --json")
    parser.add_argument("--workers", type=int, default=0, help="threads; 0 = one per core")
    args = parser.parse_args()
    label_set = labels.load(args.classes)
    samples = lists.read(args.list, str(args.root))
    with_label = [sample for sample in samples if sample.label is not None]
    if 0 < len(with_label) < len(samples):
        given = f"{len(with_label)} of {len(samples)} lines"
        raise UserError(f"list {args.list}: {given} have a label; give all of them a label, or none")
    inputs = [args.classes, lists.find(args.list, str(args.root))]
    inputs += [args.root / path for sample in samples for path in sample if path]
    output = OutputFile("--json", args.json, args.force, inputs) if args.json else None

    job = partial(measure, root=args.root, num_classes=label_set.num_classes)
    result = statistics(list(parallel_map(job, samples, args.workers, "measuring")), label_set)
    print(text(result, args.domain or ("SOURCE" if with_label else "TARGET")))
    if output:
        output.write((json.dumps(result, indent=1) + "\n").encode())
        print(f"written to {args.json}")


if __name__ == "__main__":
    run(main)
