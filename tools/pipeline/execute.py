"""Run a command in its own process; on a signal, let it end cleanly."""

import ctypes
import signal
import subprocess
import sys
from collections.abc import Sequence

DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG


def execute(command: Sequence[str]) -> int:
    """Run python with these arguments; returns the exit status.

    On SIGTERM or Ctrl-C, the command gets a single SIGTERM (Ctrl-C alone would reach it twice); on Linux, also if this
    process is killed. After a signal, the status is the signal's.
    """
    asked: list[int] = []
    child: subprocess.Popen | None = None

    def pass_on(number: int, frame: object) -> None:
        if not asked and child is not None:
            child.terminate()
        asked.append(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        linux = sys.platform == "linux"
        child = subprocess.Popen(
            [sys.executable, *command], start_new_session=True, preexec_fn=_end_with_parent if linux else None)
        if asked:  # before there was a child to pass it on to
            child.terminate()
        status = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked:
        return 128 + asked[0]
    return status if status >= 0 else 128 - status


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGTERM)
