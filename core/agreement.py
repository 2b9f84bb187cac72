"""All processes of a run stop at the same point where one of them has to, for a signal or an error."""

import os
import signal
import threading
import time
from collections.abc import Callable

from core import distributed

SIGNALS, AT_ONCE = (signal.SIGTERM, signal.SIGINT), 2.0  # that ask to stop; seconds
READ, SKIPPED, STOP = 1, 2, 3  # what a process may want before an iteration; the largest counts


class Stopped(Exception):
    """The run was asked to stop, and everything up to here is written."""


class Agreement:
    """Lets all processes stop at the same point where one of them has to, for a signal or an error."""

    def __init__(self) -> None:
        self.stopping = False

    def heed_signals(self) -> None:
        """From now on SIGTERM and SIGINT ask to stop at the next agreement; another one ends this process at once.

        What follows within AT_ONCE counts as the same: one Ctrl-C reaches a process in several ways.
        """
        for number in SIGNALS:
            signal.signal(number, lambda *_: setattr(self, "stopping", True))
        # Python calls its handlers between two of its own instructions alone: not where it waits for a device or for
        # another process, possibly forever. The bytes of this pipe come at any time.
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        threading.Thread(target=_end_at_second, args=(reading,), daemon=True).start()

    def __call__(self, error: Exception | None = None, wanted: int = 0, save: Callable[[], None] | None = None) -> int:
        """The most that any process wants.

        Args:
            error: what this process has run into.
            wanted: READ, SKIPPED or 0.
            save: called before all processes stop.

        Raises:
            Stopped: on all processes, after a signal to one; or the error, on the others a Fault that tells of it.
        """
        # One exchange of a number for all of it.
        most = distributed.largest(STOP if self.stopping or error is not None else wanted)
        if most < STOP:
            return most
        if save is not None:
            save()
        distributed.agree(error)
        raise Stopped("stopped by a signal")


def _end_at_second(reading: int) -> None:
    """Read the numbers of signals from a pipe; end when one comes later than the first."""
    first = None
    while number := os.read(reading, 1):
        if number[0] in SIGNALS:
            now = time.monotonic()
            first = first or now
            if now - first > AT_ONCE:
                os._exit(128 + number[0])
