"""Progress of long work: a bar on a terminal, elsewhere a plain line every few seconds."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

SECONDS = 10.0  # between plain lines
LINE = "{desc}: {n_fmt} of {total_fmt}, {rate_fmt}, {remaining} left"


class _Screen:
    """stderr without write errors: a run must not end because its terminal or `tee` has."""

    def write(self, text: str) -> None:
        try:
            sys.stderr.write(text)
        except OSError:
            pass

    def flush(self) -> None:
        try:
            sys.stderr.flush()
        except OSError:
            pass

    def isatty(self) -> bool:
        try:
            return sys.stderr.isatty()
        except (AttributeError, ValueError):  # there is none, or it is closed
            return False

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


class _Plain(_Screen):
    """Prints a bar's lines without control characters."""

    def write(self, text: str) -> None:
        if line := text.strip():
            super().write(line + "\n")


SCREEN = _Screen()


def bar(items: Iterable | None = None, shown: bool = True, **options: Any) -> tqdm:
    """A bar with tqdm's options on a terminal; elsewhere a line every SECONDS, if the work takes that long."""
    if SCREEN.isatty():
        return tqdm(items, disable=not shown, file=SCREEN, dynamic_ncols=True, **options)
    pace = {"mininterval": SECONDS, "miniters": 1, "delay": SECONDS, "leave": False}
    return tqdm(items, disable=not shown, file=_Plain(), bar_format=LINE, **{**options, **pace})
