"""Which stages of a plan are done, with which commands, and how long they took. The file survives any kill."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from core.cli import UserError
from core.files import read_bytes, write_bytes


class Record:
    """The stages that are done, in `stages.json`, and the seconds of those that were interrupted.

    Args:
        folder: the results folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "stages.json"
        try:
            self.stages: dict[str, dict[str, Any]] = json.loads(read_bytes(self.path)) if self.path.exists() else {}
            if not all(isinstance(e["key"], str) and e["seconds"] >= 0 for e in self.stages.values()):
                raise ValueError
        except (ValueError, AttributeError, KeyError, TypeError):
            raise UserError(f"{self.path} is damaged: remove it and run the same command again to resume") from None

    def is_done(self, name: str, key: str) -> bool:
        """Whether a stage is done, with this key (plan.keys)."""
        return self.stages.get(name, {}).get("key") == key

    def seconds(self, name: str) -> float:
        """Seconds that a stage took, over all attempts."""
        return self.stages[name]["seconds"]

    def add(self, name: str, key: str, seconds: float) -> None:
        """Record a stage as done or, with the key "", as interrupted; includes the seconds of interrupted attempts."""
        before = self.stages.get(name, {"key": "", "seconds": 0.0})
        total = seconds + (0.0 if before["key"] else before["seconds"])
        self.stages[name] = {"key": key, "seconds": round(total, 1)}
        write_bytes(self.path, (json.dumps(self.stages, indent=1) + "\n").encode())

    def forget(self, names: Collection[str]) -> None:
        """Mark these stages as not done."""
        self.stages = {name: entry for name, entry in self.stages.items() if name not in names}
