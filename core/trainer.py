"""The training loop: epochs, validation, snapshots, for the baseline and SAC (docs/method.md sections 3, 4 and 8)."""

import math
import time
from functools import partial
from typing import Any

import torch
from yacs.config import CfgNode

import datasets
from core import build, checkpoint, distributed, resume
from core.alarms import Alarms
from core.cli import Fault, UserError
from core.distributed import READ, SKIPPED, Agreement, Stopped
from core.files import write_bytes
from core.log import Log
from core.run_folder import Run, provenance
from core.step_log import Entry, StepLog
from datasets import Data
from datasets.iterations import Iteration
from datasets.replacement import Tally

READ_ITERATIONS, READ_SECONDS = 10, 2.0  # between readings of the iterations' results, whichever comes first

class Trainer:
    """A run, from its configuration to its last snapshot.

    Args:
        cfg: checked and frozen.
        folder: the run's.
        snapshot: to start from; the run's own last.pth takes precedence.
        seed: the random seed.
        workers: loader processes; None = this process's share of the cores, at most 16.
        notes: lines for the log.
    """

    def __init__(
        self, cfg: CfgNode, folder: Run, snapshot: str = "", seed: int = 0, workers: int | None = None,
        notes: list[str] | None = None,
    ) -> None:
        device = build.start_processes(cfg)
        label_set, workers = build.label_set(cfg), build.workers(cfg, workers)
        # The lists are read before the networks are built, so that missing files are reported in the first second.
        self.data = Data(cfg, seed, (distributed.rank(), distributed.size()), workers)
        self.folder, self.intervals, self.identity = folder, build.intervals(cfg), build.identity(cfg, self.data)
        self.log, self.alarms = Log(folder.logs, distributed.rank() == 0), Alarms(label_set.names)
        self.tally, self.best = Tally(self.data.iterations.images), checkpoint.Best(folder.snapshots)
        origin = resume.find(folder, snapshot, self.identity["init"])
        # A resumed run is locked before it is read; a new one leaves no trace until everything is checked.
        lock = distributed.on_first(folder.lock) if origin.own else None
        torch.manual_seed(seed)
        self.step = build.step(cfg, build.compute(cfg, device), label_set.num_classes, origin.init)
        begun = resume.begin(origin, folder, self.step.network, self.step.optimiser, self.identity)
        self.progress, self.lock = begun.progress, lock if origin.own else distributed.on_first(folder.lock)
        self.best.begin(begun.own and begun.own["kept"])
        if begun.own is not None:
            self.alarms.memory, self.tally.files = begun.own["alarms"], self.tally.files | begun.own["skipped"]
            self.step.compute.restore(begun.own, str(folder.last))
        self.step.rates = build.rates(cfg, self.step.optimiser, self.progress, self.data.iterations.per_epoch)
        distributed.on_first(partial(self.log.begin, self.progress.step, begun.own and begun.own["log"]))
        self.inputs = build.inputs(cfg, device, seed, [part.start for part in self.data.iterations.mixture.lists])
        sizes = sum(self.inputs.totals), self.data.iterations.per_epoch, self.intervals.epochs
        self.step_log, self.agree = StepLog(self.log, self.alarms, label_set.names, *sizes), Agreement()
        self.validation = build.validation(cfg, self.data, self.inputs, self.log, self.agree)
        self.told = {"classes": list(label_set.names), "colours": list(label_set.colours), "origin": provenance(device)}
        self.entries: list[Entry] = []  # iterations not read yet
        self.read_at, self.batches = time.monotonic(), iter(())
        distributed.on_first(partial(write_bytes, folder.logs / "config.yaml", self.identity["config"].encode()))
        for line in (*(f"{k}: {v}" for k, v in self.told["origin"].items()), *(notes or []), *begun.lines):
            self.log.say(line)
        build.introduce(cfg, self.data, self.step, self.log)

    def fit(self) -> None:
        """Train until NUM_EPOCHS, MAX_ITER or a signal; in each case, everything is saved."""
        p, last = self.progress, self.folder.last
        self.agree.heed_signals()
        self.batches = datasets.batches(self.data.training((p.epoch, p.iteration)))
        try:
            if not p.validated:
                self.end_epoch()
            while p.epoch < self.intervals.epochs:
                self.train_epoch()
                self.end_epoch()
            result = self.best.result if self.data.select and self.best.kept else last
            self.log.say(f"done: {p.epoch} epochs, {p.step} iterations; result: {result}")
        except Stopped as reason:
            self.log.say(f"{reason} after {p.step} iterations; {last} is written: the same command resumes from there")
        except Exception as error:
            there = last.exists() or distributed.rank()  # on the first process's disk
            advice = f"the same command resumes from {last}" if there else "no snapshot has been written yet"
            self.log.note(f"ended by {type(error).__name__}: {error}; {advice}")
            if isinstance(error, torch.OutOfMemoryError):
                raise UserError(f"{self.step.compute.too_much(self.inputs.totals)}; {advice}") from error
            if not isinstance(error, UserError) and "DataLoader worker (pid" in str(error):
                raise Fault(f"{str(error).splitlines()[0]} Out of memory? Use fewer --workers; {advice}") from error
            raise
        finally:
            self.log.close()
        distributed.stop()

    def train_epoch(self) -> None:
        """Train for the rest of an epoch."""
        p, i, per_epoch = self.progress, self.intervals, self.data.iterations.per_epoch
        with self.step_log.start(p.epoch + 1, p.iteration) as bar:
            while p.iteration < per_epoch:
                if i.most_iterations and p.step >= i.most_iterations:
                    self.save_last()
                    raise Stopped(f"TRAIN.MAX_ITER = {i.most_iterations} is reached")
                self.train_on(self.fetch(bar))
                bar.update()
                if p.step % i.snapshot == 0 and p.iteration < per_epoch:
                    self.save_last()

    def train_on(self, batch: Iteration) -> None:
        """Train for one iteration."""
        p = self.progress
        values = self.step(*self.inputs(batch, p.epoch, p.iteration), p.iteration, p.step)
        p.iteration, p.step = p.iteration + 1, p.step + 1
        position, index = {"epoch": p.epoch + 1, "iter": p.step}, batch.source and batch.source.index
        files = partial(self.data.iterations.files, index, batch.target.index)
        self.entries.append(Entry(position, values, files))
        if batch.skipped:
            self.step_log.skipped(position, self.tally.add(batch.skipped), batch.skipped)

    def fetch(self, bar: Any) -> Iteration:
        """The next batch, with what any process skipped; if one process has to stop, all stop here."""
        batch = error = None
        try:
            batch = next(self.batches)
        except Exception as failed:  # raised by `agree`, once the others know
            error = failed
        due = time.monotonic() - self.read_at >= READ_SECONDS or self.progress.step % READ_ITERATIONS == 0
        wanted = self.agree(error, SKIPPED if batch and batch.skipped else READ if due else 0, self.save_last)
        if wanted:
            shown = self.step_log.progress(self.progress.epoch + 1, self.progress.iteration, self.read())
            bar.set_postfix(shown, refresh=False)
        if wanted < SKIPPED:
            return batch
        # An image whose views several processes share is skipped by each of them.
        skipped = sorted(set(distributed.gather_lists(batch.skipped)))
        self.tally.refuse_many(skipped, self.save_last)
        return batch._replace(skipped=skipped)

    def read(self) -> dict[str, str]:
        """Log the results of the last iterations."""
        entries, self.entries, self.read_at = self.entries, [], time.monotonic()
        return self.step_log.read(entries, self.step) if entries else {}

    def end_epoch(self) -> None:
        """Count the epoch, write last.pth; if validation is due, validate, keep the best, write last.pth again."""
        p, i = self.progress, self.intervals
        if p.validated:
            p.epoch, p.iteration = p.epoch + 1, 0
        views = i.target and p.epoch % i.target == 0
        lists = self.data.lists if p.epoch % i.lists == 0 or p.epoch == i.epochs else []
        if p.validated:
            p.validated = not (views or lists)
            self.save_last()
        if p.validated:
            return
        scores = self.validation.measure(self.step, {"epoch": p.epoch, "iter": p.step}, views, lists, self.alarms)
        p.validated = True
        score = scores.get(self.data.select, math.nan)
        distributed.on_first(lambda: self.best.offer(score, p.epoch, self.state()))
        self.save_last()
        distributed.on_first(self.best.tidy)

    def state(self) -> dict[str, Any]:
        """A snapshot; `told` in it is for information and for core/segment.py."""
        own = {**self.identity, **self.told, **self.step.compute.state(), "alarms": self.alarms.memory,
               "skipped": self.tally.files, "kept": [list(entry) for entry in self.best.kept],
               "log": self.log.position(self.progress.step)}
        return resume.snapshot(self.progress, self.step.network, self.step.optimiser, self.best.score, own)

    def save_last(self) -> None:
        """Write last.pth, after flushing the log to disk."""
        self.read()
        distributed.on_first(lambda: checkpoint.save(self.folder.last, self.state()))
