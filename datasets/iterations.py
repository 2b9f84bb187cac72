"""What each iteration loads: one order per epoch, shared among the processes, resumable anywhere."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, Sampler, default_collate

from core.distributed import split
from datasets.images import DataError
from datasets.source import ImageBatch, SourceBatch, SourceTraining, UnlabelledTraining
from datasets.target import TargetBatch, TargetTraining, collate_views

ORDER = 3  # its stream of random numbers; those of the items are in datasets/source.py and target.py
Place = tuple[int, int]  # epoch and iteration, from 0
TRIES = 20  # of items in a row: where none of them can be used, the disk is gone rather than an image


class Skipped(NamedTuple):
    """A file that could not be used."""

    domain: str  # source or target
    file: str
    reason: str


class Iteration(NamedTuple):
    """What a process loads for an iteration."""

    source: SourceBatch | None  # None with TARGET_ONLY
    target: TargetBatch | ImageBatch  # images without views in the baseline
    skipped: list[Skipped]  # files in whose place others were taken


class Schedule(Sampler):
    """The iterations of a run from `start` on, in order.

    Args:
        per_epoch: iterations of an epoch.
        epochs: epochs of the run.
        start: where to begin.
    """

    def __init__(self, per_epoch: int, epochs: int, start: Place = (0, 0)) -> None:
        self.per_epoch, self.epochs, self.start = per_epoch, epochs, start

    def __len__(self) -> int:
        return max(0, (self.epochs - self.start[0]) * self.per_epoch - self.start[1])

    def __iter__(self) -> Iterator[Place]:
        for position in range(self.start[0] * self.per_epoch + self.start[1], self.epochs * self.per_epoch):
            yield divmod(position, self.per_epoch)


class Iterations(Dataset):
    """A process's share of each iteration, both domains.

    An epoch visits the indices of the source list in one shuffled order, source and target alike (released code), and
    drops incomplete batches. The batch of an iteration is the same whatever the number of processes; process `rank`
    of `size` takes a contiguous share of its images and, in SAC, of its views.

    Args:
        source: keys (epoch, index); None = no source images (TARGET_ONLY).
        target: a TargetTraining, or an UnlabelledTraining in the baseline.
        length: of the source list.
        batch: B, over all processes.
        groups: N, over all processes.
        seed: of the order.
        share: (rank, size).
        tries: how many items in a row may be replaced by their next ones where a file cannot be used.
    """

    def __init__(
        self, source: SourceTraining | None, target: TargetTraining | UnlabelledTraining, *, length: int, batch: int,
        groups: int, seed: int, share: tuple[int, int] = (0, 1), tries: int = 0,
    ) -> None:
        self.source, self.target, self.length, self.seed = source, target, length, seed
        self.batch, self.groups, self.share, self.tries = batch, groups, share, tries
        self.per_epoch = min(length // batch, length // groups)

    def __getitem__(self, place: Place) -> Iteration:
        epoch, iteration = place
        skipped: list[Skipped] = []

        def load(domain: str, *key: int) -> tuple:
            item, errors = usable({"source": self.source, "target": self.target}[domain], key, self.length, self.tries)
            for error in errors:
                skipped.append(Skipped(domain, error.path, error.reason))
            return item

        shuffled = order(self.seed, epoch, self.length)
        images = shuffled[iteration * self.batch : (iteration + 1) * self.batch].tolist()
        groups = shuffled[iteration * self.groups : (iteration + 1) * self.groups].tolist()
        source = None
        if self.source is not None:
            source = default_collate([load("source", epoch, i) for i in images[split(self.batch, *self.share)]])
        if isinstance(self.target, UnlabelledTraining):
            own = groups[split(self.groups, *self.share)]
            return Iteration(source, default_collate([load("target", epoch, i) for i in own]), skipped)
        parts = own_views(self.groups, self.target.policy.views, self.share)
        views = [load("target", epoch, groups[g], first, last) for g, first, last in parts]
        return Iteration(source, collate_views(views), skipped)

    @property
    def images(self) -> dict[str, int]:
        """How many images each domain's list has."""
        parts = {"source": self.source, "target": self.target}
        return {domain: len(data.samples) for domain, data in parts.items() if data is not None}

    def files(self, source: Tensor | None, target: Tensor) -> list[str]:
        """The images of a batch with these `index`, as the lists name them, each once."""
        parts = [(self.source, source), (self.target, target)]
        return [data.samples[i].image for data, index in parts if index is not None for i in index.unique().tolist()]


def own_views(groups: int, views: int, share: tuple[int, int]) -> list[tuple[int, int, int]]:
    """A process's share of `groups` images with `views` views each, as (image, first view, last view).

    A process without views gets an empty part of an image.
    """
    own = split(groups * views, *share)
    first, last = own.start // views, -(-own.stop // views)
    parts = [(g, max(0, own.start - g * views), min(views, own.stop - g * views)) for g in range(first, last)]
    return parts if own.start < own.stop else [(0, 0, 0)]


@lru_cache(maxsize=2)
def order(seed: int, epoch: int, length: int) -> np.ndarray:
    """The order of an epoch: int64 [length]."""
    return np.random.default_rng((seed, ORDER, epoch)).permutation(length)


def usable(data: Dataset, key: tuple[int, ...], length: int, tries: int) -> tuple[Any, list[DataError]]:
    """An item, or the next one that can be used, and what was wrong with those before it.

    It depends on the key and on the files alone: neither processes nor interruptions matter.

    Args:
        data: takes keys (epoch, index, ...).
        key: of the item.
        length: indices are 0 ... length-1; after the last comes the first.
        tries: how many in a row may fail; 0 = none.

    Raises:
        DataError: of the last that was tried.
    """
    epoch, index, *rest = key
    errors: list[DataError] = []
    while True:
        try:
            return data[(epoch, (index + len(errors)) % length, *rest)], errors
        except DataError as error:
            if len(errors) >= tries:
                raise
            errors.append(error)


class Usable(Dataset):
    """`usable` items of a data set, for measuring: nobody counts what was skipped."""

    def __init__(self, data: Dataset, length: int, tries: int) -> None:
        """Arguments as of `usable`."""
        self.data, self.length, self.tries = data, length, tries

    def __getitem__(self, key: tuple[int, ...]) -> Any:
        return usable(self.data, key, self.length, self.tries)[0]
