"""What a plan needs: disk space, memory (tools/estimate_memory.py), and hours, from a few iterations."""

import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from yacs.config import CfgNode

from core import config
from core.cli import UserError
from datasets import labels, lists
from models import build
from tools.doctor.expected import EXPECTED
from tools.pipeline.plan import FILES, ROWS, TITLES, Command, Task

FILES_PER_RUN = 4  # the three best snapshots and the last
MASK = 0.1e6  # bytes per image, for both kinds of masks, at 2048x1024
WARM_UP, MEASURED = 10, 20  # iterations


def lines(task: Task, rows: Sequence[str], measure: bool, execute: Callable[[Command], int]) -> Iterator[str]:
    """Disk, memory and hours, a line at a time.

    Args:
        task: what is adapted.
        rows: some of plan.ROWS.
        measure: also estimate hours, by training each kind for a few iterations.
        execute: runs python with these arguments.
    """
    trained = [row for row in ROWS if row in rows or row == "abn" and {"sac", "control"} & set(rows)]
    configurations = {row: config.load(*task.configuration(row))[0] for row in trained}
    yield disk(configurations, task.validation)
    for row in ("abn", "sac"):
        if row in configurations:
            file, pairs = task.configuration(row)
            yield f"memory of {TITLES[row]} on one GPU:"
            execute(("tools/estimate_memory.py", "--cfg", file, *(("--set", *pairs) if pairs else ())))
    if not measure:
        yield "hours: use --measure, which times a few iterations"
        return
    rates: dict[bool, float] = {}  # seconds per iteration of the baseline and of SAC
    for row, cfg in configurations.items():
        count, kind = iterations(row, cfg, configurations["abn"] if "abn" in configurations else cfg), row == "sac"
        if kind not in rates:
            rates[kind] = seconds_per_iteration(task, row, cfg, execute)
        yield (f"hours of {TITLES[row]}: {count * rates[kind] / 3600:.2f} ({count} iterations, {rates[kind]:.3f} s "
               "each, without validation)")


def disk(configurations: dict[str, CfgNode], validation: str) -> str:
    """Disk space of snapshots and masks, as a line."""
    total, sizes = 0.0, []
    for row, cfg in configurations.items():
        with torch.device("meta"):  # shapes without data
            classes = labels.load(cfg.DATASET.CLASSES).num_classes
            network = build(cfg.MODEL.ARCH, classes, **config.network_options(cfg))
        copies = 3 if row == "sac" else 2  # weights, momentum, and the teacher
        size = FILES_PER_RUN * copies * 4 * sum(p.numel() for p in network.parameters())
        total += size
        sizes.append(f"{FILES[row]} {size / 1e9:.1f}")
    *_, cfg = configurations.values()  # the last: the target of source-only is the source
    inferred = images(cfg.TRAIN.TARGET, cfg) + (len(configurations) * images(validation, cfg) if validation else 0)
    masks = MASK * inferred
    return (f"disk: {(total + masks) / 1e9:.1f} GB; snapshots (at most {FILES_PER_RUN} per run): {', '.join(sizes)}; "
            f"masks: about {masks / 1e9:.1f}")


def images(name: str, cfg: CfgNode) -> int:
    """Number of images in a list or, until it exists, in the published one."""
    root = cfg.DATASET.ROOT
    return len(lists.read(name, root)) if lists.exists(name, root) else EXPECTED.get(Path(name).stem, 0)


def iterations(row: str, cfg: CfgNode, abn: CfgNode) -> int:
    """Iterations of a training, without the baseline's epochs if it continues the baseline."""
    begun = abn.TRAIN.NUM_EPOCHS if row in ("sac", "control") else 0
    epoch = sum(images(name, cfg) for name in cfg.TRAIN.TASK) // cfg.TRAIN.BATCH_SIZE
    count = (cfg.TRAIN.NUM_EPOCHS - begun) * epoch
    return min(count, cfg.TRAIN.MAX_ITER or count)


def seconds_per_iteration(task: Task, row: str, cfg: CfgNode, execute: Callable[[Command], int]) -> float:
    """Median seconds per iteration of a throwaway training; UserError if it fails, which has already said why."""
    file, pairs = task.configuration(row)
    with tempfile.TemporaryDirectory(prefix="measure_") as folder:
        status = execute((
            "train.py", "--cfg", file, "--exp", "measure", "--run", row, "--snapshot-dir", folder, "--logdir", folder,
            *task.train_options, "--set", *pairs, "TRAIN.MAX_ITER", str(WARM_UP + MEASURED), "VAL.SELECT", ""))
        if status:
            raise UserError(f"{TITLES[row]} could not be measured (exit status {status})")
        path = Path(folder, "cityscapes", "measure", row, "metrics.jsonl")
        rows = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
    rates = [entry["images_per_second"] for entry in rows if entry["kind"] == "step"][-MEASURED:]
    views = 1 if cfg.MODEL.BASELINE else cfg.TRAIN.GROUP_SIZE
    return (cfg.TRAIN.BATCH_SIZE + cfg.TRAIN.NUM_GROUPS * views) / statistics.median(rates)
