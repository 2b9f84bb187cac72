"""torchrun whose exit status is that of its processes: `python -m core.torchrun [torchrun's options] SCRIPT ...`.

By itself torchrun makes 1 and a page of traceback of whatever its processes end with, and when it gets a signal it
gives them 30 seconds. Here the first failure's own status is handed on, what several processes have to say alike is
said once, and a signal asks the processes to end in their own way and time.
"""

import logging
import os
import signal
import sys
import tempfile
from pathlib import Path

from core.cli import Lost


def main() -> int:
    """Run torchrun with the command line's arguments; returns the exit status."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    logging.disable(logging.CRITICAL)  # torchrun's own messages
    # Imported late: a signal may come while torch is.
    from torch.distributed.elastic.multiprocessing import api
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    api._terminate_process_handler = pass_on  # what torchrun does on a signal; there is no option for it
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SAC_ERRORS"] = folder
        try:
            torchrun()
        except ChildFailedError as error:
            failures = sorted(error.failures.items(), key=lambda entry: entry[1].timestamp)
            return report({rank: failure.exitcode for rank, failure in failures}, Path(folder))
        except RuntimeError as error:  # torchrun's own processes find each other, or lose each other
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            print(f"error: the first machine ({os.environ.get('MASTER_ADDR') or '--master_addr'}) does not answer: "
                  f"{reason[:200]}; is it up, and are address and port right?", file=sys.stderr)
            return Lost.status
    return 0


def report(statuses: dict[int, int], folder: Path) -> int:
    """The status of the first process that failed by itself; why is said once.

    Args:
        statuses: of the processes that failed, by rank, the first to fail first.
        folder: what the processes have said; those that only lost another one, in files *.lost.
    """
    # A process that only lost another one is not the cause, if there is another one on this machine.
    causes = {rank: status for rank, status in statuses.items() if status != Lost.status} or statuses
    rank, status = next(iter(causes.items()))
    said = {path.read_text(encoding="utf-8") for path in folder.iterdir() if path.suffix != ".lost"}
    if not said and status < 0:
        said = {f"error: process {rank} was killed by {signal.Signals(-status).name}; the others were stopped"}
    said = said or {path.read_text(encoding="utf-8") for path in folder.iterdir()}
    for line in sorted(said) or [f"error: process {rank} has failed with status {status}; the others were stopped"]:
        print(line, file=sys.stderr)
    return status if status > 0 else 128 - status


def pass_on(number: int, frame: object) -> None:
    """A signal to the launcher: SIGTERM to the processes; without any yet, end."""
    pids = children(os.getpid())
    if not pids:
        sys.exit(128 + number)
    for pid in pids:
        os.kill(pid, signal.SIGTERM)


def children(parent: int) -> list[int]:
    """Process numbers of a process's children."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # "pid (name) state parent ...", and a name may hold anything
            if int(path.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(path.parent.name))
        except (OSError, ValueError, IndexError):
            continue  # it has ended meanwhile
    return found


if __name__ == "__main__":
    sys.exit(main())
