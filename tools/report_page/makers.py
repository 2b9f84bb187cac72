"""What made a folder of masks: its made_by.json, and the snapshot whose checksum it records."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from core import checkpoint
from core.cli import UserError
from core.files import read_bytes, sha256
from core.outputs import MADE_BY

SHOWN = ("weights", "network", "precision", "scales", "flip", "window")


def snapshots(logs: Iterable[Path]) -> Iterator[Path]:
    """The snapshots of runs, given their log folders, where train.py puts them: each run's last.pth first."""
    for folder in map(Path.resolve, logs):
        # logs/DATALOADER/EXP/RUN and snapshots/DATALOADER/EXP/RUN
        home = folder.parents[2].parent if len(folder.parents) > 3 else folder
        files = home.joinpath("snapshots", *folder.parts[-3:]).glob("*.pth")
        yield from sorted(files, key=lambda file: (file.name != "last.pth", file.name))


def describe(folders: Iterable[Path], logs: Iterable[Path]) -> dict[Path, dict[str, str]]:
    """What is known about the masks in each folder, as texts by name; `snapshot` names the file if it is found."""
    found = {folder: _record(folder) for folder in folders}
    wanted, files = {record["snapshot"] for record in found.values() if "snapshot" in record}, snapshots(logs)
    names: dict[str, str] = {}
    while wanted - names.keys() and (file := next(files, None)):
        if (digest := sha256(file)) in wanted:
            names[digest] = f"{file.parent.name}/{file.name}, epoch {checkpoint.load(file).get('epoch', 'unknown')}"
    return {folder: _texts(record, names) for folder, record in found.items()}


def _record(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads(read_bytes(folder / MADE_BY))
    except (UserError, ValueError):
        return {}
    return record if isinstance(record, dict) and isinstance(record.get("snapshot"), str) else {}


def _texts(record: dict[str, Any], names: dict[str, str]) -> dict[str, str]:
    if not record:
        return {"snapshot": f"unknown: there is no {MADE_BY} with the masks"}
    digest = record["snapshot"]
    own = {name: str(record[name]) for name in SHOWN if record.get(name) not in (None, False, [1.0])}
    return {"snapshot": names.get(digest, "not among the runs' snapshots"), "sha256": digest, **own}
