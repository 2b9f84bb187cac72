"""What all commands share: their arguments, and how they end.

A user's mistake is one line on stderr and exit status 2; Ctrl-C and SIGTERM are one line and status 130 and 143; our
own mistakes keep their traceback. A command imports this module before anything that is not Python's own, so that all
of this already holds during its imports, which take seconds and fail where the requirements are not installed.
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]
if sys.version_info < (3, 10):  # noqa: UP036, an older one gets as far as here
    print(f"error: Python 3.10 or newer is needed, {sys.executable} is {sys.version.split()[0]}", file=sys.stderr)
    sys.exit(2)
STANDARD = sys.stdlib_module_names
OURS = ("core", "datasets", "models", "tools", "train", "infer_val")
# What the system refuses, whatever we ask of it: a full or broken disk, no permission, a name that is too long.
REFUSALS = {getattr(errno, name, None) for name in
            "ENOSPC EDQUOT EFBIG EROFS EIO ESTALE EACCES EPERM ENAMETOOLONG EMFILE ENFILE ENOMEM".split()}  # fmt: skip
MOST_WORKERS = 1024
LONGEST_NAME = 200  # bytes; file systems take 255, and something may be appended
# Of add_argument: configuration keys, as `pairs`. A second --set adds to the first.
KEY_VALUE: dict[str, Any] = {"nargs": "*", "action": "extend", "default": [], "metavar": "KEY VALUE", "dest": "pairs",
                             "help": "configuration keys"}


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


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, by its signal number. What had to be written is written, or the next start makes it again."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are UserErrors; its description and epilog keep their line breaks."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, allow_abbrev=False, **kwargs)
        # By itself argparse takes -1e-4 and -1,2 for options.
        self._negative_number_matcher = re.compile(r"-(\.?\d|inf|nan)", re.IGNORECASE)

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        # An empty path would mean the working directory. Where "" is the default, it means none.
        if not arg_string.strip() and action.default != "" and action.dest != "pairs":
            raise argparse.ArgumentError(action, "expected a value, got an empty one")
        return super()._get_value(action, arg_string)

    def error(self, message: str) -> NoReturn:
        """Raise the parser's complaint as a UserError."""
        raise UserError(f"{message} (see {self.prog} --help)")


def whole(low: int, high: int) -> Callable[[str], int]:
    """The type of an argument: a whole number from `low` to `high`."""

    def parse(text: str) -> int:
        with suppress(ValueError):
            if low <= (value := int(text)) <= high:
                return value
        raise argparse.ArgumentTypeError(f"expected a whole number from {low} to {high}, got {text[:40]!r}")

    return parse


SEED = whole(0, 2**32 - 1)
WORKERS = whole(0, MOST_WORKERS)


def cores() -> int:
    """Number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def folder_name(text: str) -> str:
    """The type of an argument: the name of a folder, which must not lead anywhere else."""
    if text in (".", "..") or re.search(r"[/\\]", text) or not text.isprintable() or not text.strip():
        raise argparse.ArgumentTypeError(f"expected the name of a folder, without slashes, got {text[:40]!r}")
    if len(text.encode()) > LONGEST_NAME:
        raise argparse.ArgumentTypeError(f"expected at most {LONGEST_NAME} bytes, got {len(text.encode())}")
    return text


def run(main: Callable[[], None]) -> None:
    """Run a command's `main`; what needs no traceback is said in one line and becomes the exit status."""
    global _working
    within, _working = _working, True  # within: benchmarks run other commands in their own process
    try:
        try:
            main()
        finally:
            if sys.stdout:
                sys.stdout.flush()
    except BaseException as error:
        end = explain(error)
        if end is None or (within and isinstance(error, KeyboardInterrupt)):
            raise
        _say(end[0], lost=isinstance(error, Lost))
        sys.exit(end[1])
    finally:
        _working = within


