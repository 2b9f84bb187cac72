"""Loaders from the configuration: the only place of this package that reads it."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing.util import Finalize
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, Subset, default_collate
from yacs.config import CfgNode

from core.cli import UserError
from datasets import labels, lists, replacement, sampling
from datasets.iterations import Iterations, Schedule, order
from datasets.source import SourceTraining, UnlabelledTraining, Validation
from datasets.target import TargetTraining, TargetViewsLabelled

# What the published tasks validate on, besides the target's lists (docs/method.md section 8).
PUBLISHED = {"train_game_9K": "val_game_1K", "train_synthia_9K": "val_synthia"}
TARGET_LISTS = ("val_cityscapes", "val2_cityscapes")
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def training(cfg: CfgNode, seed: int, share: tuple[int, int], start: tuple[int, int], workers: int) -> DataLoader:
    """An Iteration after the other, this process's share of each.

    Args:
        cfg: the configuration.
        seed: of everything drawn; with (epoch, index) it decides an item.
        share: (rank, size) of this process.
        start: (epoch, iteration) to begin with.
        workers: loader processes; 0 = none.

    Raises:
        UserError: a list or a weights file that is missing or does not fit.
    """
    source = lists.read(cfg.TRAIN.TASK, cfg.DATASET.ROOT, labels=True)
    targets = lists.read(cfg.TRAIN.TARGET, cfg.DATASET.ROOT)
    baseline = cfg.MODEL.BASELINE
    data = Iterations(
        None if cfg.TRAIN.TARGET_ONLY and not baseline else _source(cfg, source, seed),
        _unlabelled(cfg, targets, seed) if baseline else TargetTraining(targets, **_views(cfg, targets, seed)),
        length=len(source),
        batch=cfg.TRAIN.BATCH_SIZE,
        groups=cfg.TRAIN.NUM_GROUPS,
        views=0 if baseline else cfg.TRAIN.GROUP_SIZE,
        seed=seed,
        share=share,
        tries=_tries(cfg),
    )
    if data.per_epoch == 0:
        raise UserError(
            f"list {cfg.TRAIN.TASK} has {len(source)} images, fewer than one batch "
            f"(TRAIN.BATCH_SIZE = {cfg.TRAIN.BATCH_SIZE}, TRAIN.NUM_GROUPS = {cfg.TRAIN.NUM_GROUPS})"
        )
    return _loader(data, workers, sampler=Schedule(data.per_epoch, cfg.TRAIN.NUM_EPOCHS, start))


def _source(cfg: CfgNode, samples: list[lists.Sample], seed: int) -> SourceTraining:
    classes = labels.load(cfg.DATASET.CLASSES).num_classes
    return SourceTraining(samples, num_classes=classes, game_size=_game_size(cfg), **_augmentation(cfg, seed))


def _unlabelled(cfg: CfgNode, samples: list[lists.Sample], seed: int) -> UnlabelledTraining:
    return UnlabelledTraining(samples, **_augmentation(cfg, seed))


def _augmentation(cfg: CfgNode, seed: int) -> dict:
    """The source's augmentation (section 6)."""
    data = cfg.DATASET
    return {
        "root": data.ROOT,
        "crop_size": tuple(data.CROP_SIZE),
        "scale": (data.SCALE_FROM, data.SCALE_TO),
        "blur": data.SRC_RND_BLUR,
        "hflip": data.RND_HFLIP,
        # Released code: the source's own key only switches the jitter on; the strength is the target's.
        "jitter": data.RND_JITTER if data.SRC_RND_JITTER > 0 else 0.0,
        "random_crop": data.RND_CROP,
        "seed": seed,
    }


def _views(cfg: CfgNode, samples: list[lists.Sample], seed: int) -> dict:
    """The views of a target image (section 5) and its importance sampling (section 7)."""
    data = cfg.DATASET
    num_classes = labels.load(data.CLASSES).num_classes
    weights = sampling.load_weights(data.SAMPLE_WEIGHTS) if data.SAMPLE_WEIGHTS else None
    return {
        "root": data.ROOT,
        "tables": sampling.cumulative_tables(
            weights, [lists.mask_name(s.image) for s in samples], num_classes, data.SAMPLE_UNIFORM_PRIOR,
            list(cfg.VAL.IGNORE_CLASS),
        ),
        "crop_size": tuple(data.CROP_SIZE),
        "target_scale": tuple(data.TARGET_SCALE),
        "hflip": data.RND_HFLIP,
        "guided_hflip": data.GUIDED_HFLIP,
        "zoom": tuple(data.RND_ZOOM),
        "views": cfg.TRAIN.GROUP_SIZE,
        "blur": data.RND_BLUR,
        "jitter": data.RND_JITTER,
        "greyscale": data.RND_GREYSCALE,
        "seed": seed,
    }


