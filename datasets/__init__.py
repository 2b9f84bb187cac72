"""What a run reads: lists and loaders, built from the configuration, which no other module of this package knows."""

import multiprocessing
import multiprocessing.queues
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from multiprocessing.util import Finalize
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, Subset, default_collate
from yacs.config import CfgNode

from core.cli import UserError
from datasets import labels, lists, sampling
from datasets.iterations import TRIES, Iterations, Place, Schedule, Usable, order
from datasets.lists import Sample
from datasets.source import Augmentation, SourceLists, SourceTraining, UnlabelledTraining, Validation
from datasets.target import TargetTraining, TargetViewsLabelled, ViewPolicy

# What the published tasks validate on, besides the target's lists (docs/method.md section 8).
PUBLISHED = {"train_game_9K": "val_game_1K", "train_synthia_9K": "val_synthia"}
TARGET_LISTS = ("val_cityscapes", "val2_cityscapes")
GTA5_LISTS = ("train_game_9K", "val_game_1K")  # their images have several sizes
MOST_TARGET_BATCHES = 300  # of the target's views, for measuring
SIGNALS = (signal.SIGTERM, signal.SIGINT)
PREFETCHED = 2  # items that each worker keeps ready
SHARED = "/dev/shm"  # where workers put them


def augmentation(cfg: CfgNode) -> Augmentation:
    """The source's augmentation (section 6)."""
    data = cfg.DATASET
    return Augmentation(
        crop_size=tuple(data.CROP_SIZE), scale=(data.SCALE_FROM, data.SCALE_TO), random_crop=data.RND_CROP,
        hflip=data.RND_HFLIP, blur=data.SRC_RND_BLUR,
        # Released code: the source's own key only switches the jitter on; the strength is the target's.
        jitter=data.RND_JITTER if data.SRC_RND_JITTER > 0 else 0.0,
    )


def view_policy(cfg: CfgNode) -> ViewPolicy:
    """How the views of a target image are drawn (section 5)."""
    data = cfg.DATASET
    return ViewPolicy(
        crop_size=tuple(data.CROP_SIZE), views=cfg.TRAIN.GROUP_SIZE, target_scale=tuple(data.TARGET_SCALE),
        zoom=tuple(data.RND_ZOOM), hflip=data.RND_HFLIP, guided_hflip=data.GUIDED_HFLIP, blur=data.RND_BLUR,
        jitter=data.RND_JITTER, greyscale=data.RND_GREYSCALE,
    )


