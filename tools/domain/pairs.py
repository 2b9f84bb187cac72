"""Match labels to images by their names, as patterns for a domain's YAML file."""

from collections.abc import Iterator, Sequence
from os.path import commonprefix
from pathlib import PurePosixPath
from typing import NamedTuple

from core.cli import UserError

PROBED = 20  # images that a rule must work for before it is tried on all


class Rule(NamedTuple):
    """How an image's name becomes its label's: beginning and ending are replaced; folders are kept or dropped."""

    image: tuple[str, str] = ("", "")  # beginning and ending of the name, without file extension
    label: tuple[str, str] = ("", "")
    flat: bool = False  # the labels are not in subfolders

    def apply(self, path: PurePosixPath) -> str | None:
        """The label's path for an image's, without file extension; None if the name does not fit."""
        name, (before, after) = path.stem, self.image
        if len(name) <= len(before) + len(after) or not (name.startswith(before) and name.endswith(after)):
            return None
        inner = self.label[0] + name[len(before) : len(name) - len(after)] + self.label[1]
        return inner if self.flat else (path.parent / inner).as_posix()

    def patterns(self, images: str, labels: str, ids: str) -> tuple[str, str, str]:
        """Patterns of the images, the labels and the converted labels below these folders ("" or ending in /)."""
        folders = "" if self.flat else "{folders/}"
        label = f"{folders}{self.label[0]}{{name}}{self.label[1]}.png"
        image = f"{images}{{folders/}}{self.image[0]}{{name}}{self.image[1]}.{{ending}}"
        return image, f"{labels}{label}", f"{ids}{label}"


def find_rule(images: Sequence[str], labels: Sequence[str], where: str) -> Rule:
    """The rule that gives every image a label.

    Args:
        images: paths, relative to their folder.
        labels: paths, relative to theirs.
        where: the folder of the labels, for messages.

    Raises:
        UserError: no rule is found, or several are.
    """
    paths = [PurePosixPath(image) for image in images]
    stems = {PurePosixPath(label).with_suffix("").as_posix() for label in labels}
    probes = paths[:: max(1, len(paths) // PROBED)]
    flat = all("/" not in label for label in labels)
    fits = [rule for rule in dict.fromkeys(_candidates(paths[0], stems, flat))
            if all(rule.apply(path) in stems for path in probes)]
    if not fits:
        raise UserError(f"no label in {where} belongs to the image {paths[0]}: expected the same name apart from "
                        "its beginning or ending, in folders of the same names")
    kinds = list(dict.fromkeys(rule.label for rule in fits))
    if fits[0] != Rule(flat=flat) and len(kinds) > 1:
        endings = " and ".join(f"*{ending}.png" for _, ending in kinds[:3])
        raise UserError(f"{where} has several labels per image, {endings}: choose one with --label-ending")
    without = [path for path in paths if fits[0].apply(path) not in stems]
    if without:
        raise UserError(f"{len(without)} of {len(paths)} images have no label in {where}, first {without[0]}; "
                        "remove them or add their labels")
    return fits[0]


def _candidates(image: PurePosixPath, stems: set[str], flat: bool) -> Iterator[Rule]:
    """Rules that give one image one of the labels, simplest first."""
    yield Rule(flat=flat)
    folder = "" if flat or image.parent == PurePosixPath() else f"{image.parent}/"
    for stem in sorted(stems):
        name = stem[len(folder) :]
        if not stem.startswith(folder) or "/" in name:
            continue
        same = len(commonprefix([image.stem, name]))
        if same:
            yield Rule(("", image.stem[same:]), ("", name[same:]), flat)
        same = len(commonprefix([image.stem[::-1], name[::-1]]))
        if same:
            yield Rule((image.stem[: len(image.stem) - same], ""), (name[: len(name) - same], ""), flat)