def validation_lists(cfg: CfgNode) -> tuple[list[str], list[str], str]:
    """The lists to validate on, those of them that are not there, and the selecting one ("" = none)."""
    wanted = list(cfg.VAL.LISTS)
    if not wanted and cfg.TRAIN.TASK in PUBLISHED:
        wanted = [PUBLISHED[cfg.TRAIN.TASK], *TARGET_LISTS]
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


def trained_on(cfg: CfgNode, name: str) -> int:
    """How many images of a list are trained on too, source or target: all of val2_cityscapes and val_synthia."""
    root = cfg.DATASET.ROOT
    trained = {sample.image for task in (cfg.TRAIN.TASK, cfg.TRAIN.TARGET) for sample in lists.read(task, root)}
    return sum(sample.image in trained for sample in lists.read(name, root))


def validation(cfg: CfgNode, name: str, share: tuple[int, int], workers: int) -> DataLoader:
    """This process's images of a list, each once, unaugmented: batches of SourceBatch."""
    data = Validation(
        lists.read(name, cfg.DATASET.ROOT, labels=True), root=cfg.DATASET.ROOT, crop_size=tuple(cfg.DATASET.CROP_SIZE),
        crop=cfg.DATASET.VAL_CROP, num_classes=labels.load(cfg.DATASET.CLASSES).num_classes, game_size=_game_size(cfg),
    )
    own = Subset(data, range(share[0], len(data), share[1]))
    batch = cfg.TRAIN.MICRO_BATCH or max(1, cfg.TRAIN.BATCH_SIZE // share[1])
    return _loader(own, workers, batch_size=batch, collate_fn=default_collate)


def target_views(
    cfg: CfgNode, seed: int, epoch: int, share: tuple[int, int], workers: int
) -> tuple[DataLoader, bool]:
    """The target's training views, an image at a time, for measuring alone; and whether they have labels.

    The first 300 batches of an epoch, the images shared among the processes. With labels items are
    (TargetBatch, label uint8 [T,H,W]), without they are TargetBatch.
    """
    samples = lists.read(cfg.TRAIN.TARGET, cfg.DATASET.ROOT)
    labelled = all(s.label is not None for s in samples) and Path(cfg.DATASET.ROOT, samples[0].label).exists()
    kind = TargetViewsLabelled if labelled else TargetTraining
    length = len(lists.read(cfg.TRAIN.TASK, cfg.DATASET.ROOT))
    data = replacement.Usable(kind(samples, **_views(cfg, samples, seed)), length, _tries(cfg))
    images = order(seed, epoch, length)[: 300 * cfg.TRAIN.NUM_GROUPS]
    keys = [(epoch, int(i), 0, cfg.TRAIN.GROUP_SIZE) for i in images[share[0] :: share[1]]]
    return _loader(data, workers, sampler=Keys(keys)), labelled


class Keys(Sampler):
    """Keys in the order given."""

    def __init__(self, keys: Sequence[tuple]) -> None:
        self.keys = keys

    def __iter__(self) -> Iterator[tuple]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


def _tries(cfg: CfgNode) -> int:
    """How many items in a row may be replaced by their next ones."""
    return replacement.TRIES if cfg.DATASET.ON_ERROR == "skip" else 0


def _game_size(cfg: CfgNode) -> tuple[int, int] | None:
    return tuple(cfg.DATASET.GAME_SIZE) or None


def _loader(data: Dataset, workers: int, **kwargs: object) -> DataLoader:
    """A DataLoader whose items need no collation unless asked for."""
    kwargs.setdefault("batch_size", None)
    if workers:
        kwargs["prefetch_factor"] = 2
        if sys.platform == "linux":
            # A fork server (Python 3.14's default) would keep workers alive whose main process has been killed.
            kwargs["multiprocessing_context"] = "fork"
        ending = multiprocessing.RawValue("b", 0)  # 1 when the main process ends; it shares this with the workers
        Finalize(None, setattr, (ending, "value", 1), exitpriority=1)
        kwargs["worker_init_fn"] = partial(_shield, ending)
    return DataLoader(data, num_workers=workers, pin_memory=torch.cuda.is_available(), **kwargs)


def batches(loader: DataLoader) -> Iterator:
    """Start the loader's workers; signals that come meanwhile reach them when they know what to do with them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _shield(ending: object, worker: int) -> None:
    """What to do in a new worker: leave signals to the main process.

    Ctrl-C, a scheduler or systemd signal all processes of a run, but the main process still needs the workers for the
    iteration that it finishes. The SIGTERM with which it ends them at its own end must work nevertheless.
    """

    def terminate(number: int, frame: object) -> None:
        if ending.value:
            os._exit(0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, terminate)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
