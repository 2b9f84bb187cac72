"""Read a training run's log folder for the report: curves, results, provenance."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from core import config
from core.build import SOURCE_ONLY
from core.cli import UserError
from core.files import find_files, read_yaml

POINTS = 300  # per curve; longer curves are averaged into this many groups
PROVENANCE = ("commit", "python", "torch", "torchvision", "numpy", "opencv", "device", "command", "weights", "plan")
LOG_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d+ ([A-Z]+) (.*)")

Curve = dict[str, Any]  # name; points [(iteration, value)]


def find(paths: list[Path]) -> list[Path]:
    """The log folders (with a metrics.jsonl) at or below the given paths.

    Raises:
        UserError: there is none at or below one of the paths.
    """
    found: dict[Path, None] = {}
    for path in paths:
        own = (path / "metrics.jsonl").is_file()
        below = [path] if own else [file.parent for file in find_files(path, ("/metrics.jsonl",))]
        if not below:
            raise UserError(f"{path}: no metrics.jsonl in or below it; expected a run's folder in logs/")
        # In training order.
        found |= dict.fromkeys(sorted(below, key=lambda folder: (folder / "metrics.jsonl").stat().st_mtime))
    return list(found)


def read(folder: Path) -> dict[str, Any]:
    """Everything the page shows about a run, and its configuration as `cfg`."""
    cfg = configuration(folder / "config.yaml")
    rows = metrics(folder / "metrics.jsonl")
    steps, priors = rows["step"], rows["prior"]
    classes = range(len(priors[0]["class_prior"]) if priors else 0)
    return {
        "cfg": cfg,
        "name": folder.name,
        "kind": "Baseline" if cfg.MODEL.BASELINE else "SAC",
        "network": cfg.MODEL.ENCODER or cfg.MODEL.ARCH,
        "iterations": steps[-1]["iter"] if steps else 0,
        "epochs": steps[-1]["epoch"] if steps else 0,
        "losses": [curve(steps, "loss_ce", "source, cross-entropy"), curve(steps, "self_ce", "target, consistency")],
        "kept": [curve(steps, "kept", "kept")],
        "distance": [curve(steps, "teacher_diff", "distance")],
        "speed": [curve(steps, "images_per_second", "images per second")],
        "prior": [curve(priors, f"class {c}", f"class {c}", lambda row, c=c: row["class_prior"][c]) for c in classes],
        "student": results([row for row in rows["val"] if row["layer"] == "student"], "list"),
        "teacher": results([row for row in rows["val"] if row["layer"] != "student"], "layer"),
        "iou": latest(rows["val"]),
        "scores": scores(rows["val"]),
        "why": why(rows),
        "changed": changed(cfg),
        **log(folder / "log.txt"),
    }


def configuration(path: Path) -> CfgNode:
    """A run's configuration, without keys unknown to this version."""
    content, cfg = read_yaml(path), config.defaults()
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a run's configuration")
    for key in config.KEYS:
        section, name = key.name.split(".")
        values = content.get(section)
        if isinstance(values, dict) and name in values:
            cfg[section][name] = config.parse_value(key, values[name], str(path))
    return cfg


def changed(cfg: CfgNode) -> list[tuple[str, str]]:
    """Keys that differ from the defaults, with their values."""
    return [
        (f"{section}.{key}", str(value))
        for section, values in config.defaults().items()
        for key, default in values.items()
        if (value := cfg[section][key]) != default
    ]


def metrics(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of a metrics.jsonl by kind, without a last line cut off by a kill."""
    rows: dict[str, list[dict[str, Any]]] = {"step": [], "val": [], "prior": [], "kept": []}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'not UTF-8 text'}") from None
    for number, line in enumerate(lines[:-1], 1):
        try:
            row = json.loads(line)
            rows.setdefault(row["kind"], []).append(row)
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path}:{number}: not a line of a run's metrics.jsonl; is the file damaged?") from None
    return rows


def curve(rows: list[dict], key: str, name: str, value: Callable[[dict], float] | None = None) -> Curve:
    """A key's finite points (iteration, value), averaged over equal groups into at most POINTS points."""
    take = value or (lambda row: row.get(key))
    points = [(row["iter"], y) for row in rows if (y := take(row)) is not None and math.isfinite(y)]
    size = math.ceil(len(points) / POINTS) or 1
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    means = [[significant(sum(x) / len(x)) for x in zip(*group, strict=True)] for group in groups]
    return {"name": name, "points": means}


def significant(value: float) -> float:
    """Round to five significant digits: a page contains many numbers."""
    return float(f"{value:.5g}") if abs(value) < 1e5 else round(value)


def results(rows: list[dict], key: str) -> list[Curve]:
    """The mIoU over the run, one curve per value of the key."""
    names = dict.fromkeys(row[key] for row in rows)
    return [curve([row for row in rows if row[key] == name], "miou", name) for name in names]


def latest(rows: list[dict]) -> dict[str, list[float | None]]:
    """The student's latest IoU per class, by list."""
    return {row["list"]: row["iou"] for row in rows if row["layer"] == "student"}


def scores(rows: list[dict]) -> dict[str, list[tuple[int, float]]]:
    """The student's mIoU (epoch, value) by list; the latest one of a repeated epoch."""
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        if row["layer"] == "student" and row["miou"] is not None and math.isfinite(row["miou"]):
            found.setdefault(row["list"], {})[row["epoch"]] = row["miou"]
    return {name: list(values.items()) for name, values in found.items()}


def why(rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The run's last measurement of its pseudo labels on the target's views, by class; {} if there is none.

    `kept`: the share of the pixels predicted as a class that become pseudo labels. `fused` and `pseudo`: the precision
    of all predictions, and of those kept; None if the target has no labels to measure with.
    """
    last = {row.get("layer", "kept"): row for row in [*rows["val"], *rows["kept"]]}
    if not last.keys() & {"kept", "pseudo"}:
        return {}
    row = last.get("kept") or last["pseudo"]
    precisions = {layer: last[layer].get("precision") if layer in last else None for layer in ("fused", "pseudo")}
    return {"epoch": row["epoch"], "list": row["list"], "kept": last["kept"]["kept"] if "kept" in last else None,
            **precisions}


def log(path: Path) -> dict[str, Any]:
    """Provenance (the latest values), start, end and warnings from a log.txt; empty if there is none."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    entries = [match.groups() for line in lines if (match := LOG_LINE.match(line))]
    origin, kind = {}, {"kind": "Source only"} if any(message == SOURCE_ONLY for _, _, message in entries) else {}
    for _, _, message in entries:
        key, _, value = message.partition(": ")
        if key in PROVENANCE and value:
            origin[key] = value
    if entries:
        origin |= {"started": entries[0][0], "last entry": entries[-1][0]}
    warnings = [text for _, level, text in entries if level == "WARNING"]
    return kind | {"origin": list(origin.items()), "warnings": warnings}
