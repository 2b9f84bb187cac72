"""Write the demo's table, summary.json and picture from the results of its stages (used by launch/demo.sh)."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.cli import Parser, UserError, run  # isort: skip

import cv2
import numpy as np

from core import visual
from core.files import read_bytes
from core.outputs import OutputFile
from datasets import labels, lists
from datasets.images import read_image, read_label

RUNS = {"baseline": "baseline", "sac": "SAC", "oracle": "oracle"}
PICTURES = 4
EXAMPLES = """example:
  python tools/summarise_demo.py --folder results/demo/seed0 --out results/demo --seed 0"""


def table(results: dict[str, dict]) -> str:
    """Markdown table of the IoU per class and the mean, in percent, one column per run."""
    head = f"| IoU, % | {' | '.join(RUNS[r] for r in results)} |\n| --- |{' ---: |' * len(results)}"
    names = list(next(iter(results.values()))["iou"])
    rows = [[name, *(r["iou"][name] for r in results.values())] for name in names]
    rows = [row for row in rows if any(v is not None for v in row[1:])]
    rows.append(["**mean**", *(r["miou"] for r in results.values())])
    return "\n".join([head, *(
        f"| {name} | {' | '.join('–' if v is None else f'{100 * v:.1f}' for v in values)} |" for name, *values in rows
    )])


def picture(folder: Path, runs: list[str]) -> np.ndarray:
    """Input, truth and the masks of each run side by side, for images spread over the validation list."""
    samples = lists.read("val_cityscapes", str(folder / "data"), labels=True)
    palette = labels.CITYSCAPES.palette()
    rows = []
    for sample in samples[:: max(1, len(samples) // PICTURES)][:PICTURES]:
        image = read_image(folder / "data" / sample.image)
        masks = [read_label(folder / "data" / sample.label)]
        masks += [read_label(folder / "masks" / r / "val_cityscapes" / lists.mask_name(sample.image)) for r in runs]
        rows.append([image, *(visual.colour(mask, palette) for mask in masks)])
    return visual.panel(rows, rows[0][0].shape[:2])


def main() -> None:
    """Read the results of the stages, print the table, write the files."""
    parser = Parser(description=__doc__, epilog=EXAMPLES)
    parser.add_argument("--folder", required=True, type=Path, help="folder of the demo run: results/demo/seedN")
    parser.add_argument("--out", required=True, type=Path, help="folder for summary.json, table.md and comparison.png")
    parser.add_argument("--seed", required=True, type=int, help="the demo's seed")
    parser.add_argument("--force", action="store_true", help="replace those of an earlier demo")
    args = parser.parse_args()
    runs = [r for r in RUNS if (args.folder / f"{r}.json").exists()]
    if not {"baseline", "sac"} <= set(runs):
        raise UserError(f"{args.folder} has no baseline.json and sac.json; run bash launch/demo.sh first")
    names = ("summary.json", "table.md", "comparison.png")
    outputs = [OutputFile("--out", args.out / name, args.force, args.folder.glob("*.*")) for name in names]
    results = {r: json.loads(read_bytes(args.folder / f"{r}.json")) for r in runs}
    lines = read_bytes(args.folder / "stages.tsv").decode().splitlines()
    stages = {name: float(seconds) for name, seconds in (line.split("\t") for line in lines)}
    summary = {"seed": args.seed, **{f"{r}_miou": results[r]["miou"] for r in runs},
               "seconds": round(sum(stages.values()), 1), "stages": stages}
    text = table(results)
    gain = 100 * (results["sac"]["miou"] - results["baseline"]["miou"])
    note = (f"Toy GTA -> toy Cityscapes, {results['sac']['images']} validation images, seed {args.seed}, "
            f"{summary['seconds']:.0f} s; SAC {gain:+.1f} points. Scores are of each run's last snapshot; target "
            "labels were used neither for training nor for selection"
            + (", except by the oracle, which is trained on them." if "oracle" in runs else "."))
    encoded = cv2.imencode(".png", picture(args.folder, runs)[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])[1]
    contents = (f"{json.dumps(summary, indent=1)}\n".encode(), f"{text}\n\n{note}\n".encode(), encoded.tobytes())
    for output, content in zip(outputs, contents, strict=True):
        output.write(content)
    print(f"{text}\n\n{note}")
    print(f"wrote summary.json, table.md and comparison.png (input, truth, {', '.join(runs)}) to {args.out}")


if __name__ == "__main__":
    run(main)
