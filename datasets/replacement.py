"""The files that a run has skipped so far (DATASET.ON_ERROR skip)."""

from collections.abc import Callable, Mapping

from core.cli import UserError
from datasets.iterations import Skipped

SHARE = 0.01  # of a list's images, the maximum


class Tally:
    """The files that a run has skipped so far.

    Args:
        images: how many there are in each domain's list.
    """

    def __init__(self, images: Mapping[str, int]) -> None:
        self.images = images
        self.files: dict[str, list[str]] = {domain: [] for domain in images}  # each once; a snapshot holds them

    def refuse_many(self, found: list[Skipped], save: Callable[[], None] = int) -> None:
        """UserError, after `save`, if more than 1 % of a list's images, and more than one, cannot be used so far."""
        for domain, images in self.images.items():
            new = [entry for entry in found if entry.domain == domain]
            count = len({*self.files[domain], *(entry.file for entry in new)})
            if new and count > max(1, SHARE * images):
                save()
                raise UserError(
                    f"{count} of the {domain} list's {images} images cannot be used, more than 1 %, the limit of "
                    "DATASET.ON_ERROR skip; tools/check_data.py finds them all; the last: "
                    f"{new[-1].file}: {new[-1].reason}"
                )

    def add(self, found: list[Skipped]) -> list[Skipped]:
        """Count them; returns the new ones."""
        new = []
        for entry in found:
            if entry.file not in self.files[entry.domain]:
                self.files[entry.domain].append(entry.file)
                new.append(entry)
        return new
