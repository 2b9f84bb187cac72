"""What each iteration loads: one order per epoch, shared among the processes, resumable anywhere."""

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from math import gcd
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, Sampler, default_collate

from core.distributed import split
from datasets.images import DataError
from datasets.source import ImageBatch, SourceBatch, SourceLists, SourceTraining, UnlabelledTraining
from datasets.target import TargetBatch, TargetTraining, collate_views

ORDER = 3  # random stream; those of the items are in datasets/source.py and target.py
Place = tuple[int, int]  # epoch and iteration, from 0
TRIES = 20  # items in a row; if none of them can be used, it is the disk that is gone, not an image


class Skipped(NamedTuple):
    """A file that could not be used."""

    domain: str  # source or target
    file: str
    reason: str


class Iteration(NamedTuple):
    """What a process loads for an iteration."""

    source: SourceBatch | None  # None with TARGET_ONLY
    target: TargetBatch | ImageBatch  # images without views in the baseline
    skipped: list[Skipped]  # files that were replaced by others


class Schedule(Sampler):
    """The iterations of a run from `start` on, in order.

    Args:
        per_epoch: iterations per epoch.
        epochs: of the run.
        start: where to start.
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
    drops incomplete batches; with several source lists it is as long as all of them together. An iteration's batch does
    not depend on the number of processes; process `rank` of `size` takes a contiguous share of its images and, in SAC,
    of its views.

    Args:
        source: keys (epoch, index); None = no source images (TARGET_ONLY).
        target: a TargetTraining, or an UnlabelledTraining in the baseline.
        lengths: of the source lists.
        shares: of the source lists, whole numbers.
        batch: B, over all processes.
        groups: N, over all processes.
        seed: of the order.
        share: (rank, size).
        tries: how many items in a row may be replaced by the next ones if a file cannot be used.
    """

    def __init__(
        self, source: SourceTraining | SourceLists | None, target: TargetTraining | UnlabelledTraining, *,
        lengths: Sequence[int], shares: Sequence[int] = (1,), batch: int, groups: int, seed: int,
        share: tuple[int, int] = (0, 1), tries: int = 0,
    ) -> None:
        self.source, self.target, self.length, self.seed = source, target, sum(lengths), seed
        self.batch, self.groups, self.share, self.tries = batch, groups, share, tries
        self.per_epoch = min(self.length // batch, self.length // groups)
        # A single list starts over in each epoch, which drops its last images; several lists carry on.
        passes = [self.per_epoch * batch] if len(lengths) == 1 else lengths
        self.mixture = Mixture(lengths, shares, passes, seed)

    def __getitem__(self, place: Place) -> Iteration:
        epoch, iteration = place
        skipped: list[Skipped] = []

        def load(domain: str, keys: Iterable[tuple]) -> list[tuple]:
            data, items = {"source": self.source, "target": self.target}[domain], []
            for indices, *key in keys:
                item, errors = usable(data, tuple(key), indices, self.tries)
                items.append(item)
                for error in errors:
                    skipped.append(Skipped(domain, error.path, error.reason))
            return items

        source, indices, first = None, range(self.length), (epoch * self.per_epoch + iteration) * self.batch
        if self.source is not None:
            images = range(first, first + self.batch)[split(self.batch, *self.share)]
            source = default_collate(load("source", map(self.mixture, images)))
        shuffled = order(self.seed, epoch, self.length)
        groups = shuffled[iteration * self.groups : (iteration + 1) * self.groups].tolist()
        if isinstance(self.target, UnlabelledTraining):
            keys = [(indices, epoch, i) for i in groups[split(self.groups, *self.share)]]
            return Iteration(source, default_collate(load("target", keys)), skipped)
        parts = own_views(self.groups, self.target.policy.views, self.share)
        keys = [(indices, epoch, groups[g], begin, end) for g, begin, end in parts]
        return Iteration(source, collate_views(load("target", keys)), skipped)

    @property
    def images(self) -> dict[str, int]:
        """Number of images in each domain's list."""
        parts = {"source": self.source, "target": self.target}
        return {domain: len(data.samples) for domain, data in parts.items() if data is not None}

    def files(self, source: Tensor | None, target: Tensor) -> list[str]:
        """The images of a batch with these indices, as the lists name them, each once."""
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


class Mixture:
    """The source images of a run in order, from several lists in exact shares.

    Indices run through all lists, one after the other. The lists take `turns`; each goes through its own images in
    shuffled passes.

    Args:
        lengths: of the lists.
        shares: of the lists, whole numbers.
        passes: how many images a pass takes from each list.
        seed: of the orders.
    """

    def __init__(self, lengths: Sequence[int], shares: Sequence[int], passes: Sequence[int], seed: int) -> None:
        self.lists = [range(end - length, end) for length, end in zip(lengths, accumulate(lengths), strict=True)]
        self.passes, self.seed, self.turns = passes, seed, turns(shares)
        self.before = [self.turns[:k].count(number) for k, number in enumerate(self.turns)]

    def __call__(self, n: int) -> tuple[range, int, int]:
        """The n-th image, a function of `n` and the seed only: indices of its list, the list's pass, its index."""
        period, k = divmod(n, len(self.turns))
        number = self.turns[k]
        indices, count = self.lists[number], period * self.turns.count(number) + self.before[k]
        done, place = divmod(count, self.passes[number])
        return indices, done, indices[order(self.seed, done, len(indices), number)[place]]


def turns(shares: Sequence[int]) -> list[int]:
    """The cyclic order in which the source lists take turns, by number.

    Each list has exactly its share, and in every prefix of the run its share rounded up or down: the quota method
    of Balinski and Young.
    """
    shares = [share // gcd(*shares) for share in shares]
    taken, found = [0] * len(shares), []
    for k in range(1, sum(shares) + 1):
        due = [i for i, share in enumerate(shares) if taken[i] * sum(shares) < k * share]
        found.append(max(due, key=lambda i: Fraction(shares[i], taken[i] + 1)))
        taken[found[-1]] += 1
    return found


@lru_cache(maxsize=16)
def order(seed: int, epoch: int, length: int, number: int = 0) -> np.ndarray:
    """The order of an epoch, or of a pass through source list `number`: int64 [length]."""
    return np.random.default_rng((seed, ORDER, epoch, *[number] * (number > 0))).permutation(length)


def usable(data: Dataset, key: tuple[int, ...], indices: range, tries: int) -> tuple[Any, list[DataError]]:
    """An item, or the next one that can be used, and the errors of those before it.

    It only depends on the key and the files, not on processes or interruptions.

    Args:
        data: takes keys (epoch, index, ...).
        key: of the item.
        indices: those that may be taken instead, cyclically.
        tries: how many in a row may fail; 0 = none.

    Raises:
        DataError: of the last one tried.
    """
    epoch, index, *rest = key
    errors: list[DataError] = []
    while True:
        try:
            return data[(epoch, indices[(index - indices.start + len(errors)) % len(indices)], *rest)], errors
        except DataError as error:
            if len(errors) >= tries:
                raise
            errors.append(error)


class Usable(Dataset):
    """`usable` items of a data set, for measuring: skipped ones are not counted."""

    def __init__(self, data: Dataset, indices: range, tries: int) -> None:
        """Arguments as for `usable`."""
        self.data, self.indices, self.tries = data, indices, tries

    def __getitem__(self, key: tuple[int, ...]) -> Any:
        return usable(self.data, key, self.indices, self.tries)[0]
