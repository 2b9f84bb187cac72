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
            said = {path.read_text(encoding="utf-8") for path in Path(folder).iterdir()}
            for line in sorted(said):
                print(line, file=sys.stderr)
            return report(error, bool(said))
    return 0


def report(error: Exception, explained: bool) -> int:
    """The status of the process that failed first, said where the processes have not explained it themselves."""
    rank, failure = error.get_first_failure()
    status = failure.exitcode
    if not explained:
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"has failed with status {status}"
        print(f"error: process {rank} {how}; the others were stopped", file=sys.stderr)
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
