"""Run a function on many items, on all cores, with a progress bar."""

from collections.abc import Callable, Iterator, Sequence
from multiprocessing.pool import ThreadPool
from typing import TypeVar

import numpy as np

from core.cli import MOST_WORKERS, UserError, cores
from core.progress import bar

Item = TypeVar("Item")
Result = TypeVar("Result")


def parallel_map(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int = 0, desc: str = ""
) -> Iterator[Result]:
    """Yield `function(item)` in the order of the items.

    Threads, not processes: these functions (decode, count, look up, encode) run compiled code outside the GIL; threads
    start at once, share memory and pass on exceptions as they are.

    Args:
        function: called in another thread.
        items: any number.
        workers: threads; 0 = one per core.
        desc: label of the progress bar.

    Raises:
        UserError: invalid number of workers.
        whatever `function` raises; items in progress are finished, the rest are not started.
    """
    if not 0 <= workers <= MOST_WORKERS:
        raise UserError(f"--workers {workers}: expected a whole number from 0 to {MOST_WORKERS}")
    # glibc returns freed memory to the system, so that each new image waits for zeroed pages, unless a large block was
    # freed before.
    np.empty(31 * 2**20, np.uint8)
    pool = ThreadPool(max(1, min(workers or cores(), len(items))))
    try:
        yield from bar(pool.imap(function, items), desc=desc, total=len(items), unit="file")
    finally:
        pool.terminate()
        pool.join()