class Data:
    """The lists of a run, each read once, and the loaders over them.

    Args:
        cfg: the configuration.
        seed: the random seed; with (epoch, index), it determines an item.
        share: (rank, size) of this process.
        workers: loader processes; 0 = none.

    Raises:
        UserError: a list or a weights file is missing or does not fit.
    """

    def __init__(self, cfg: CfgNode, seed: int = 0, share: tuple[int, int] = (0, 1), workers: int = 0) -> None:
        data, train = cfg.DATASET, cfg.TRAIN
        self.seed, self.share, self.workers, self.root = seed, share, workers, data.ROOT
        self.epochs, self.target_list = train.NUM_EPOCHS, train.TARGET
        self.ignored = ignored(cfg)
        self.class_names = labels.load(data.CLASSES).names
        self.num_classes = len(self.class_names)
        self.tries = TRIES if data.ON_ERROR == "skip" else 0
        self.game_size = tuple(data.GAME_SIZE) or None
        self.samples: dict[str, list[Sample]] = {}  # by the list's name
        sources = [self.read(name, labelled=True) for name in train.TASK]
        self.lists, self.missing, self.select = validation_lists(cfg)
        for name in self.lists:
            self.read(name, labelled=True)
        target = self.read(train.TARGET)
        if cfg.MODEL.BASELINE:
            unlabelled = UnlabelledTraining(target, self.root, augmentation(cfg), seed)
        else:
            unlabelled = TargetTraining(target, self.root, self._tables(cfg, target), view_policy(cfg), seed)
        self.iterations = Iterations(
            self._source(cfg) if cfg.MODEL.BASELINE or not train.TARGET_ONLY else None,
            unlabelled, lengths=[len(samples) for samples in sources], shares=shares(cfg), batch=train.BATCH_SIZE,
            groups=target_images(cfg, share[1]), seed=seed, share=share, tries=self.tries,
        )
        if self.iterations.per_epoch == 0:
            raise UserError(
                f"list {' + '.join(train.TASK)} has {self.iterations.length} images, fewer than one batch "
                f"(TRAIN.BATCH_SIZE = {train.BATCH_SIZE}, TRAIN.NUM_GROUPS = {train.NUM_GROUPS})"
            )
        self.validation_batch = train.MICRO_BATCH or max(1, train.BATCH_SIZE // share[1])
        self.crop_size, self.val_crop = tuple(data.CROP_SIZE), data.VAL_CROP

    def read(self, name: str, labelled: bool = False) -> list[Sample]:
        """A list, only read the first time; if `labelled` then, every sample must have a label."""
        if name not in self.samples:
            self.samples[name] = lists.read(name, self.root, labelled)
        return self.samples[name]

    def _source(self, cfg: CfgNode) -> SourceTraining | SourceLists:
        policy, parts, first = augmentation(cfg), [], 0
        for name, classes in self.ignored.items():
            parts.append(SourceTraining(
                self.samples[name], self.root, policy, num_classes=self.num_classes, game_size=self._game_size(name),
                seed=self.seed, ignored=classes, first=first))
            first += len(parts[-1])
        return parts[0] if len(parts) == 1 else SourceLists(parts)

    def _game_size(self, name: str) -> tuple[int, int] | None:
        """The size that a list's images are first resized to (section 6); for the published GTA5 lists only."""
        return self.game_size if Path(name).stem in GTA5_LISTS else None

    def _tables(self, cfg: CfgNode, samples: list[Sample]) -> object:
        """Tables for importance sampling (section 7): float64 [C,M]."""
        file, names, weights = cfg.DATASET.SAMPLE_WEIGHTS, [sample.image for sample in samples], None
        if file:
            names, weights = lists.mask_names(samples), sampling.load_weights(file)
        prior, ignored = cfg.DATASET.SAMPLE_UNIFORM_PRIOR, list(cfg.VAL.IGNORE_CLASS)
        return sampling.cumulative_tables(weights, names, self.num_classes, prior, ignored)

    def training(self, start: Place = (0, 0)) -> DataLoader:
        """Iterations, one after the other from `start` on; this process's share of each."""
        return self._loader(self.iterations, sampler=Schedule(self.iterations.per_epoch, self.epochs, start))

    def validation(self, name: str) -> DataLoader:
        """This process's images of a list, each once, unaugmented, as SourceBatches."""
        data = Validation(self.read(name, labelled=True), self.root, crop_size=self.crop_size, crop=self.val_crop,
                          num_classes=self.num_classes, game_size=self._game_size(name))
        own = Subset(data, range(self.share[0], len(data), self.share[1]))
        return self._loader(own, batch_size=self.validation_batch, collate_fn=default_collate)

    @cached_property
    def target_labelled(self) -> bool:
        """Whether the target's list names labels, and the first of them exists."""
        samples = self.read(self.target_list)
        return all(s.label is not None for s in samples) and Path(self.root, samples[0].label).exists()

    def target_views(self, epoch: int) -> DataLoader:
        """The target's training views of an epoch, one image at a time, only for measuring.

        The first 300 batches, the images split among the processes. If the target is labelled, items are
        (TargetBatch, label uint8 [T,H,W]), else TargetBatch.
        """
        training, length = self.iterations.target, self.iterations.length
        data = TargetViewsLabelled(training) if self.target_labelled else training
        images = order(self.seed, epoch, length)[: MOST_TARGET_BATCHES * self.iterations.groups]
        keys = [(epoch, int(i), 0, training.policy.views) for i in images[self.share[0] :: self.share[1]]]
        return self._loader(Usable(data, range(length), self.tries), sampler=Keys(keys))

    def trained_on(self, name: str) -> int:
        """How many images of a list are trained on too, source or target: all of val2_cityscapes and val_synthia."""
        trained = {sample.image for task in (*self.ignored, self.target_list) for sample in self.read(task)}
        return sum(sample.image in trained for sample in self.read(name))

    def _loader(self, data: Dataset, **kwargs: object) -> DataLoader:
        """A DataLoader, without collation unless requested."""
        kwargs.setdefault("batch_size", None)
        if self.workers:
            kwargs["prefetch_factor"] = PREFETCHED
            if sys.platform == "linux":
                # A fork server (Python 3.14's default) would keep workers alive after their main process is killed.
                kwargs["multiprocessing_context"] = "fork"
            ending = multiprocessing.RawValue("b", 0)  # 1 when the main process ends; shared with the workers
            Finalize(None, setattr, (ending, "value", 1), exitpriority=1)
            kwargs["worker_init_fn"] = partial(_shield, ending)
        return DataLoader(data, num_workers=self.workers, pin_memory=torch.cuda.is_available(), **kwargs)


def check_shared_memory(cfg: CfgNode, workers: int, processes: int, here: int) -> None:
    """Check that the workers' batches fit into shared memory, of which containers have little.

    Args:
        cfg: the configuration.
        workers: loader processes per process.
        processes: those that share an iteration's images.
        here: how many of them are on this machine.

    Raises:
        UserError: they do not fit; says what to do about it.
    """
    if not workers or not os.path.isdir(SHARED):
        return
    height, width = cfg.DATASET.CROP_SIZE
    target = target_images(cfg, processes) * (1 if cfg.MODEL.BASELINE else 2 * cfg.TRAIN.GROUP_SIZE)  # clean and noisy
    # Bytes per pixel: three of colour, one of label, one of padding.
    batch = 5 * height * width * (cfg.TRAIN.BATCH_SIZE + target) / processes
    needed, free = workers * here * PREFETCHED * batch, shutil.disk_usage(SHARED).free
    if needed > free:
        fitting = int(free * workers / needed)
        raise UserError(
            f"{workers * here} loader workers need {needed / 1e6:.0f} MB of shared memory, {SHARED} has "
            f"{free / 1e6:.0f} MB: start the container with --shm-size={needed / 1e9 + 1:.0f}g or --ipc=host, or use "
            + (f"--workers {fitting}, or --workers 0 for none" if fitting else "--workers 0")
        )


def target_images(cfg: CfgNode, processes: int) -> int:
    """Target images per iteration: NUM_GROUPS; in the baseline, for BatchNorm, at least one per process.

    (Released code: max(1, NUM_GROUPS // processes) on each process.)
    """
    return max(cfg.TRAIN.NUM_GROUPS, processes) if cfg.MODEL.BASELINE else cfg.TRAIN.NUM_GROUPS


def ignored(cfg: CfgNode) -> dict[str, list[int]]:
    """The source lists, each with the classes that are not trained on."""
    lists = cfg.TRAIN.TASK
    return dict(zip(lists, cfg.TRAIN.TASK_IGNORE or [[]] * len(lists), strict=True))


def shares(cfg: CfgNode) -> list[int]:
    """The source lists' shares of the source images."""
    return cfg.TRAIN.TASK_SHARES or [1] * len(cfg.TRAIN.TASK)


def validation_lists(cfg: CfgNode) -> tuple[list[str], list[str], str]:
    """The lists to validate on, those that do not exist, and the one that selects snapshots ("" = none)."""
    wanted = list(cfg.VAL.LISTS)
    published = [PUBLISHED[name] for name in cfg.TRAIN.TASK if name in PUBLISHED]
    if not wanted and published:
        wanted = [*published, *TARGET_LISTS]
    found = [name for name in wanted if lists.exists(name, cfg.DATASET.ROOT)]
    if cfg.VAL.SELECT:
        select = cfg.VAL.SELECT
        if select not in found:
            names = ", ".join(found) or "none"
            raise UserError(f"VAL.SELECT = {select} is not among the lists to validate on ({names})")
    elif "val2_cityscapes" in found:
        select = "val2_cityscapes"
    else:
        own = [name for name in found if name in cfg.VAL.LISTS]
        select = own[-1] if own else ""
    return found, [name for name in wanted if name not in found], select


class Keys(Sampler):
    """Keys in the order given."""

    def __init__(self, keys: Sequence[tuple]) -> None:
        self.keys = keys

    def __iter__(self) -> Iterator[tuple]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


def batches(loader: DataLoader) -> Iterator:
    """Start the loader's workers, with signals blocked until the workers can handle them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _shield(ending: object, worker: int) -> None:
    """Set up a new worker: leave signals to the main process; exit if an item cannot be passed on.

    Ctrl-C, a scheduler or systemd signal all processes of a run, but the main process still needs the workers to finish
    its iteration. The SIGTERM that it sends them when it exits must still work.
    """

    def terminate(number: int, frame: object) -> None:
        if ending.value:
            os._exit(0)

    def end(error: Exception, item: object) -> None:
        print(f"loader worker: {type(error).__name__}: {str(error).splitlines()[0]}", file=sys.stderr, flush=True)
        os._exit(1)

    # Without shared memory left, Python would drop the item, and the main process would wait for it forever.
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(end)
    signal.set_wakeup_fd(-1)  # the main process's (core/distributed.py)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, terminate)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
