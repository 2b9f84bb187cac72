"""The user's mistakes: one line on stderr, exit status 2, no traceback. Ours keep their traceback."""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn


class UserError(Exception):
    """What is wrong, where, and what to do about it, in one line.

    It is the same one line when a loader's worker raises it: torch raises it again in the main process with a formatted
    traceback for a text, whose last line is the class's name and our message; only the message is kept.
    """

    status = 2  # of the command

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f"{type(self).__qualname__}: ")[2].strip())


class Fault(UserError):
    """Not the user's mistake, but one line says more than a traceback."""

    status = 1


class Lost(Fault):
    """Another process does not answer; where that one has said why, this is not worth saying (core/torchrun.py)."""

    status = 3


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are UserErrors; its description and epilog keep their line breaks."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Raise the parser's complaint as a UserError."""
        raise UserError(f"{message} (see {self.prog} --help)")


def run(main: Callable[[], None]) -> None:
    """Run a command's `main`: a UserError becomes one line on stderr and exit status 2; Ctrl-C one line and 130."""
    try:
        main()
    except UserError as error:
        line = "error: " + " ".join(str(error).split())
        if folder := os.environ.get("SAC_ERRORS"):
            # Several processes may have the same to say: core/torchrun.py says it once.
            name = os.environ["RANK"] + (".lost" if isinstance(error, Lost) else "")
            Path(folder, name).write_text(line, encoding="utf-8")
        else:
            print(line, file=sys.stderr, flush=True)
        sys.exit(error.status)
    except KeyboardInterrupt:
        # By the user; what had to be written is written, or the next start makes it again.
        print("interrupted", file=sys.stderr, flush=True)
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; what it did not read is not missed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
