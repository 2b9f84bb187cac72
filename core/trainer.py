"""The procedure: epochs, validation, snapshots, for the baseline and for SAC (docs/method.md sections 3, 4 and 8)."""

import signal
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from yacs.config import CfgNode

import datasets
from core import checkpoint, config, distributed, progress, run, setup
from core.alarms import Alarms
from core.cli import Fault, UserError
from core.files import write_bytes
from core.log import Log, progress_bar
from core.prepare import Preparation, constants
from core.step_log import Recorder
from core.steps import BaselineStep, SACStep
from core.validation import Evaluation
from datasets import labels
from datasets.iterations import Iteration
from datasets.replacement import Tally


class Stopped(Exception):
    """The run was asked to stop; everything up to here is written."""


class Trainer:
    """A run, from its configuration to its last snapshot.

    Args:
        cfg: checked and frozen.
        place: the run's folders.
        resume: snapshot to start from; a last.pth of the run itself goes before it.
        seed: of everything drawn.
        workers: loader processes; None = as many as this process's share of the cores, at most 8.
        notes: lines for the log.
    """

    def __init__(
        self, cfg: CfgNode, place: run.Run, resume: str = "", seed: int = 0, workers: int | None = None,
        notes: list[str] | None = None,
    ) -> None:
        self.cfg, self.place, self.seed = cfg, place, seed
        self.baseline = cfg.MODEL.BASELINE
        self.device = setup.start_processes(cfg)
        self.main = distributed.rank() == 0
        self.share = (distributed.rank(), distributed.size())
        self.workers = setup.default_workers() if workers is None else workers
        self.labels = labels.load(cfg.DATASET.CLASSES)
        config.check_classes(cfg, self.labels.num_classes)
        # The lists are opened before the networks are made: what is missing is said in the first second.
        data = datasets.training(cfg, seed, self.share, (0, 0), 0).dataset
        self.per_epoch = data.per_epoch
        self.lists, missing, self.select = datasets.validation_lists(cfg)
        self.log = Log(place.logs, self.main)
        self.watch = Alarms(self.labels.names)
        self.tally = Tally(data.images)
        self.stopping = False
        lines = self._start(resume)
        self.compute = setup.make_compute(cfg, self.device)
        if self.baseline:
            self.train_step = BaselineStep(self.network["backbone"], self.optimiser, self.compute)
        else:
            self.train_step = SACStep(self.network, self.optimiser, self.compute, constants(cfg))
        self.prepare = Preparation(cfg, self.device, seed, self.share[0])
        images = cfg.TRAIN.BATCH_SIZE + cfg.TRAIN.NUM_GROUPS * (1 if self.baseline else cfg.TRAIN.GROUP_SIZE)
        every = 10 if self.device.type == "cuda" else 1
        self.recorder = Recorder(self.log, self.watch, self.labels.names, images, every)
        self.evaluation = Evaluation(cfg, self.labels, self.compute, self.log, seed, self.share, self.workers)
        self._announce([*(notes or []), *lines], missing)

    def _start(self, resume: str) -> list[str]:
        """Make the networks; go on with the run's own last.pth, or start from `resume`, or from nothing."""
        cfg, last = self.cfg, self.place.last
        torch.manual_seed(self.seed)
        going_on = distributed.any_process(last.exists())
        # A run that goes on is locked before it is read; a new one leaves no trace before everything is checked.
        if going_on:
            self._lock = distributed.on_first(self.place.lock)
        init = "" if resume or going_on else cfg.MODEL.INIT_MODEL  # who starts from a snapshot needs none
        self.network, self.optimiser = setup.make_networks(cfg, self.labels.num_classes, self.device, init)
        self.progress, self.best, position = progress.Progress(), checkpoint.Best(self.place.snapshots), None
        if going_on:
            lines, position = self._go_on(resume)
        elif resume:
            begin, network = ((run.start_baseline, self.network["backbone"]) if self.baseline
                              else (run.start_sac, self.network))
            self.progress.epoch, lines = begin(network, self.optimiser, resume, cfg.MODEL.ARCH)
            if self.progress.epoch >= cfg.TRAIN.NUM_EPOCHS:
                raise UserError(f"{resume} has done {self.progress.epoch} epochs, TRAIN.NUM_EPOCHS = "
                                f"{cfg.TRAIN.NUM_EPOCHS} counts them too: nothing is left to train; set it higher")
        else:
            lines = [f"weights: {init or 'random (MODEL.INIT_MODEL is empty)'}"]
        if not going_on:
            self._lock = distributed.on_first(self.place.lock)
            distributed.on_first(self.best.begin)
        distributed.on_first(partial(self.log.begin, self.progress.step, position))
        return lines

    def _go_on(self, resume: str) -> tuple[list[str], dict[str, int]]:
        """Exactly where last.pth left off; lines for the log, and what the log's files held then."""
        last = self.place.last
        state = checkpoint.load(last)
        progress.check(state, last, {"seed": self.seed, "baseline": self.baseline, "per_epoch": self.per_epoch})
        self.progress = progress.restore(state, last, self.network, self.optimiser, self.cfg.MODEL.ARCH)
        own = state["run"]
        self.best.kept = [tuple(entry) for entry in own["kept"]]
        self.watch.memory = own["watch"]
        self.tally.files |= own.get("skipped", {})
        p, read = self.progress, f"; {resume} is not read again" if resume else ""
        lines = [f"goes on from {last}: {p.epoch} epochs and {p.iteration} iterations of the next are done, "
                 f"{p.step} iterations in all{read}"]
        if changes := progress.changes(own["config"], self.cfg):
            lines.append(f"the configuration has changed: {', '.join(changes)}")
        return lines, own["log"]

    def _announce(self, notes: list[str], missing: list[str]) -> None:
        distributed.on_first(partial(write_bytes, self.place.logs / "config.yaml", self.cfg.dump().encode()))
        self.origin = run.provenance(self.device)
        for name, value in self.origin.items():
            self.log.say(f"{name}: {value}")
        for line in notes:
            self.log.say(line)
        if missing:
            self.log.say(f"validation lists that are not there are left out: {', '.join(missing)}")
        if not self.lists:
            self.log.say("there is no list to validate on (VAL.LISTS): validation is left out")
        self.log.say(f"the best snapshots are chosen by {self.select}" if self.select
                     else "no list chooses among the snapshots: last.pth is the result")
        if self.select and (trained := datasets.trained_on(self.cfg, self.select)):
            self.log.warn(f"{trained} images of {self.select} are trained on too: the scores that choose flatter, and "
                          "labels of those images choose a snapshot (VAL.SELECT names another list)")
        self.log.say(setup.plan(self.cfg, self.compute, self.workers, self.seed))

    def fit(self) -> None:
        """Train until NUM_EPOCHS, MAX_ITER or a signal; in each case everything is written."""
        p, last = self.progress, self.place.last
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask_to_stop)  # to the end of the process: a late second one harms nothing
        loader = datasets.training(self.cfg, self.seed, self.share, (p.epoch, p.iteration), self.workers)
        self.files, self.batches = loader.dataset.files, datasets.batches(loader)
        try:
            if not p.validated:
                self.end_epoch()
            while p.epoch < self.cfg.TRAIN.NUM_EPOCHS:
                self.train_epoch()
                self.end_epoch()
            self.log.say(f"done: {p.epoch} epochs, {p.step} iterations; result: {self._result()}")
        except Stopped as reason:
            self.log.say(f"{reason}; {last} is written: the same command goes on from there")
        except Exception as error:
            self.log.note(f"ended by {type(error).__name__}: {error}; the same command goes on from {last}")
            if not isinstance(error, UserError) and "DataLoader worker (pid" in str(error):
                raise Fault(f"{str(error).splitlines()[0]} Out of memory? Fewer --workers need less of it; the same "
                            f"command goes on from {last}") from error
            raise
        finally:
            self.log.close()
        distributed.stop()

    def _result(self) -> str:
        best = min(self.best.kept, key=lambda entry: (-entry[0], entry[1]), default=None)
        return str(self.place.snapshots / best[2]) if best and self.select else str(self.place.last)

    def _ask_to_stop(self, number: int, frame: object) -> None:
        """A signal: finish the iteration, write, end. A second one changes nothing."""
        self.stopping = True

    def train_epoch(self) -> None:
        """The rest of an epoch."""
        p, train = self.progress, self.cfg.TRAIN
        self.recorder.start()
        with progress_bar(total=self.per_epoch, initial=p.iteration, disable=not self.main, unit="it",
                          desc=f"epoch {p.epoch + 1}/{train.NUM_EPOCHS}", mininterval=1.0) as bar:
            while p.iteration < self.per_epoch:
                if train.MAX_ITER and p.step >= train.MAX_ITER:
                    self.save_last()
                    raise Stopped(f"TRAIN.MAX_ITER = {train.MAX_ITER} is reached")
                source, target, skipped = self._fetch()
                values = self._step(source, target)
                p.iteration, p.step = p.iteration + 1, p.step + 1
                position = {"epoch": p.epoch + 1, "iter": p.step}
                self.recorder.skipped(position, self.tally.add(skipped), skipped)
                files = partial(self.files, None if source is None else source.index, target.index)
                self.recorder.add(position, values, files)
                if self.recorder.due:
                    bar.set_postfix(self._read(), refresh=False)
                bar.update()
                if p.step % train.SNAPSHOT_ITER == 0 and p.iteration < self.per_epoch:
                    self.save_last()

    def _fetch(self) -> Iteration:
        """The next batch, with what was skipped on any process; all stop here together if one of them has to."""
        batch = error = None
        skipped: list = []
        try:
            batch = next(self.batches)
        except Exception as failed:  # raised below, once the others know
            error = failed
        if self._agree(error, self.save_last, bool(batch and batch.skipped)):
            # An image whose views several processes share is skipped by each of them.
            skipped = sorted(set(distributed.gather_lists(batch.skipped)))
            try:
                self.tally.refuse_many(skipped)
            except UserError:
                self.save_last()
                raise
        return batch._replace(skipped=skipped)

    def _agree(
        self, error: Exception | None = None, save: Callable[[], None] | None = None, flag: bool = False
    ) -> bool:
        """Stop, all processes at the same point, if one has to; else whether any has raised its flag."""
        # One exchange of a number for all three.
        most = distributed.largest(2 if self.stopping or error is not None else int(flag))
        if most < 2:
            return most == 1
        if save is not None:
            save()
        distributed.agree(error)
        raise Stopped(f"stopped by a signal after {self.progress.step} iterations")

    def _step(self, source: Any, target: Any) -> dict[str, torch.Tensor]:
        """One iteration of training on what the loader gave."""
        p = self.progress
        prepared = self.prepare(source, target, p.epoch, p.iteration)
        return self.train_step(*prepared) if self.baseline else self.train_step(*prepared, p.iteration)

    def _read(self) -> dict[str, str]:
        """Log what the last iterations returned."""
        rates = [group["lr"] for group in self.optimiser.param_groups]
        return self.recorder.read(rates, None if self.baseline else self.network.running_conf)

    def end_epoch(self) -> None:
        """Count the epoch, write last.pth; validate where it is due, keep the best, write last.pth again."""
        p = self.progress
        if p.validated:
            p.epoch, p.iteration = p.epoch + 1, 0
            p.validated = not any(self._due())
            self.save_last()
        if not p.validated:
            scores = self.validate()
            p.validated = True
            if self.select in scores:
                distributed.on_first(lambda: self.best.offer(scores[self.select], p.epoch, self.state()))
            self.save_last()
            distributed.on_first(self.best.tidy)

    def _due(self) -> tuple[bool, bool]:
        """Whether the target's views, and whether the lists, are to be measured after this epoch."""
        done, final = self.progress.epoch, self.progress.epoch == self.cfg.TRAIN.NUM_EPOCHS
        views = not self.baseline and done % self.cfg.LOG.ITER_TARGET == 0
        return views, bool(self.lists) and (done % self.cfg.LOG.ITER_VAL == 0 or final)

    def validate(self) -> dict[str, float]:
        """Measure what is due after this epoch; the student's mIoU by list."""
        p, scores = self.progress, {}
        views, lists = self._due()
        if views:
            self.evaluation.target(self.train_step, p.epoch, p.step, self._agree)
        for name in self.lists if lists else ():
            student = self.network["backbone"] if self.baseline else self.network.backbone
            scores[name] = self.evaluation.validate(student, name, p.epoch, p.step, self._agree)
            for finding in self.watch.validation(name, scores[name]):
                self.log.warning({"epoch": p.epoch, "iter": p.step, **finding._asdict()})
        return scores

    def state(self) -> dict[str, Any]:
        """A snapshot."""
        own = {
            "seed": self.seed, "baseline": self.baseline, "per_epoch": self.per_epoch, "config": self.cfg.dump(),
            "origin": self.origin, "classes": list(self.labels.names), "watch": self.watch.memory,
            "kept": [list(entry) for entry in self.best.kept], "skipped": self.tally.files,
            "log": self.log.position(self.progress.step),
        }
        return progress.snapshot(self.progress, self.network, self.optimiser, self.best.score, own)

    def save_last(self) -> None:
        """Write last.pth; the log up to here is on the disk before it."""
        self._read()
        distributed.on_first(lambda: checkpoint.save(self.place.last, self.state()))
