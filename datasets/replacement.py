"""The files that a run has skipped so far (DATASET.ON_ERROR skip)."""

from collections.abc import Callable, Mapping

from core.cli import UserError
from datasets.iterations import Skipped

SHARE = 0.01  # of a list's images, at most


class Tally:
    """The files that a run has skipped so far.

    Args:
        images: how many each domain's list has, by domain.
    """

    def __init__(self, images: Mapping[str, int]) -> None:
        self.images = images
        self.files: dict[str, list[str]] = {domain: [] for domain in images}  # each once; a snapshot holds them

    def refuse_many(self, found: list[Skipped], save: Callable[[], None] = int) -> None:
        """UserError, after a `save`, if with those just found more than 1 % of a list's images cannot be used.

        One always may.
        """
        for domain, images in self.images.items():
            new = [entry for entry in found if entry.domain == domain]
            count = len({*self.files[domain], *(entry.file for entry in new)})
            if new and count > max(1, SHARE * images):
                save()
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
