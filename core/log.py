"""The log of a run: screen, log.txt, metrics.jsonl and TensorBoard. Silent on ranks other than 0."""

import json
import logging
import logging.handlers
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import summary
from tqdm import tqdm

from core.cli import UserError
from core.files import kind_of
from core.progress import SCREEN
from core.tensorboard import Events, event_files

LOGGER = logging.getLogger("sac")  # for modules without a Log
METRICS = "metrics.jsonl"


class _Lines(logging.Handler):
    """Prints lines without breaking the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "progress", False) and SCREEN.isatty():  # it shows the bar
            return
        tqdm.write(self.format(record), file=SCREEN)


class _Text(logging.FileHandler):
    """log.txt. Write errors are ignored: those of metrics.jsonl, which matters, end the run with one line."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, the name is logging's
        """Suppress logging's own traceback on stderr."""


class Log:
    """The log folder of a run. Nothing is written before `begin`.

    Args:
        folder: logs/{dataloader}/{exp}/{run}.
        active: False on ranks other than 0, where nothing is written or printed.
    """

    def __init__(self, folder: Path, active: bool = True) -> None:
        self.active, self.folder = active, folder
        LOGGER.setLevel(logging.INFO)
        LOGGER.propagate = False
        for handler in list(LOGGER.handlers):
            LOGGER.removeHandler(handler)
            handler.close()
        self._early = logging.handlers.MemoryHandler(1000, flushLevel=logging.CRITICAL + 1)
        for handler in (_Lines(), self._early) if active else (logging.NullHandler(),):
            LOGGER.addHandler(handler)

    def begin(self, step: int, position: Mapping[str, int] | None = None) -> None:
        """Open the files; log.txt also gets the lines so far.

        Args:
            step: iterations done so far.
            position: `position()` at that iteration; what an interrupted run wrote after it is cut off. None = a new
                run: the files of an earlier run of the same name are moved to a subfolder.
        """
        if not self.active:
            return
        with self._disk():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._check_kinds()
            short = self._cut(position) if position is not None else self._put_aside()
            self._open(step)
        self._early.setTarget(self._text)
        self._early.close()
        LOGGER.removeHandler(self._early)
        if short:
            self.warn(f"{', '.join(short)} in {self.folder}: parts of the first {step} iterations are missing")

    def _open(self, step: int) -> None:
        self.metrics = open(self.folder / METRICS, "a", encoding="utf-8")
        self.events = Events(self.folder, step)
        self._text = _Text(self.folder / "log.txt", encoding="utf-8")
        self._text.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        LOGGER.addHandler(self._text)

    def _check_kinds(self) -> None:
        """UserError for links: cutting and writing would change their targets."""
        for path in (self.folder / METRICS, self.folder / "log.txt", *event_files(self.folder)):
            if (kind := kind_of(path)) not in ("", "a file"):
                raise UserError(f"cannot write {path}: it is {kind}; remove it, or choose another --logdir")

    def _cut(self, position: Mapping[str, int]) -> list[str]:
        """Cut the files to their earlier sizes, remove later event files; returns the names of files too short.

        The names come from a snapshot, perhaps someone else's, so they are looked up among the log's own files.
        """
        own = {path.name: path for path in (self.folder / METRICS, *event_files(self.folder)) if path.is_file()}
        for name in own.keys() - position.keys() - {METRICS}:
            own[name].unlink()
        short = []
        for name, size in position.items():
            if name not in own or own[name].stat().st_size < size:
                short.append(name)
            else:
                os.truncate(own[name], size)
        return short

    def _put_aside(self) -> list[str]:
        """Move the files of an earlier run to earlier1, earlier2, ..."""
        old = [p for p in (self.folder / METRICS, *event_files(self.folder)) if p.exists()]
        if old:
            number = 1
            while (aside := self.folder / f"earlier{number}").exists():
                number += 1
            aside.mkdir()
            for path in old:
                path.rename(aside / path.name)
        return []

    def position(self, step: int) -> dict[str, int]:
        """Flush everything to disk before a snapshot is written; returns the file sizes by name."""
        if not self.active:
            return {}
        self._revive(step)
        with self._disk():
            self.metrics.flush()
            os.fsync(self.metrics.fileno())
            self.events.flush()
            paths = [self.folder / METRICS, *event_files(self.folder)]
            return {path.name: path.stat().st_size for path in paths}

    def _revive(self, step: int) -> None:
        """Start a new log if its folder was deleted during the run."""
        if (self.folder / METRICS).exists():
            return
        with self._disk():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._close()
            self._open(step)
        self.warn(f"{self.folder} has been deleted: a new log starts after iteration {step}")

    def say(self, text: str) -> None:
        """Log a line."""
        LOGGER.info(text)

    def progress(self, text: str) -> None:
        """Log the progress of the run; a terminal shows the bar instead."""
        LOGGER.info(text, extra={"progress": True})

    def warn(self, text: str) -> None:
        """Log a warning."""
        LOGGER.warning(text)

    def note(self, text: str) -> None:
        """Log a line to log.txt only, if the screen shows the same in another way."""
        if self.active:
            self._text.handle(LOGGER.makeRecord("sac", logging.ERROR, "", 0, text, (), None))

    def record(self, entry: Mapping[str, Any]) -> None:
        """Write a line to metrics.jsonl."""
        if self.active:
            with self._disk():
                self.metrics.write(json.dumps(entry) + "\n")

    def step(self, entry: Mapping[str, Any]) -> None:
        """Record a training iteration: a line in metrics.jsonl, and its curves."""
        self.record(entry)
        curves = {f"train/{k}": v for k, v in entry.items() if k not in ("kind", "epoch", "iter")}
        self.scalars(curves, entry["iter"])

    def warning(self, entry: Mapping[str, Any]) -> None:
        """Record a warning (`name`, `text`, `iter`) in the log, metrics.jsonl and TensorBoard."""
        self.warn(f"iteration {entry['iter']}: {entry['text']}")
        self.record({"kind": "warning", **entry})
        self._add(summary.text(f"warnings/{entry['name']}", entry["text"]), entry["iter"])

    def scalars(self, values: Mapping[str, float | None], step: int) -> None:
        """Add points to TensorBoard's curves; None is skipped."""
        for name, value in values.items():
            if self.active and value is not None:
                self._add(summary.scalar(name, value), step)

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        """Add a picture uint8 [H,W,3] to TensorBoard."""
        self._add(summary.image(name, image, dataformats="HWC"), step)

    def _add(self, what: Any, step: int) -> None:
        if self.active:
            with self._disk():
                self.events.add(what, step)

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """Turn write errors into one line."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise UserError(
                f"cannot write the log in {self.folder}: {reason}; free some space, or choose another --logdir"
            ) from None

    def close(self) -> None:
        """Close the files."""
        if self.active:
            with self._disk():
                self._close()

    def _close(self) -> None:
        LOGGER.removeHandler(self._text)  # else the next line would reopen it
        with ExitStack() as stack:  # close each, even if another fails to write its last data
            for file in (self._text, self.events, self.metrics):
                stack.callback(file.close)
