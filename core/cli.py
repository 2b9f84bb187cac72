"""What all commands share: argument parsing, and how they exit.

A user error prints one line to stderr and exits with status 2; Ctrl-C and SIGTERM print one line and exit with 130 and
143; bugs keep their traceback. Commands import this module before anything outside the standard library, so that this
also holds during their imports, which take seconds and fail if the requirements are not installed.
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
if sys.version_info < (3, 10):  # noqa: UP036, older versions get this far
    print(f"error: Python 3.10 or newer is needed, {sys.executable} is {sys.version.split()[0]}", file=sys.stderr)
    sys.exit(2)
STANDARD = sys.stdlib_module_names
OURS = ("core", "datasets", "models", "tools", "train", "infer_val")
# Errors of the system, not of the program: a full or broken disk, no permission, a name that is too long.
REFUSALS = {getattr(errno, name, None) for name in
            "ENOSPC EDQUOT EFBIG EROFS EIO ESTALE EACCES EPERM ENAMETOOLONG EMFILE ENFILE ENOMEM".split()}  # fmt: skip
MOST_WORKERS = 1024
LONGEST_NAME = 200  # bytes; file systems allow 255, and something may be appended
# For add_argument: configuration keys, stored as `pairs`; a second --set adds to the first.
KEY_VALUE: dict[str, Any] = {"nargs": "*", "action": "extend", "default": [], "metavar": "KEY VALUE", "dest": "pairs",
                             "help": "override configuration keys"}


class UserError(Exception):
    """What is wrong, where, and what to do about it, in one line.

    When a loader worker raises it, torch raises it again in the main process, with a formatted traceback that ends with
    the class name and our message; only the message is kept.
    """

    status = 2  # the command's exit status

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f"{type(self).__qualname__}: ")[2].strip())


class Fault(UserError):
    """Not a user error, but one line says more than a traceback."""

    status = 1


class Lost(Fault):
    """Another process does not respond; not printed if that process has said why (core/torchrun.py)."""

    status = 3


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, with the signal number; what was not written is made again at the next start."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are UserErrors; its description and epilog keep their line breaks."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, allow_abbrev=False, **kwargs)
        # argparse alone would take -1e-4 and -1,2 for options.
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
    """An argument type: a whole number from `low` to `high`."""

    def parse(text: str) -> int:
        with suppress(ValueError):
            if low <= (value := int(text)) <= high:
                return value
        raise argparse.ArgumentTypeError(f"expected a whole number from {low} to {high}, got {text[:40]!r}")

    return parse


SEED = whole(0, 2**32 - 1)
WORKERS = whole(0, MOST_WORKERS)


def cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def folder_name(text: str) -> str:
    """An argument type: the name of a folder, not a path."""
    if text in (".", "..") or re.search(r"[/\\]", text) or not text.isprintable() or not text.strip():
        raise argparse.ArgumentTypeError(f"expected the name of a folder, without slashes, got {text[:40]!r}")
    if len(text.encode()) > LONGEST_NAME:
        raise argparse.ArgumentTypeError(f"expected at most {LONGEST_NAME} bytes, got {len(text.encode())}")
    return text


def run(main: Callable[[], None]) -> None:
    """Run a command's `main`; an error that needs no traceback becomes one line and the exit status."""
    global _working
    within, _working = _working, True  # within: benchmarks run other commands in the same process
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
    """The line and the exit status for an error that needs no traceback; None for bugs."""
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
    if sys.prefix not in (sys.base_prefix, str(own)):  # the user's own virtual environment
        return f"install the requirements: {sys.executable} -m pip install -r {requirements}"
    return (f"install the requirements: python3 -m venv {own} && {own}/bin/pip install -r {requirements}; "
            f"then use {own}/bin/python")


def _say(line: str, lost: bool = False) -> None:
    if folder := os.environ.get("SAC_ERRORS"):
        # Several processes may have the same message: core/torchrun.py prints it once.
        name = os.environ.get("RANK", "0") + ".lost" * lost
        Path(folder, name).write_text(line, encoding="utf-8", errors="backslashreplace")
    else:
        print(line, file=sys.stderr, flush=True)


# --- set up as soon as a command imports this module

_working = False  # inside a command's main, which must exit cleanly


class _Output(io.FileIO):
    """stdout or stderr whose reader may exit, as `head` does: the command keeps running."""

    lost = False

    def write(self, data: Any) -> int | None:
        if not self.lost:
            try:
                return super().write(data)
            except OSError as error:
                self.lost = True  # reported once, and not again when Python exits
                if self.fileno() == 1 and error.errno not in (errno.EPIPE, errno.EIO):
                    raise UserError(f"cannot write to stdout: {error.strerror}") from None
        return len(data)


def _open_streams() -> None:
    """Make sure that printing never fails, whatever characters a name has and even if nobody reads; see _Output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed; the next file opened would get its number, and everything printed
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
    """Ctrl-C or SIGTERM: exit main cleanly, or exit at once if there is nothing to clean up."""
    global _working
    if not _working:
        with suppress(RuntimeError):  # the signal came during a write to stderr
            _say("interrupted")
        os._exit(128 + number)
    _working = False  # a second Ctrl-C exits at once
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one is often the same, sent to the group and by a launcher
    raise Interrupted(number)


def _in_child() -> None:
    """Forked workers are ended by their parent, silently."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _hook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Handle what is raised outside `run`: during imports."""
    if end := explain(error):
        _say(end[0])
        os._exit(end[1])
    sys.__excepthook__(kind, error, trace)


def _hide_warnings() -> None:
    """Library warnings are for developers; what concerns users is in our own log."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if not sys.warnoptions:  # not if python -W or PYTHONWARNINGS asks for them
        for category in (FutureWarning, DeprecationWarning, PendingDeprecationWarning, UserWarning):
            warnings.simplefilter("ignore", category)
        warnings.filterwarnings("default", category=UserWarning, module=r"torch\.cuda")  # why a GPU cannot be used


def _set_up() -> None:
    if os.name == "posix":
        _open_streams()
        os.register_at_fork(after_in_child=_in_child)
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # set by nohup, or by a launcher that passes signals on
            signal.signal(number, _interrupt)
    sys.excepthook = _hook
    _hide_warnings()


def _is_command() -> bool:
    main = getattr(sys.modules["__main__"], "__file__", None)
    return main is not None and Path(main).resolve().parent in (ROOT, ROOT / "core", ROOT / "tools")


if _is_command():
    _set_up()
