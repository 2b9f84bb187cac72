"""Run this first on a new GPU machine: it checks that training computes what it should there, and measures its cost.

Trains small networks for 20 iterations on a toy world and compares losses and snapshots; runs the published step with
limits on the card's memory; times the step and the loader. Prints a table and writes OUT/report.md, ready to paste into
an issue, and OUT/report.json; exit status 1 on any failure. --device cpu rehearses whatever works without a GPU.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.cli import Parser, UserError, cores, run  # isort: skip

from core.files import write_bytes
from datasets import lists
from tools.benchmarks.material import Settings, render
from tools.gpu_check import device
from tools.gpu_check.children import Children, Failed, Result

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = """examples:
  bash launch/check_gpu.sh
  bash launch/check_gpu.sh --device cpu
"""
MODES = {"baseline": True, "sac": False}
EXACT, ROUGH = 1e-4, 5e-2  # largest relative deviation of losses from the CPU's in float32
LIMITS = {"cuda": 240, "cpu": 1800}  # seconds that a part may take; a rehearsal is not timed
CAPS = ((11, "float32", 2), (11, "bfloat16", 2), (24, "bfloat16", 4))  # GB, precision, TRAIN.MICRO_BATCH


class Row(NamedTuple):
    """A row of the table."""

    name: str
    found: str
    limit: str = ""
    passed: bool | None = None  # None: not measured here


def attempt(name: str, check: Callable[[], Row]) -> Row:
    """A check's row; an exception is a failure, and the other checks still run."""
    try:
        return check()
    except (Failed, UserError, OSError, subprocess.SubprocessError, ValueError) as error:
        return Row(name, " ".join(str(error).split())[:160] or type(error).__name__, "", False)