def explain(error: BaseException) -> tuple[str, int] | None:
    """The line and the exit status of what needs no traceback; None for our own mistakes."""
    if isinstance(error, UserError):
        return f"error: {' '.join(str(error).split())}", error.status
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 128 + (error.args[0] if isinstance(error, Interrupted) else signal.SIGINT)
    if isinstance(error, ImportError) and (error.name or OURS[0]).partition(".")[0] not in (*OURS, *STANDARD):
        lacks = isinstance(error, ModuleNotFoundError)
        what = f"has no {error.name}" if lacks else f"cannot use its {error.name} ({str(error).partition(chr(10))[0]})"
        return f"error: {sys.executable} {what}; {_how_to_install()}", 2
    if isinstance(error, OSError) and error.errno in REFUSALS:
        return f"error: {f'{error.filename}: ' if error.filename else ''}{error.strerror}", 2
    if isinstance(error, UnicodeEncodeError) and "surrogates" in error.reason:
        return f"error: the name {error.object[:200]!r} is not UTF-8; rename the file", 2
    return None


def _how_to_install() -> str:
    requirements, own = ROOT / "requirements.txt", ROOT / ".venv"
    if sys.prefix not in (sys.base_prefix, str(own)):  # a virtual environment of the user's
        return f"install the requirements: {sys.executable} -m pip install -r {requirements}"
    return (f"install the requirements: python3 -m venv {own} && {own}/bin/pip install -r {requirements}; "
            f"then use {own}/bin/python")


def _say(line: str, lost: bool = False) -> None:
    if folder := os.environ.get("SAC_ERRORS"):
        # Several processes may have the same to say: core/torchrun.py says it once.
        name = os.environ.get("RANK", "0") + ".lost" * lost
        Path(folder, name).write_text(line, encoding="utf-8", errors="backslashreplace")
    else:
        print(line, file=sys.stderr, flush=True)


# --- from here on: what a command sets up as soon as it imports this module

_working = False  # within a command's main, which must be left in order


class _Output(io.FileIO):
    """stdout or stderr whose reader may go, as `head` does: the command goes on with its work."""

    lost = False

    def write(self, data: Any) -> int | None:
        if not self.lost:
            try:
                return super().write(data)
            except OSError as error:
                self.lost = True  # said once, and not again when Python ends
                if self.fileno() == 1 and error.errno not in (errno.EPIPE, errno.EIO):
                    raise UserError(f"cannot write to stdout: {error.strerror}") from None
        return len(data)


def _open_streams() -> None:
    """Let printing never fail for what a name holds, nor because nobody reads; see _Output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed; the next file that is opened would get its number, and all that is printed
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for number, name in ((1, "stdout"), (2, "stderr")):
        old = getattr(sys, name)
        lines = number == 2 or (old is not None and (old.line_buffering or old.write_through))
        stream = io.TextIOWrapper(
            io.BufferedWriter(_Output(number, "w", closefd=False)), old.encoding if old else "utf-8",
            "backslashreplace", line_buffering=lines,
        )  # fmt: skip
        setattr(sys, name, stream)


def _interrupt(number: int, frame: object) -> None:
    """Ctrl-C or SIGTERM: leave main in order, or end at once where there is nothing to be put in order."""
    global _working
    if not _working:
        with suppress(RuntimeError):  # the signal came while stderr was being written to
            _say("interrupted")
        os._exit(128 + number)
    _working = False  # whoever presses Ctrl-C again does not want to wait
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one is often the same one, to the group and by a launcher
    raise Interrupted(number)


def _in_child() -> None:
    """Forked workers are ended by their parent, in silence."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _hook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """What is raised outside of `run`: during the imports."""
    if end := explain(error):
        _say(end[0])
        os._exit(end[1])
    sys.__excepthook__(kind, error, trace)


def _hide_warnings() -> None:
    """Libraries warn their callers' authors; what concerns users is said by ourselves, through the log."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if not sys.warnoptions:  # python -W, PYTHONWARNINGS: whoever wants to see them
        for category in (FutureWarning, DeprecationWarning, PendingDeprecationWarning, UserWarning):
            warnings.simplefilter("ignore", category)
        warnings.filterwarnings("default", category=UserWarning, module=r"torch\.cuda")  # why a GPU cannot be used


def _set_up() -> None:
    if os.name == "posix":
        _open_streams()
        os.register_at_fork(after_in_child=_in_child)
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup, or a launcher that passes them on, wants it
            signal.signal(number, _interrupt)
    sys.excepthook = _hook
    _hide_warnings()


def _is_command() -> bool:
    main = getattr(sys.modules["__main__"], "__file__", None)
    return main is not None and Path(main).resolve().parent in (ROOT, ROOT / "core", ROOT / "tools")


if _is_command():
    _set_up()
