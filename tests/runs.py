"""Training runs as processes of their own, which tests may kill. They are forked from one that has loaded torch."""

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import cache
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

import infer_val
import models
import train
from core import cli, config
from models.fcn import dropout_masks
from tools import adapt

CONFIG = """
TRAIN: {BATCH_SIZE: 4, NUM_GROUPS: 2, GROUP_SIZE: 2, NUM_EPOCHS: 2, SNAPSHOT_ITER: 3, DEVICE: cpu, DETERMINISTIC: True}
DATASET: {CROP_SIZE: [32, 64], GAME_SIZE: [], SCALE_TO: 1.0, RND_JITTER: 0.4, GUIDED_HFLIP: True, RND_ZOOM: [0.5, 1.0]}
MODEL: {ARCH: stub, LR: 1.0e-3, NET_MOMENTUM_ITER: 2, RUN_CONF_LOWER: 0.0}
LOG: {ITER_VAL: 1, ITER_TARGET: 1}
TB: {IM_SIZE: [16, 32]}
"""


class Stub(nn.Module):
    """A network of three layers with what the real ones have: stride 8, BatchNorm, a new layer, dropout by seed."""

    multiple_of = 8

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 4, 1)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, classes, 3, 2, 1)

    def forward(self, x: Tensor, seeds: Tensor | None = None) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        if seeds is not None:
            x = x * dropout_masks(seeds, 1, 8, 0.2)[0] / 0.8
        return self.conv2(x)

    def new_modules(self) -> list[nn.Module]:
        return [self.conv2]


class Plain(Stub):
    """The stub without BatchNorm, whose baseline several processes can train on the CPU."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.bn1 = nn.Identity()


models.NETWORKS["plain"] = Plain
models.NETWORKS["stub"] = Stub  # names of their own: in this process and in those forked from it


class Process:
    """A command in another process; its stdout and stderr go to a file.

    Args:
        folder: for the output.
        arguments: of the command.
        before: called in the process first; to plant a fault.
        command: train, infer_val or adapt.
    """

    context = multiprocessing.get_context("forkserver")

    def __init__(
        self, folder: Path, arguments: list[str], before: Callable[..., None] | None = None, command: str = "train"
    ) -> None:
        self.output = folder / "output.txt"
        serve()
        self.process = self.context.Process(target=_run, args=(str(self.output), command, arguments, before))
        self.process.start()

    def wait(self, seconds: float = 300) -> int:
        """Its exit status, negative where a signal has killed it."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"still running after {seconds} s: {self.said}"
        return self.process.exitcode

    def send(self, number: int) -> None:
        os.kill(self.process.pid, number)

    @property
    def said(self) -> str:
        return self.output.read_text() if self.output.exists() else ""


@cache
def serve() -> None:
    """Start the process that others are forked from, with what they need loaded: each would load it for seconds."""
    Process.context.set_forkserver_preload(["runs", "torch._dynamo"])
    before = os.environ.get("PYTHONPATH")
    # It looks for the modules before it is told of our sys.path, and starts without those it does not find.
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _run(output: str, command: str, arguments: list[str], before: Callable[..., None] | None) -> None:
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    torch.set_num_threads(1)
    if before is not None:
        before()
    sys.argv = [f"{command}.py", *arguments]
    cli.run({"train": train, "infer_val": infer_val, "adapt": adapt}[command].main)


class Run:
    """A run in a folder of its own, that can be started again and again.

    Args:
        folder: for everything.
        tree: the data.
        changes: KEY VALUE ... of the configuration.
    """

    def __init__(self, folder: Path, tree: Path, *changes: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cfg.yaml").write_text(CONFIG)
        self.folder, self.changes = folder, ["DATASET.ROOT", str(tree), *changes]
        self.snapshots, self.logs = (folder / part / "cityscapes" / "e" / "r" for part in ("snapshots", "logs"))

    def arguments(self, *more: str, workers: int = 0, also: Sequence[str] = ()) -> list[str]:
        """Of train.py; `also`: KEY VALUE ... for this start alone."""
        return [
            "--cfg", str(self.folder / "cfg.yaml"), "--exp", "e", "--run", "r", "--workers", str(workers),
            "--snapshot-dir", str(self.folder / "snapshots"), "--logdir", str(self.folder / "logs"), *more,
            "--set", *self.changes, *also,
        ]  # fmt: skip

    def start(
        self, *more: str, workers: int = 0, also: Sequence[str] = (), before: Callable[..., None] | None = None,
        output: Path | None = None,
    ) -> Process:
        return Process(output or self.folder, self.arguments(*more, workers=workers, also=also), before)

    def configuration(self) -> CfgNode:
        return config.load(str(self.folder / "cfg.yaml"), self.changes)[0]

    def metrics(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Lines of metrics.jsonl without the clock's."""
        path = self.logs / "metrics.jsonl"
        entries = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        for entry in entries:
            entry.pop("images_per_second", None)
        return [entry for entry in entries if kind in (None, entry["kind"])]

    def last(self) -> dict[str, Any]:
        return torch.load(self.snapshots / "last.pth", weights_only=True)


def curves(run: Run) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows: (step, value) by tag, and the steps of pictures."""
    # Imported here: processes that only train do without it.
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(run.logs), {"scalars": 0, "images": 0})
    board.Reload()
    tags = board.Tags()
    scalars = {tag: [(e.step, e.value) for e in board.Scalars(tag)] for tag in tags["scalars"]}
    scalars.pop("train/images_per_second")
    return scalars | {tag: [(e.step, 0) for e in board.Images(tag)] for tag in tags["images"]}


def same(run: Run, other: Run, validated: bool = True) -> None:
    """Logs, curves, kept snapshots and every number of the last snapshot are those of the other run."""
    assert run.metrics() == other.metrics()
    ours, theirs = curves(run), curves(other)
    assert ours == theirs and all(len({step for step, _ in line}) == len(line) for line in ours.values())
    files = [{path.name for path in r.snapshots.glob("*.pth")} for r in (run, other)]
    assert files[0] == files[1] and "last.pth" in files[0] and len(files[0]) > validated
    a, b = run.last(), other.last()
    assert a["model"].keys() == b["model"].keys()
    assert all(torch.equal(a["model"][name], b["model"][name]) for name in a["model"])
    states = [[x for s in state["opt"]["state"].values() for _, x in sorted(s.items())] for state in (a, b)]
    assert states[0] and all(torch.equal(x, y) for x, y in zip(*states, strict=True))
    assert {**a["run"], "log": 0, "config": 0, "origin": 0, "rng": 0} == {
        **b["run"], "log": 0, "config": 0, "origin": 0, "rng": 0}
    assert (a["epoch"], a["score"]) == (b["epoch"], b["score"])


def wrap(owner: object, name: str, before: Callable[[], None] = int, after: Callable[[], None] = int) -> None:
    """Let something happen around every call of a function."""
    original = getattr(owner, name)

    def wrapped(*args: object, **kwargs: object) -> object:
        before()
        result = original(*args, **kwargs)
        after()
        return result

    setattr(owner, name, wrapped)


def kill_at(number: int) -> Callable[[], None]:
    """What kills this process, as `kill -9` from outside, when it is called for the `number`th time."""
    seen = 0

    def count() -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return count