class Check:
    """All checks.

    Args:
        device: cuda or cpu.
        children: runs the checks.
        out: folder for the report.
    """

    def __init__(self, device: str, children: Children, out: Path) -> None:
        self.device, self.children, self.out, self.machine = device, children, out, {}
        self.iterations = 20 if device == "cuda" else 10

    def rows(self) -> Iterator[Row]:
        """Yield each check's row."""
        self.machine = self.children.call(device.machine, self.device)
        cards = self.machine.get("names") or ["none: a rehearsal on the CPU"]
        yield Row("machine", f"{', '.join(cards)}; torch {self.machine['torch']}", "", True)
        for mode in MODES:
            yield from self.precisions(mode)
        for name in ("twice", "continued"):
            yield attempt(name, lambda name=name: self.equal(name))
        yield attempt("two_processes", self.two_processes)
        yield attempt("waits", self.waits)
        for cap in CAPS:
            yield attempt(f"memory_{cap[0]}_GB_{cap[1]}", lambda cap=cap: self.memory(*cap))
        yield from self.loaders()
        yield from self.benchmark()

    def precisions(self, mode: str) -> Iterator[Row]:
        """A mode's losses in each precision, against the CPU's in float32."""
        for precision in ("float32", "bfloat16", "float16"):
            yield attempt(f"{mode}_{precision}", lambda p=precision: self.precision(mode, p))

    def precision(self, mode: str, precision: str) -> Row:
        """The same in one precision."""
        exact = self.train(f"{mode}_cpu", "cpu", "TRAIN.PRECISION", "float32", baseline=MODES[mode])
        # CPUs that only emulate these precisions take ten times as long.
        count = 2 if self.device == "cpu" and precision != "float32" else self.iterations
        pairs = ("TRAIN.PRECISION", precision)
        ours = self.train(f"{mode}_{precision}", self.device, *pairs, baseline=MODES[mode], iterations=count)
        limit, found = EXACT if precision == "float32" else ROUGH, ours.deviation(exact)
        what = f"losses of {count} iterations differ by {found:.1e} from the CPU's in float32"
        return Row(f"{mode}_{precision}", what, f"{limit:g}", found <= limit)

    def train(self, run: str, device: str, *pairs: str, baseline: bool = False, iterations: int = 0) -> Result:
        """A training of some iterations (0 = the usual number); one that is already done is only read."""
        return self.children.train(run, device, *pairs, baseline=baseline, iterations=iterations or self.iterations)

    def equal(self, name: str) -> Row:
        """Deterministic trainings: the same one twice, or once in two parts."""
        pairs = ("TRAIN.DETERMINISTIC", "True")
        whole = self.train("whole", self.device, *pairs)
        if name == "continued":
            self.train(name, self.device, *pairs, iterations=self.iterations // 2)
        found = self.train(name, self.device, *pairs).different(whole)
        return Row(name, f"{found} numbers or tensors differ from an uninterrupted deterministic run", "0", found == 0)

    def two_processes(self) -> Row:
        """SAC on two cards with NCCL, or on the CPU with Gloo, against one process."""
        device, backend = ("cuda", "NCCL") if self.machine["cards"] > 1 else ("cpu", "Gloo, on the CPU")
        pairs = ("TRAIN.PRECISION", "float32")
        one = self.train(f"one_{device}", device, *pairs)
        found = self.children.train_on_two("two", device, *pairs, iterations=self.iterations).deviation(one)
        return Row("two_processes", f"{backend}: losses differ by {found:.1e}", f"{EXACT:g}", found <= EXACT)

    def waits(self) -> Row:
        """Whether the step waits for the device."""
        noticed = self.children.call(device.waits, self.device)
        return Row("waits", "no step waits for the device" if noticed else "not measured: no GPU", "0", noticed or None)

    def memory(self, cap: int, precision: str, micro_batch: int) -> Row:
        """The published step within a part of the card's memory."""
        name, what = f"memory_{cap}_GB_{precision}", f"ResNet-101, TRAIN.MICRO_BATCH {micro_batch}"
        if self.machine["cards"] and max(self.machine["GB"]) < cap:
            return Row(name, f"not measured: the card has {max(self.machine['GB'])} GB", f"{cap} GB")
        found = self.children.call(device.peak, self.device, precision, micro_batch, cap)
        if found is None:
            return Row(name, "not measured: no GPU", f"{cap} GB")
        return Row(name, f"{found:.1f} GB: {what}", f"{cap} GB", found <= cap)

    def loaders(self) -> Iterator[Row]:
        """Images per second with several workers."""
        for workers in (4, 8, 16):
            name = f"loader_{workers}_workers"
            if workers > cores() and not (self.device == "cpu" and workers == 4):
                yield Row(name, f"not measured: {cores()} cores")
            else:
                yield attempt(name, lambda workers=workers, name=name: self.loader(name, workers))

    def loader(self, name: str, workers: int) -> Row:
        """With images of the real sizes; a rehearsal uses the toy world's."""
        small, root = self.device == "cpu", self.children.world
        if not small:
            root = self.children.folder / "large"
            if not root.exists():
                self.children.call(make_world, root, False)
        rate = self.children.call(device.loader, str(root), workers, small)
        return Row(name, f"{rate:.0f} images/s" + " of toy size" * small, "", True)

    def benchmark(self) -> Iterator[Row]:
        """The GPU rows of tools/benchmark.py, as far as they finish in time."""
        if self.device == "cpu":
            yield Row("benchmark", "not measured: no GPU")
            return
        file = self.out / "benchmark.json"
        command = [sys.executable, str(ROOT / "tools" / "benchmark.py"), "gpu", "--runs", "3", "--json", str(file)]
        try:
            done = subprocess.run(command, cwd=ROOT, timeout=self.children.limit, capture_output=True, text=True)
            if done.returncode:
                yield Row("benchmark", (done.stderr.strip().splitlines() or ["failed"])[-1][:160], "", False)
        except subprocess.TimeoutExpired:
            yield Row("benchmark", f"the rest took longer than {self.children.limit} s")
        for name, row in (json.loads(file.read_text()) if file.exists() else {}).items():
            goal = row.get("goal")
            yield Row(name, f"{1000 * row['seconds']:.1f} ms, {row['ratio']:.2f} times its floor",
                      f"{goal:g}" if goal else "", None if goal is None else row["ratio"] <= goal)


def make_world(folder: Path, small: bool) -> None:
    """Toy images with their lists; if not `small`, in the real sizes."""
    material = render(folder, Settings(quick=small, runs=1, images=8))
    lists.write(folder / "train_game_9K.txt", material.source)
    lists.write(folder / "train_cityscapes.txt", material.target)


WORDS = {True: "pass", False: "FAIL", None: "-"}


def report(rows: list[Row], machine: dict, seconds: float) -> str:
    """The report in Markdown, ready to paste into an issue."""
    lines = [f"# GPU check: {sum(row.passed is False for row in rows)} of {len(rows)} failed, {seconds:.0f} s", ""]
    lines += [f"* {name}: {value}" for name, value in machine.items()]
    lines += ["", "| check | result | found | at most |", "| --- | --- | --- | --- |"]
    return "\n".join(lines + [f"| {r.name} | {WORDS[r.passed]} | {r.found} | {r.limit} |" for r in rows]) + "\n"


def main() -> None:
    """Parse, check, report."""
    parser = Parser(description=__doc__, epilog=EXAMPLES)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: rehearse without a GPU")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "gpu", metavar="DIR", help="report folder")
    args = parser.parse_args()
    start, rows = time.perf_counter(), []
    with tempfile.TemporaryDirectory(prefix="check_gpu_") as folder:
        children = Children(Path(folder), Path(folder) / "world", LIMITS[args.device])
        check = Check(args.device, children, args.out)
        try:
            children.call(make_world, children.world, True)
            for row in check.rows():
                rows.append(row)
                print(f"{WORDS[row.passed]:5} {row.name:26} {row.found}" + f" (at most {row.limit})" * bool(row.limit),
                      flush=True)
        except Failed as error:  # from the first call: there is no such device
            raise UserError(str(error).partition(": ")[2] or str(error)) from None
        finally:
            if rows:
                taken = time.perf_counter() - start
                entries = {"machine": check.machine, "seconds": round(taken, 1), "rows": [r._asdict() for r in rows]}
                write_bytes(args.out / "report.json", (json.dumps(entries, indent=1) + "\n").encode(), durable=False)
                write_bytes(args.out / "report.md", report(rows, check.machine, taken).encode(), durable=False)
                said = children.said.read_bytes() if children.said.exists() else b""
                write_bytes(args.out / "said.txt", said, durable=False)
    print(f"report: {args.out / 'report.md'}")
    if any(row.passed is False for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    run(main)
