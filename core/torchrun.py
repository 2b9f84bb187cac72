"""torchrun whose exit status is that of its processes: `python -m core.torchrun [torchrun's options] SCRIPT ...`.

torchrun itself turns any failure of its processes into status 1 and a page of traceback, and on a signal gives them 30
seconds. Here, the first failure's own status is passed on, the same message from several processes is printed once, and
a signal asks the processes to exit in their own time.
"""

import logging
import os
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from core.cli import Interrupted, Lost, run

_started: list[Any] = []  # torchrun's group of processes, once it starts them
_asked = 0  # the signal that asked them to exit

def main() -> None:
    """Run torchrun with the command line's arguments.

    Raises:
        SystemExit: with the status of the process that failed first.
        Lost: the machines cannot find each other.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    logging.disable(logging.CRITICAL)  # torchrun's own messages
    # Imported late: a signal may come during the import of torch.
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing import api
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.run import main as torchrun

    # torchrun has no option for what it does on a signal, and no way to ask for its processes.
    api._terminate_process_handler = pass_on
    api.PContext.start = _noted(api.PContext.start)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SAC_ERRORS"] = folder
        try:
            torchrun()
        except ChildFailedError as error:
            failures = sorted(error.failures.items(), key=lambda entry: entry[1].timestamp)
            sys.exit(report({rank: failure.exitcode for rank, failure in failures}, Path(folder)))
        except (DistError, RendezvousError, RuntimeError) as error:  # torchrun's own processes cannot find each other
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise Lost(f"the first machine ({os.environ.get('MASTER_ADDR') or '--master_addr'}) does not respond: "
                       f"{reason[:200]}; is it up, and are address and port right?") from None
        finally:
            del os.environ["SAC_ERRORS"]


def report(statuses: dict[int, int], folder: Path) -> int:
    """Print why the processes failed, each reason once; the status of the first that failed by itself.

    Args:
        statuses: of the processes that failed, by rank, the first to fail first.
        folder: the processes' messages; *.lost are from those that only lost another one.
    """
    # A process that only lost another one is not the cause, unless all on this machine did.
    causes = {rank: status for rank, status in statuses.items() if status != Lost.status} or statuses
    rank, status = next(iter(causes.items()))
    said = {path.read_text(encoding="utf-8") for path in folder.iterdir() if path.suffix != ".lost"}
    if not said and status < 0:
        said = {f"error: process {rank} was killed by {signal.Signals(-status).name}; the others were stopped"}
    said = said or {path.read_text(encoding="utf-8") for path in folder.iterdir()}
    for line in sorted(said) or [f"error: process {rank} failed with status {status}; the others were stopped"]:
        print(line, file=sys.stderr)
    if _asked == signal.SIGINT and status == 128 + signal.SIGTERM:
        return 128 + signal.SIGINT  # they got it as SIGTERM
    return status if status > 0 else 128 - status


def pass_on(number: int, frame: object) -> None:
    """On a signal to the launcher, send SIGTERM to the processes; exit if there are none yet."""
    global _asked
    if not _started:
        raise Interrupted(number)
    _asked = number
    for pid in _started[-1].pids().values():
        with suppress(ProcessLookupError):  # it has already exited
            os.kill(pid, signal.SIGTERM)


def _noted(start: Any) -> Any:
    """PContext.start, which also records the processes for `pass_on`."""

    def noted(context: Any) -> None:
        _started.append(context)
        start(context)
        if _asked:  # during the start, so that they did not get it
            pass_on(_asked, None)

    return noted


if __name__ == "__main__":
    run(main)
