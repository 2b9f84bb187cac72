"""What iterations returned: read from the device, looked at, logged."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from core import distributed
from core.alarms import Alarms
from core.cli import UserError
from core.log import Log

LOSSES = ("loss_ce", "self_ce")
SHOWN = (*LOSSES, "kept")
Values = dict[str, torch.Tensor]


class Recorder:
    """Keeps what iterations returned until it is read: reading waits for the GPU.

    Args:
        log: where it goes.
        watch: looks at it.
        names: of the classes.
        images: of both domains in an iteration, over all processes.
        every: iterations between two readings.
    """

    def __init__(self, log: Log, watch: Alarms, names: Sequence[str], images: int, every: int) -> None:
        self.log, self.watch, self.names, self.images, self.every = log, watch, names, images, every
        self._pending: list[tuple[dict[str, Any], Values, Callable[[], list[str]]]] = []
        self.start()

    def start(self) -> None:
        """Begin to measure the time."""
        self._clock = time.perf_counter()

    def add(self, position: dict[str, int], values: Values, files: Callable[[], list[str]]) -> None:
        """After an iteration.

        Args:
            position: `epoch` and `iter`.
            values: what the step returned: scalars, and `seen` [C] of SAC.
            files: names the images of the iteration that this process had.
        """
        self._pending.append((position, values, files))

    def skipped(self, position: dict[str, int], new: Sequence[Any], all_: Sequence[Any]) -> None:
        """After an iteration: the files that were skipped in it to metrics.jsonl, those that are new to the log."""
        for entry in all_:
            self.log.record({"kind": "skipped", **position, **entry._asdict()})
        for entry in new:
            self.log.warn(f"iteration {position['iter']}: skipped {entry.file}: {entry.reason}")

    @property
    def due(self) -> bool:
        """Whether it is time to read."""
        return bool(self._pending) and self._pending[-1][0]["iter"] % self.every == 0

    def read(self, rates: Sequence[float], chi: torch.Tensor | None) -> dict[str, str]:
        """Log all that has been added; what the progress bar may show.

        Args:
            rates: learning rates of the groups.
            chi: the class prior [C], None in the baseline.

        Raises:
            UserError: a loss is not finite.
        """
        if not self._pending:
            return {}
        due, pending, self._pending = self.due, self._pending, []
        rows = [{name: value.tolist() for name, value in values.items()} for _, values, _ in pending]
        now = time.perf_counter()
        rate, self._clock = self.images * len(rows) / (now - self._clock), now
        prior = chi.tolist() if due and chi is not None else None
        for (position, _, files), row in zip(pending, rows, strict=True):
            self._check_finite(row, position["iter"], files)
            seen = row.pop("seen", None)
            self.log.step({"kind": "step", **position, **row, "images_per_second": rate})
            if seen is not None:
                last = position is pending[-1][0]
                for finding in self.watch.step(row["kept"], seen, prior if last else None):
                    self.log.warning({**position, **finding._asdict()})
        if due:
            self._curves(pending[-1][0], rates, prior)
        return {name: f"{rows[-1][name]:.3f}" for name in SHOWN if name in rows[-1]} | {"img/s": f"{rate:.1f}"}

    def _curves(self, position: dict[str, int], rates: Sequence[float], prior: list[float] | None) -> None:
        """Learning rates and class prior, at iterations that do not depend on where the run was interrupted."""
        self.log.scalars({f"lr/group{i}": rate for i, rate in enumerate(rates)}, position["iter"])
        if prior is not None:
            self.log.record({"kind": "prior", **position, "class_prior": prior})
            tags = (f"class_prior/{name}" for name in self.names)
            self.log.scalars(dict(zip(tags, prior, strict=True)), position["iter"])

    def _check_finite(self, row: dict[str, Any], step: int, files: Callable[[], list[str]]) -> None:
        wrong = [name for name in LOSSES if not np.isfinite(row.get(name, 0.0))]
        if wrong:
            # All processes have the same losses, each knows its own images.
            names = " ".join(distributed.gather_text(" ".join(files())))
            raise UserError(
                f"{' and '.join(wrong)} not finite at iteration {step}; the last snapshot is from before: a lower "
                f"MODEL.LR, or TRAIN.PRECISION float32, may help; the iteration's images: {names}"
            )
