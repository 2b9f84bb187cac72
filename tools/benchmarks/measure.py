"""Time a part against its floor: alternating, over several rounds, as medians."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any, NamedTuple

import cv2
import torch


class Row(NamedTuple):
    """A measurement."""

    name: str  # the part's, with a suffix if it has several rows
    what: str  # what one item is, and what the floor is
    seconds: float
    floor_seconds: float
    goal: float | None = None  # largest acceptable ratio
    more: dict[str, Any] = {}  # other figures

    @property
    def ratio(self) -> float:
        """Time divided by floor."""
        return self.seconds / self.floor_seconds

    def entry(self) -> dict[str, Any]:
        """The row's entry in --json."""
        figures = {"seconds": self.seconds, "floor_seconds": self.floor_seconds, "ratio": self.ratio}
        return figures | {"goal": self.goal, "what": self.what} | self.more


def seconds(function: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def in_turns(*functions: Callable[[], object], runs: int) -> list[float]:
    """Median seconds of each function over `runs` rounds that call each function once, after a warm-up round.

    Alternating lets other load on the machine slow all of them alike.
    """
    for function in functions:
        function()
    rounds = [[seconds(function) for function in functions] for _ in range(runs)]
    return [median(times) for times in zip(*rounds, strict=True)]


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch and OpenCV on one core, as in a loader worker."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


HEADING = f"{'part':22} {'time':>10} {'floor':>10} {'ratio':>6} {'at most':>7}  what"


def line(row: Row) -> str:
    """A row as text, below HEADING."""
    goal = "" if row.goal is None else f"{row.goal:.2f}"
    taken, floor = (f"{1000 * t:.2f} ms" if t < 10 else f"{t:.2f} s" for t in (row.seconds, row.floor_seconds))
    more = "".join(f"; {name} {value}" for name, value in row.more.items())
    return f"{row.name:22} {taken:>10} {floor:>10} {row.ratio:6.2f} {goal:>7}  {row.what}{more}"
