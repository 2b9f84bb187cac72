"""Trainings in child processes, forked from one that has loaded everything but not touched the GPU."""

import json
import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from core import checkpoint, cli
from core.cli import cores

ROOT = Path(__file__).resolve().parents[2]
GRACE = 10  # seconds that a process has to end cleanly
SETTINGS = (
    "MODEL.ARCH deeplabv2_resnet18 MODEL.LR 1e-5 MODEL.NET_MOMENTUM_ITER 5 MODEL.RUN_CONF_LOWER 0 "
    "DATASET.CROP_SIZE 32,64 DATASET.GAME_SIZE [] TRAIN.BATCH_SIZE 2 TRAIN.NUM_GROUPS 2 TRAIN.GROUP_SIZE 2 "
    "TRAIN.NUM_EPOCHS 1000 TRAIN.SNAPSHOT_ITER 1000 LOG.ITER_VAL 1000 LOG.ITER_TARGET 1000"
).split()


class Failed(Exception):
    """A child failed; the message is its last line."""


class Children:
    """Runs functions and trainings in child processes.

    Args:
        folder: for everything they write; their output goes to `said.txt` there.
        world: the data root.
        limit: seconds that a part may take.
    """

    def __init__(self, folder: Path, world: Path, limit: float) -> None:
        torch.set_num_threads(1)  # a running thread pool does not survive a fork
        self.folder, self.world, self.limit, self.said = folder, world, limit, folder / "said.txt"
        self.done: set[tuple[str, int]] = set()

    def call(self, function: Callable[..., Any], *args: object) -> Any:
        """A function's result, computed in a child process; Failed if it raises or exceeds the limit."""
        context = multiprocessing.get_context("fork")
        receiving, sending = context.Pipe(duplex=False)
        process = context.Process(target=self._run, args=(sending, function, args))
        process.start()
        sending.close()
        try:
            if not receiving.poll(self.limit):
                raise Failed(f"took longer than {self.limit} s")
            good, result = receiving.recv()
        except EOFError:
            process.join()
            raise Failed(f"ended with status {process.exitcode}") from None
        finally:
            process.terminate()
            process.join(GRACE)
            process.kill()
            process.join()
        if not good:
            raise Failed(result)
        return result

    def _run(self, sending: Any, function: Callable[..., Any], args: Sequence[object]) -> None:
        file = os.open(self.said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", cores())))
        try:
            sending.send((True, function(*args)))
        except BaseException as error:  # any error becomes a row of the table
            sending.send((False, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"))
            raise

    def train(self, run: str, device: str, *pairs: str, baseline: bool, iterations: int) -> "Result":
        """A training of this many iterations in total; a second call with the same name continues it."""
        if (run, iterations) not in self.done:
            self.call(_train, self._arguments(run, device, pairs, baseline, iterations))
            self.done.add((run, iterations))
        return Result(self.folder, run)

    def train_on_two(self, run: str, device: str, *pairs: str, iterations: int) -> "Result":
        """The same for SAC, on two processes."""
        command = [sys.executable, "-m", "core.torchrun", "--standalone", "--nproc_per_node", "2", "--"]
        arguments = self._arguments(run, device, pairs, False, iterations)
        done = subprocess.run([*command, str(ROOT / "train.py"), *arguments], cwd=ROOT, timeout=self.limit, text=True,
                              capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        with open(self.said, "a", encoding="utf-8") as file:
            file.write(done.stdout + done.stderr)
        if done.returncode:
            raise Failed((done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1])
        return Result(self.folder, run)

    def _arguments(self, run: str, device: str, pairs: Sequence[str], baseline: bool, iterations: int) -> list[str]:
        file = ROOT / "configs" / ("deeplabv2_resnet101.yaml" if baseline else "deeplabv2_resnet101_train.yaml")
        folders = ["--snapshot-dir", str(self.folder / "snapshots"), "--logdir", str(self.folder / "logs")]
        own = ["DATASET.ROOT", str(self.world), "MODEL.INIT_MODEL", "", "TRAIN.DEVICE", device]
        return ["--cfg", str(file), "--exp", "check", "--run", run, *folders, "--workers", "0", "--set", *SETTINGS,
                *own, "TRAIN.MAX_ITER", str(iterations), *pairs]


def _train(arguments: list[str]) -> None:
    sys.argv = ["train.py", *arguments]
    try:
        runpy.run_path(str(ROOT / "train.py"))["main"]()
    except cli.UserError as error:
        raise Failed(str(error)) from error


class Result:
    """What a training wrote."""

    def __init__(self, folder: Path, run: str) -> None:
        lines = (folder / "logs" / "cityscapes" / "check" / run / "metrics.jsonl").read_text().splitlines()
        self.steps = [entry for entry in map(json.loads, lines) if entry["kind"] == "step"]
        for entry in self.steps:
            entry.pop("images_per_second")
        path = folder / "snapshots" / "cityscapes" / "check" / run / "last.pth"
        self.weights = checkpoint.load(path)["model"]

    def deviation(self, other: "Result") -> float:
        """The largest relative difference between the two trainings' losses."""
        if not 0 < len(self.steps) <= len(other.steps):
            raise Failed(f"{len(self.steps)} iterations were logged, not {len(other.steps)}")
        pairs = [(a[name], b[name]) for a, b in zip(self.steps, other.steps, strict=False)
                 for name in ("loss_ce", "self_ce") if name in a]
        return max(abs(a - b) / max(abs(b), 1e-12) for a, b in pairs)

    def different(self, other: "Result") -> int:
        """How many log entries and tensors of the last snapshot differ from the other training's, bit for bit."""
        entries = sum(a != b for a, b in zip(self.steps, other.steps, strict=True))
        return entries + sum(not torch.equal(x, other.weights[name]) for name, x in self.weights.items())
