"""Reads the results of iterations from the device, checks and logs them."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch.optim import Optimizer
from tqdm import tqdm

from core.alarms import Alarms
from core.cli import UserError
from core.log import Log
from core.optim import group_names
from core.progress import SCREEN, bar
from core.steps import BaselineStep, SACStep, Values
from datasets.iterations import Skipped

LOSSES = ("loss_ce", "self_ce")
SHOWN = (*LOSSES, "kept")
CURVES = 10  # iterations between points of the slow curves: learning rates, class prior
LINE = 5.0  # seconds between lines of progress


class Entry(NamedTuple):
    """An iteration."""

    position: dict[str, int]  # `epoch` and `iter`, from 1
    values: Values  # what the step returned
    files: Callable[[], list[str]]  # names this process's images in it


class StepLog:
    """Logs the results of iterations.

    Args:
        log: where they go.
        alarms: check them.
        names: of the classes.
        images: per iteration, of both domains, over all processes.
        iterations: per epoch.
        epochs: of the run.
    """

    def __init__(
        self, log: Log, alarms: Alarms, names: Sequence[str], images: int, iterations: int, epochs: int
    ) -> None:
        self.log, self.alarms, self.names, self.images = log, alarms, names, images
        self.iterations, self.epochs = iterations, epochs
        self.seconds = 0.0  # per iteration, a moving average
        self._clock = self._line = time.perf_counter()

    def start(self, epoch: int, iteration: int) -> tqdm:
        """Start the clock; the progress bar of `epoch`, from 1, of which `iteration` iterations are done."""
        self._clock = self._line = time.perf_counter()
        shown, title = self.log.active and SCREEN.isatty(), f"epoch {epoch}/{self.epochs}"
        return bar(shown=shown, desc=title, total=self.iterations, initial=iteration, leave=False)

    def skipped(self, position: dict[str, int], new: Sequence[Skipped], all_: Sequence[Skipped]) -> None:
        """Record all files skipped in an iteration in metrics.jsonl, and the new ones in the log."""
        for entry in all_:
            self.log.record({"kind": "skipped", **position, **entry._asdict()})
        for entry in new:
            self.log.warn(f"iteration {position['iter']}: skipped {entry.file}: {entry.reason}")

    def read(self, entries: Sequence[Entry], step: BaselineStep | SACStep) -> dict[str, str]:
        """Log iterations, in order, which waits for the GPU; returns what the progress bar shows.

        Args:
            entries: at least one.
            step: that made them; for the learning rates and the class prior.

        Raises:
            UserError: a loss is not finite.
        """
        rows = [{name: value.tolist() for name, value in entry.values.items()} for entry in entries]
        last, now = entries[-1].position, time.perf_counter()
        each, self._clock = (now - self._clock) / len(rows), now
        self.seconds = each if not self.seconds else self.seconds + min(1.0, len(rows) / CURVES) * (each - self.seconds)
        chi = step.class_prior if last["iter"] % CURVES == 0 else None
        prior = None if chi is None else chi.tolist()
        for entry, row in zip(entries, rows, strict=True):
            self._check_finite(row, entry)
            seen = row.pop("seen", None)
            self.log.step({"kind": "step", **entry.position, **row, "images_per_second": self.images / each})
            if seen is not None:
                last_prior = prior if entry is entries[-1] else None
                found = self.alarms.step(row["kept"], seen, last_prior, row.get("loss_ce"))
                for finding in found:
                    self.log.warning({**entry.position, **finding._asdict()})
        if last["iter"] % CURVES == 0:
            self._curves(last, step.optimiser, prior)
        shown = {name: f"{rows[-1][name]:.3f}" for name in SHOWN if name in rows[-1]}
        return shown | {"img/s": f"{self.images / each:.1f}"}

    def progress(self, epoch: int, iteration: int, shown: dict[str, str]) -> dict[str, str]:
        """Add the time left to `shown`; every few seconds, it is logged for those without a terminal.

        Args:
            epoch: the current one, from 1.
            iteration: its iterations done.
            shown: from `read`.
        """
        epoch_left = (self.iterations - iteration) * self.seconds
        run_left = epoch_left + (self.epochs - epoch) * self.iterations * self.seconds
        now = time.perf_counter()
        if shown and now - self._line >= LINE:
            self._line = now
            values = ", ".join(f"{name} {value}" for name, value in shown.items())
            self.log.progress(f"epoch {epoch}/{self.epochs}, iteration {iteration}/{self.iterations}: {values}; left: "
                              f"{duration(epoch_left)} of the epoch, {duration(run_left)} of the run")
        return shown | {"left": duration(run_left)}

    def _curves(self, position: dict[str, int], optimiser: Optimizer, prior: list[float] | None) -> None:
        """Log learning rates and class prior, at iterations that do not depend on interruptions."""
        rates = zip(group_names(optimiser), optimiser.param_groups, strict=True)
        self.log.scalars({f"lr/{name}": group["lr"] for name, group in rates}, position["iter"])
        if prior is not None:
            self.log.record({"kind": "prior", **position, "class_prior": prior})
            tags = (f"class_prior/{name}" for name in self.names)
            self.log.scalars(dict(zip(tags, prior, strict=True)), position["iter"])

    def _check_finite(self, row: dict[str, Any], entry: Entry) -> None:
        wrong = [name for name in LOSSES if not np.isfinite(row.get(name, 0.0))]
        if wrong:
            # All processes have the same losses and read them at the same time; each knows its own images.
            raise UserError(
                f"{' and '.join(wrong)} not finite at iteration {entry.position['iter']}; the last snapshot is older: "
                f"try a lower MODEL.LR, or TRAIN.PRECISION float32; its images: {' '.join(entry.files())}"
            )


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: 1:02:03."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
