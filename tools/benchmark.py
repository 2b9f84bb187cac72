"""Measure parts of the project against a floor measured in the same run (docs/performance.md).

  decode    reading an image                         weights   compute_image_weights.py, per mask
  source    a training sample of the source          evaluate  evaluate.py, per pair; a confusion matrix
  target    a group of four views of the target      convert   convert_train_ids.py, per label
  step      a SAC step on the CPU                    growth    lists of 10^4, 10^5 and 10^6 lines
  refine    the method's part of a step              gpu       the published step on a CUDA device
  infer     infer_val.py, per image                  all       everything

Files are rendered at the real sizes, with sensor noise, unless --data names a folder with the published layout and
lists. Times are medians over several rounds in which part and floor alternate.
"""

import json
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.cli import Parser, UserError, run  # isort: skip

import torch

from core.outputs import OutputFile
from tools.benchmarks import commands, gpu, loading, training
from tools.benchmarks.material import Material, Settings, given, render
from tools.benchmarks.measure import HEADING, Row, line

PARTS = ("decode", "source", "target", "step", "refine", "infer", "weights", "evaluate", "convert", "growth", "gpu")
NEEDS_GPU = "needs a GPU: there is no CUDA device"
EXAMPLES = """examples:
  python tools/benchmark.py all --json benchmark.json
  python tools/benchmark.py decode source target --data data
  python tools/benchmark.py all --quick
"""


class Bench:
    """The parts; each yields its rows.

    Args:
        args: the command line.
        folder: an empty folder for files.
    """

    def __init__(self, args: Namespace, folder: Path) -> None:
        self.args, self.folder = args, folder
        few = args.quick and not ("gpu" in args.parts and torch.cuda.is_available())
        self.settings = Settings(args.quick, 1 if args.quick else args.runs, 2 if few else 8)

    @cached_property
    def material(self) -> Material:
        """The files, made when first needed."""
        if self.args.data:
            return given(self.args.data, self.settings)
        return render(self.folder / "world", self.settings)

    def rows(self, part: str) -> Iterable[Row]:
        """Measure a part."""
        if part in ("step", "refine"):
            return {"step": training.step_rows, "refine": training.refine_rows}[part](self.settings)
        if part == "gpu":
            if not torch.cuda.is_available():  # one of "all"
                print(f"{part:22} {NEEDS_GPU}")
                return []
            return gpu.rows(self.material, self.settings)
        if part == "growth":
            return loading.growth(self.folder, self.settings)
        if part in ("decode", "source", "target"):
            return {"decode": loading.decode, "source": loading.source_rows, "target": loading.target_rows}[part](
                self.material, self.settings)
        rows = getattr(commands, part)(self.material, self.folder, self.settings)
        return rows + training.confusion_rows(self.settings) if part == "evaluate" else rows


def arguments() -> Namespace:
    """The command line."""
    parser = Parser(description=__doc__, epilog=EXAMPLES)
    parser.add_argument("parts", nargs="+", metavar="PART", choices=[*PARTS, "all"], help="what to measure")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to this file")
    parser.add_argument("--force", action="store_true", help="replace an existing --json")
    parser.add_argument("--data", type=Path, metavar="DIR", help="real images in the published layout, with lists")
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="rounds to take the median of (default 5)")
    parser.add_argument("--quick", action="store_true", help="small sizes, one round: checks that it runs, not speed")
    args = parser.parse_args()
    if args.runs < 1:
        raise UserError(f"--runs {args.runs}: expected 1 or more")
    if "all" in args.parts:
        args.parts = list(PARTS)
    elif "gpu" in args.parts and not torch.cuda.is_available():
        raise UserError(f"gpu {NEEDS_GPU}")
    return args


def main() -> None:
    """Parse, measure, print."""
    args = arguments()
    given = args.data.rglob("*") if args.data else ()
    output = OutputFile("--json", args.json, args.force, given) if args.json else None
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="benchmark_") as folder:
        bench = Bench(args, Path(folder))
        print(HEADING)
        for row in (row for part in dict.fromkeys(args.parts) for row in bench.rows(part)):
            print(line(row), flush=True)
            rows.append(row)
            if output:  # keep what was measured, whatever happens next
                content = json.dumps({row.name: row.entry() for row in rows}, indent=1) + "\n"
                output.write(content.encode())


if __name__ == "__main__":
    run(main)
