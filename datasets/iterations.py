"""What each iteration loads: one order an epoch, shared among the processes, resumable anywhere."""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, Sampler, default_collate

from datasets.replacement import Skipped, usable
from datasets.target import collate_views

ORDER = 3  # its stream of random numbers; those of the items are in datasets/source.py and target.py


class Key(NamedTuple):
    """Which iteration of which epoch."""

    epoch: int
    iteration: int


class Iteration(NamedTuple):
    """What an iteration loads."""

    source: tuple | None  # SourceBatch; None with TARGET_ONLY
    target: tuple  # TargetBatch; in the baseline UnlabelledBatch
    skipped: list[Skipped]  # files in whose place others were taken


class Schedule(Sampler):
    """The iterations of a run from `start` = (epoch, iteration) on, in order.

    Args:
        per_epoch: iterations of an epoch.
        epochs: epochs of the run.
        start: where to begin.
    """

    def __init__(self, per_epoch: int, epochs: int, start: tuple[int, int] = (0, 0)) -> None:
        self.per_epoch, self.epochs, self.start = per_epoch, epochs, start

    def __len__(self) -> int:
        return max(0, (self.epochs - self.start[0]) * self.per_epoch - self.start[1])

    def __iter__(self) -> Iterator[Key]:
        for position in range(self.start[0] * self.per_epoch + self.start[1], self.epochs * self.per_epoch):
            yield Key(*divmod(position, self.per_epoch))


class Iterations(Dataset):
    """A process's share of each iteration, both domains.

    An epoch visits the indices of the source list in one shuffled order, source and target alike (released code), and
    drops incomplete batches. The batch of an iteration is the same whatever the number of processes; process `rank`
    of `size` takes a contiguous share of its images and, in SAC, of its views.

    Args:
        source: keys (epoch, index); None = no source images (TARGET_ONLY).
        target: keys (epoch, index, first view, last view); without views (epoch, index).
        length: of the source list.
        batch: B, over all processes.
        groups: N, over all processes.
        views: T; 0 = the target has no views (baseline).
        seed: of the order.
        share: (rank, size).
        tries: how many items in a row may be replaced by their next ones where a file cannot be used.
    """

    def __init__(
        self, source: Dataset | None, target: Dataset, *, length: int, batch: int, groups: int, views: int, seed: int,
        share: tuple[int, int] = (0, 1), tries: int = 0,
    ) -> None:
        self.source, self.target, self.length, self.seed = source, target, length, seed
        self.batch, self.groups, self.views, self.share = batch, groups, views, share
        self.tries, self.per_epoch = tries, min(length // batch, length // groups)

    def __getitem__(self, key: Key) -> Iteration:
        epoch, iteration = key
        skipped: list[Skipped] = []

        def load(domain: str, *key: int) -> tuple:
            item, errors = usable({"source": self.source, "target": self.target}[domain], key, self.length, self.tries)
            skipped.extend(Skipped(domain, error.path, error.reason) for error in errors)
            return item

        shuffled = order(self.seed, epoch, self.length)
        images = shuffled[iteration * self.batch : (iteration + 1) * self.batch]
        groups = shuffled[iteration * self.groups : (iteration + 1) * self.groups]
        source = None
        if self.source is not None:
            source = default_collate([load("source", epoch, int(i)) for i in images[self._own(self.batch)]])
        if not self.views:
            own = groups[self._own(self.groups)]
            return Iteration(source, default_collate([load("target", epoch, int(i)) for i in own]), skipped)
        own, t = self._own(self.groups * self.views), self.views
        views = collate_views([
            load("target", epoch, int(index), max(0, own.start - g * t), min(t, own.stop - g * t))
            for g, index in enumerate(groups)
            if g * t < own.stop and (g + 1) * t > own.start
        ])
        return Iteration(source, views, skipped)

    @property
    def images(self) -> dict[str, int]:
        """How many images each domain's list has."""
        parts = {"source": self.source, "target": self.target}
        return {domain: len(data.samples) for domain, data in parts.items() if data is not None}

    def files(self, source: Tensor | None, target: Tensor) -> list[str]:
        """The images of a batch with these `index`, as the lists name them, each once."""
        parts = [(self.source, source), (self.target, target)]
        return [data.samples[i].image for data, index in parts if index is not None for i in index.unique().tolist()]

    def _own(self, n: int) -> slice:
        """This process's share of `n` things."""
        rank, size = self.share
        return slice(n * rank // size, n * (rank + 1) // size)


@lru_cache(maxsize=2)
def order(seed: int, epoch: int, length: int) -> np.ndarray:
    """The order of an epoch: int64 [length]."""
    return np.random.default_rng((seed, ORDER, epoch)).permutation(length)
