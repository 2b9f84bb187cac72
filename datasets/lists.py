"""List files, one sample per line: `image` or `image label`, relative to the data root; names of masks."""

import gc
import os
import posixpath
import unicodedata
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

from core.cli import UserError
from core.files import write_bytes

MAX_LINE_BYTES = 10_000
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Sample(NamedTuple):
    """A line of a list: paths relative to the root, without a leading slash."""

    image: str
    label: str | None


def find(name: str, root: str) -> Path:
    """The list file that `name` means: ROOT/NAME.txt, else data/NAME.txt, else NAME as a path.

    Raises:
        UserError: none of them exists.
    """
    candidates = [os.path.join(root, f"{name}.txt"), os.path.join("data", f"{name}.txt"), name]
    for candidate in candidates:
        if os.path.isfile(candidate):
            return Path(candidate)
    raise UserError(f"no list {name!r}: looked for {', '.join(candidates)}; tools/make_lists.py makes lists")


def read(name: str, root: str, labels: bool = False) -> list[Sample]:
    """Samples of a list, in order; the files that it names need not exist.

    Columns are separated by blanks, leading slashes are dropped, empty lines and lines that start with # are
    skipped; a byte-order mark and Windows line endings do no harm.

    Args:
        name: of the list, or its path (see `find`).
        root: folder that the list's paths are relative to.
        labels: every sample must have a label.

    Raises:
        UserError: the list does not exist, is empty or is not UTF-8, or has more than two columns, a path that
            leaves the root or a missing label; names file and line.
    """
    path = find(name, root)
    # Samples contain no cycles; for a million of them, garbage collection would take as long as all the rest.
    collecting = gc.isenabled()
    gc.disable()
    try:
        with open(path, "rb") as file:
            samples = _samples(file, path, labels)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    finally:
        if collecting:
            gc.enable()
    if not samples:
        raise UserError(f"{path} lists nothing")
    return samples


def _samples(file: IO[bytes], path: Path, labels: bool) -> list[Sample]:
    """Samples of an open list file; UserError naming the line."""
    samples = []
    for number, line in enumerate(iter(partial(file.readline, MAX_LINE_BYTES), b""), 1):
        if number == 1:
            line = line.removeprefix(BYTE_ORDER_MARK)
        # Split as bytes: only ASCII blanks separate, a no-break space is part of a name.
        columns = line.split()
        if not columns or columns[0].startswith(b"#"):
            continue
        try:
            samples.append(_sample(columns, line))
        except ValueError as error:
            raise UserError(f"{path}:{number}: {error}") from None
        if labels and len(columns) == 1:
            raise UserError(f"{path}:{number}: no label; here every line must be `image label`")
    return samples


def _sample(columns: list[bytes], line: bytes) -> Sample:
    """The sample of a split line; ValueError if it is not one."""
    if not 1 <= len(columns) <= 2 or len(line) >= MAX_LINE_BYTES:
        raise ValueError("expected `image` or `image label`, separated by blanks (paths without blanks)")
    if b"\0" in line:
        raise ValueError("a zero byte; is this a list?")
    if b".." in line and any(b".." in column.split(b"/") for column in columns):
        raise ValueError("a path with '..' leaves the data root, which paths in lists are relative to")
    try:
        image, label = columns[0].decode().lstrip("/"), columns[-1].decode().lstrip("/")
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text; is this a list?") from None
    if not (image and label):
        raise ValueError("a path that is nothing but a slash")
    return Sample(image, label if len(columns) == 2 else None)


def write(path: str | Path, samples: Iterable[Sample]) -> None:
    """Write a list that `read` reads back exactly.

    Raises:
        UserError: a path that a list cannot hold (blanks, '..'), or writing fails.
    """
    write_bytes(path, text(samples).encode())


def text(samples: Iterable[Sample]) -> str:
    """Content of a list file; UserError for a path that a list cannot hold."""
    lines = []
    for sample in samples:
        line = sample.image if sample.label is None else f"{sample.image} {sample.label}"
        columns = line.encode().split()
        try:
            if line.startswith("#") or _sample(columns, line.encode()) != sample:
                raise ValueError("a list cannot hold such names (blanks, a slash or # at the start)")
        except ValueError as error:
            raise UserError(f"{line!r}: {error}") from None
        lines.append(line + "\n")
    return "".join(lines)


def exists(name: str, root: str) -> bool:
    """Whether there is a list of that name (see `find`)."""
    try:
        find(name, root)
    except UserError:
        return False
    return True


def mask_name(image: str, renamed: bool = True, folders: int = 0) -> str:
    """File name of an image's mask: base name, `_leftImg8bit` -> `_gtFine_labelIds` if `renamed`, .png.

    It is prefixed with the names of the image's innermost `folders` folders.
    """
    *above, stem = posixpath.normpath(image).split("/")
    if "." in stem:
        stem = stem.rpartition(".")[0]
    stem = "_".join([*above[max(0, len(above) - folders) :], stem])
    return (stem.replace("_leftImg8bit", "_gtFine_labelIds") if renamed else stem) + ".png"


def mask_names(samples: Iterable[Sample], renamed: bool = True, with_folders: bool = True) -> list[str]:
    """`mask_name` of every sample, in order, with as many folders as it takes to make all names different.

    Raises:
        UserError: two images would still have the same mask, or the same on some file system (see `clash`); it
            names them.
    """
    images = [sample.image for sample in samples]
    plain = names = [mask_name(image, renamed) for image in images]
    pair = first = clash(plain)
    deepest = max((image.count("/") for image in images), default=0) if with_folders else 0
    for folders in range(1, deepest + 1):
        if pair is None:
            break
        names = [mask_name(image, renamed, folders) for image in images]
        pair = clash(names)
    if pair is not None:
        (one, other), (mask, twin) = ([column[i] for i in first] for column in (images, plain))
        both = f"the mask {mask}" if mask == twin else f"masks, {mask} and {twin}, which some file systems take for one"
        advice = "" if with_folders else ", or use a list (--infer-list), whose masks are named by folder, too"
        raise UserError(f"{one} and {other}: both have {both}; rename one of the images{advice}")
    return names


def clash(names: Sequence[str]) -> tuple[int, int] | None:
    """Positions of the first two names that are the same on some file system: up to case and Unicode form."""
    first: dict[str, int] = {}
    for i, name in enumerate(names):
        same = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
        if first.setdefault(same, i) != i:
            return first[same], i
    return None
