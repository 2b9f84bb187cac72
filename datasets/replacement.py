"""What takes the place of a training image that cannot be used (DATASET.ON_ERROR skip): the next item."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch.utils.data import Dataset

from core.cli import UserError
from datasets.images import DataError

TRIES = 20  # of items in a row: where none of them can be used, the disk is gone rather than an image
SHARE = 0.01  # of a list's images


class Skipped(NamedTuple):
    """A file that could not be used."""

    domain: str  # source or target
    file: str
    reason: str


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


class Tally:
    """The files that a run has skipped so far.

    Args:
        images: how many each domain's list has, by domain.
    """

    def __init__(self, images: Mapping[str, int]) -> None:
        self.images = images
        self.files: dict[str, list[str]] = {domain: [] for domain in images}  # each once; a snapshot holds them

    def refuse_many(self, found: list[Skipped]) -> None:
        """UserError if, with those just found, more than 1 % of a list's images cannot be used; one always may."""
        for domain, images in self.images.items():
            new = [entry for entry in found if entry.domain == domain]
            count = len({*self.files[domain], *(entry.file for entry in new)})
            if new and count > max(1, SHARE * images):
                raise UserError(
                    f"{count} of the {domain} list's {images} images cannot be used, more than 1 %: DATASET.ON_ERROR "
                    f"skip ends here; tools/check_data.py finds them all; the last: {new[-1].file}: {new[-1].reason}"
                )

    def add(self, found: list[Skipped]) -> list[Skipped]:
        """Count them; those that are new."""
        new = []
        for entry in found:
            if entry.file not in self.files[entry.domain]:
                self.files[entry.domain].append(entry.file)
                new.append(entry)
        return new
