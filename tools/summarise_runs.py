"""Print mean and standard deviation of the best, last and lowest mIoU over seeds, from runs' metrics.jsonl."""

import json
import math
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.cli import Parser, UserError, run  # isort: skip

from core.files import read_bytes
from core.outputs import OutputFile
from tools.report_page.series import Score, summarise

EXAMPLES = """examples:
  python tools/summarise_runs.py logs/cityscapes/v1/seed*
  python tools/summarise_runs.py logs/cityscapes/v1/seed0 logs/cityscapes/v1/seed1 --layer teacher --json seeds.json"""


def arguments() -> Namespace:
    """Parse the command line."""
    parser = Parser(description=__doc__, epilog=EXAMPLES)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's log folder, or its metrics.jsonl")
    parser.add_argument("--list", metavar="NAME", help="only this validation list (default: all lists)")
    parser.add_argument("--layer", default="student", metavar="NAME",
                        help="student (default), or, on the target's training views, teacher, fused or pseudo")
    parser.add_argument("--json", metavar="FILE", help="also write the results to this file, as fractions")
    parser.add_argument("--force", action="store_true", help="replace an existing --json")
    return parser.parse_args()


def metrics_of(run: str) -> Path:
    """A run's metrics.jsonl, given the file or its folder."""
    return Path(run, "metrics.jsonl") if Path(run).is_dir() else Path(run)


def read_scores(path: Path, layer: str) -> dict[str, list[Score]]:
    """The validation scores of a run by list, in order.

    Raises:
        UserError: there is no metrics.jsonl, or a line of it is malformed (other than a last line cut off by a kill).
    """
    scores: dict[str, list[Score]] = {}
    lines = read_bytes(path).decode("utf-8", "replace").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            if entry["kind"] == "val" and entry["layer"] == layer and not math.isnan(entry["miou"]):
                scores.setdefault(entry["list"], []).append(Score(int(entry["epoch"]), float(entry["miou"])))
        except (ValueError, KeyError, TypeError):
            if number < len(lines):
                raise UserError(f"{path}:{number}: not a line of a training run's metrics.jsonl") from None
    return scores


def row(name: str, which: str, numbers: dict[str, Any]) -> str:
    """A row of the table, in percent."""
    deviation = "" if numbers["deviation"] is None else f"{100 * numbers['deviation']:.2f}"
    values = " ".join(f"{100 * value:.1f}" for value in numbers["values"])
    low, high = 100 * numbers["min"], 100 * numbers["max"]
    return f"{name:<20} {which:<6} {100 * numbers['mean']:>6.2f} {deviation:>9} {low:>6.1f} {high:>6.1f}  {values}"


def main() -> None:
    """Read, summarise, print."""
    args = arguments()
    files = {run: metrics_of(run) for run in args.runs}
    output = OutputFile("--json", args.json, args.force, files.values()) if args.json else None
    scores = {run: read_scores(path, args.layer) for run, path in files.items()}
    names = sorted({name for lists in scores.values() for name in lists})
    if args.list:
        names = [name for name in names if name == args.list]
    if not names:
        wanted = f" on {args.list}" if args.list else ""
        raise UserError(f"none of the runs has validated the {args.layer}{wanted}")
    result = {}
    print(f"{'mIoU in %':<20} {'':<6} {'mean':>6} {'deviation':>9} {'min':>6} {'max':>6}  all runs")
    for name in names:
        result[name] = summarise(lists[name] for lists in scores.values() if name in lists)
        for which in ("best", "last", "lowest"):
            print(row(name, which, result[name][which]))
        if result[name]["runs"] < len(scores):
            without = [path for path, lists in scores.items() if name not in lists]
            print(f"{'':<20} missing in {', '.join(without)}")
    if output:
        content = {"layer": args.layer, "runs": list(scores), "lists": result}
        output.write((json.dumps(content, indent=2) + "\n").encode())


if __name__ == "__main__":
    run(main)
