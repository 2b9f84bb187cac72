"""Compare several trainings in a table, summary.json and a picture (used by launch/adapt.sh)."""

import json
import sys
from argparse import Namespace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.cli import SEED, Parser, UserError, run  # isort: skip

import cv2
import numpy as np

from core import visual
from core.files import read_bytes, write_bytes
from datasets import labels, lists
from datasets.images import read_image, read_label
from tools.pipeline.plan import FILES, TITLES
from tools.pipeline.record import Record
from tools.report_page import runs

NAMES = {FILES[row]: title for row, title in TITLES.items()}
PICTURES = 4
WIDTH = 256  # of each, at most
EXAMPLES = """example:
  python tools/summarise_rows.py --folder results/v1/01_gta_resnet101 --list val_cityscapes \\
      --masks baseline=masks/v1/01_abn_gta_resnet101/val_cityscapes sac=masks/v1/01_gta_resnet101/val_cityscapes"""


def arguments() -> Namespace:
    """The command line; `masks` becomes {name: folder}, `titles` maps names to titles."""
    parser = Parser(description=__doc__, epilog=EXAMPLES)
    add = parser.add_argument
    add("--folder", required=True, type=Path, help="folder of NAME.json (tools/evaluate.py) and stages.json")
    add("--out", type=Path, help="folder for summary.json, table.md and comparison.png (default: --folder)")
    add("--list", required=True, help="labelled list that was evaluated on")
    add("--root", type=Path, default=Path("data"), help="folder of the data (default: data)")
    add("--classes", default="cityscapes", help="label set: cityscapes, or a YAML file")
    add("--seed", type=SEED, default=0, help="seed of the trainings, for summary.json")
    add("--baseline-log", type=Path, metavar="FILE", help="its log.txt, which shows if there is BatchNorm to adapt")
    add("--beside", type=Path, metavar="DIR", help="--folder of the same task without pretraining, to compare with")
    add("--masks", nargs="+", required=True, metavar="NAME=DIR", help=f"masks of {', '.join(NAMES)}, to compare")
    args = parser.parse_args()
    pairs = [text.partition("=") for text in args.masks]
    if wrong := [name for name, _, folder in pairs if name not in NAMES or not folder]:
        raise UserError(f"--masks {wrong[0]}: expected NAME=DIR, NAME one of {', '.join(NAMES)}")
    adapts = args.baseline_log is None or runs.log(args.baseline_log).get("kind") != "Source only"
    args.titles = NAMES if adapts else NAMES | {FILES["abn"]: "source only: no BatchNorm"}
    args.masks, args.out = {name: Path(folder) for name, _, folder in pairs}, args.out or args.folder
    return args


def table(results: dict[str, dict], titles: dict[str, str]) -> str:
    """Markdown table of IoU per class and their mean, in percent, one column per training."""
    head = f"| IoU, % | {' | '.join(titles[r] for r in results)} |\n| --- |{' ---: |' * len(results)}"
    names = list(next(iter(results.values()))["iou"])
    rows = [[name, *(r["iou"][name] for r in results.values())] for name in names]
    rows = [row for row in rows if any(v is not None for v in row[1:])]
    rows.append(["**mean**", *(r["miou"] for r in results.values())])
    return "\n".join([head, *(
        f"| {name} | {' | '.join('–' if v is None else f'{100 * v:.1f}' for v in values)} |" for name, *values in rows
    )])


def picture(args: Namespace) -> np.ndarray:
    """Input, truth and each training's masks side by side, for images across the list; with headings and a legend."""
    samples, label_set = lists.read(args.list, str(args.root), labels=True), labels.load(args.classes)
    palette, rows, seen = label_set.palette(), [], set()
    names = lists.mask_names(samples)
    for sample, name in list(zip(samples, names, strict=True))[:: max(1, len(samples) // PICTURES)][:PICTURES]:
        image = read_image(args.root / sample.image)
        masks = [read_label(args.root / sample.label)]
        masks += [read_label(folder / name) for folder in args.masks.values()]
        rows.append([image, *(visual.colour(mask, palette) for mask in masks)])
        seen |= {int(c) for mask in masks for c in np.unique(mask)}
    headings = ["input", "truth", *(args.titles[name] for name in args.masks)]
    sheet = visual.panel(rows, (image.shape[0], min(WIDTH, image.shape[1])), headings=headings)
    present = [c for c in range(label_set.num_classes) if c in seen]
    return np.vstack([sheet, visual.legend([label_set.names[c] for c in present], palette[present], sheet.shape[1])])


def note(args: Namespace, results: dict[str, dict], seconds: float) -> str:
    """The note below the table."""
    images = next(iter(results.values()))["images"]
    text = f"{images} images of {args.list}, seed {args.seed}, {seconds:.0f} s in total"
    if {"baseline", "sac"} <= set(results):
        text += f"; SAC {100 * (results['sac']['miou'] - results['baseline']['miou']):+.1f} points"
    text += beside(args, results) if args.beside else ""
    return (f"{text}. Scores are of each run's last snapshot; target labels were used neither for training nor for "
            "selection" + (", except by the oracle, which is trained on them." if "oracle" in results else "."))


def beside(args: Namespace, results: dict[str, dict]) -> str:
    """The effect of pretraining, if the same task was evaluated without it."""
    files = {name: path for name in results if (path := args.beside / f"{name}.json").is_file()}
    gains = (f"{args.titles[name]} {100 * (results[name]['miou'] - json.loads(read_bytes(path))['miou']):+.1f}"
             for name, path in files.items())
    return f"; gain over {args.beside} from pretraining: {', '.join(gains)} points" if files else ""


def main() -> None:
    """Read the results, print the table, write the files."""
    args = arguments()
    results = {name: json.loads(read_bytes(args.folder / f"{name}.json")) for name in args.masks}
    stages = {name: entry["seconds"] for name, entry in Record(args.folder).stages.items()}
    summary = {"seed": args.seed, **{f"{name}_miou": r["miou"] for name, r in results.items()},
               "seconds": round(sum(stages.values()), 1), "stages": stages}
    text = f"{table(results, args.titles)}\n\n{note(args, results, summary['seconds'])}"
    encoded = cv2.imencode(".png", picture(args)[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])[1]
    write_bytes(args.out / "summary.json", (json.dumps(summary, indent=1) + "\n").encode())
    write_bytes(args.out / "table.md", f"{text}\n".encode())
    write_bytes(args.out / "comparison.png", encoded.tobytes())
    print(f"{text}\nwrote summary.json, table.md and comparison.png to {args.out}")


if __name__ == "__main__":
    run(main)
