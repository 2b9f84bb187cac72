"""What a command may write: one rule for existing files, and a record of what made a folder's files."""

import io
import json
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from core.cli import UserError
from core.files import atomic_write, kind_of, read_bytes, remove, sweep, write_bytes

MADE_BY = "made_by.json"
MOST = 1_000_000  # maximum bytes of it


class OutputFile:
    """A file that a command is asked to write. Checked before the work, written atomically after it.

    The rule: an existing file is kept unless `force` is given; the command's own inputs, folders and links are never
    replaced. A pipe or a terminal is written to.

    Args:
        option: that names it, for messages.
        path: the file.
        force: replace an existing file.
        inputs: files that the command reads, or writes besides this one.

    Raises:
        UserError: the rule forbids it, or the folder is not writable.
    """

    def __init__(self, option: str, path: str | Path, force: bool = False, inputs: Iterable[str | Path] = ()) -> None:
        self.path, self._replace = Path(path), force
        self._name = f"{option} {path}"
        try:
            self._stream = _is_stream(self.path)
            there = kind_of(self.path)
        except OSError as error:
            raise UserError(f"cannot write {self._name}: {error.strerror}") from None
        if self._stream:
            return
        refuse_inputs(option, [self.path], inputs)
        if there == "a file" and not force:
            raise UserError(f"{self._name} already exists; --force replaces it, or choose another name")
        if there not in ("", "a file"):
            raise UserError(f"{self._name} is {there}, expected a file to write")
        above = next(folder for folder in self.path.absolute().parents if folder.exists())
        if not above.is_dir() or not os.access(above, os.W_OK):
            raise UserError(f"cannot write {self._name}: {above} is not a writable folder")

    def write(self, content: bytes) -> None:
        """Write bytes, replacing what an earlier call wrote."""
        self.save(lambda file: file.write(content))

    def save(self, writer: Callable[[IO[bytes]], object]) -> None:
        """Let a function write to the open file.

        Raises:
            UserError: writing fails, or another process has written the file since it was checked.
        """
        if self._stream:
            self._send(writer)
        else:
            atomic_write(self.path, writer, replace=self._replace)
            self._replace = True  # it is ours from now on

    def _send(self, writer: Callable[[IO[bytes]], object]) -> None:
        content = io.BytesIO()  # some writers seek
        writer(content)
        try:
            with open(self.path, "wb") as stream:
                stream.write(content.getvalue())
        except BrokenPipeError:
            raise
        except OSError as error:
            raise UserError(f"cannot write {self._name}: {error.strerror}") from None


def _is_stream(path: Path) -> bool:
    """Whether a path is a pipe or a character device, or a link to one, as /dev/stdout is."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def refuse_inputs(option: str, outputs: Iterable[str | Path], inputs: Iterable[str | Path]) -> None:
    """UserError if an output, under whatever name, is also an input or another output of the command."""
    outputs = list(outputs)
    named, there = set(map(os.path.abspath, outputs)), {*map(_identity, outputs)} - {None}
    for path in inputs if outputs else ():
        if os.path.abspath(path) in named or (there and _identity(path) in there):
            raise UserError(f"{option}: {path} would be replaced, but this command also uses it; choose another")


def _identity(path: str | Path) -> tuple[int, int] | None:
    """Device and inode of a file, the same under all its names; None if there is no file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


class OutputFolder:
    """A folder whose files have one maker, recorded in made_by.json; files older than that record do not belong to it.

    Args:
        option: that names the folder, for messages.
        path: the folder.
        maker: whatever the files depend on besides their own inputs; plain values.
    """

    def __init__(self, option: str, path: str | Path, maker: Mapping[str, Any]) -> None:
        self.option, self.path, self.record = option, Path(path), Path(path, MADE_BY)
        self.maker = json.loads(json.dumps(maker))

    def claim(self, files: Iterable[Path], force: bool = False, inputs: Iterable[str | Path] = ()) -> None:
        """Record the maker in made_by.json; any number of processes with the same maker may do so.

        Args:
            files: those to be written.
            force: remove files of another maker, or an unknown one.
            inputs: files that the command reads.

        Raises:
            UserError: the folder, or one of the files, has another maker, or an input would be replaced.
        """
        files = list(files)
        there = [path for path in files if os.path.lexists(path)]
        refuse_inputs(self.option, there, inputs)
        known = self._known()
        if known not in (None, self.maker) and not force:
            raise UserError(f"{self.option} {self.path} holds files made differently ({self._difference(known)}): "
                            "--force replaces them, or choose another folder")
        foreign = [path for path in there if known != self.maker or not self.made(path)]
        if foreign and not force:
            raise UserError(f"{self.option} {self.path} holds {len(foreign)} of these files, first {foreign[0]}, but "
                            f"no {MADE_BY} says what made them: --force replaces them, or choose another folder")
        for path in foreign:
            if kind_of(path) == "a file":
                remove(path)
        if known != self.maker:
            self._write(replace=known is not None)
        for folder in {self.path, *(path.parent for path in files)}:
            sweep(folder)

    def withdraw(self, notes: Iterable[Path] = ()) -> None:
        """Undo `claim` if only notes were written, so that the folder is free for another maker."""
        own = {self.record, *notes}
        if all(Path(folder, name) in own for folder, _, names in os.walk(self.path) for name in names):
            for path in own:
                remove(path)
            with suppress(OSError):  # it has subfolders
                self.path.rmdir()

    def made(self, path: Path) -> bool:
        """Whether a file exists and, after `claim`, is this maker's."""
        try:
            return path.is_file() and path.stat().st_mtime_ns >= self.record.stat().st_mtime_ns
        except OSError:  # it is being removed
            return False

    def _known(self) -> dict[str, Any] | str | None:
        """The maker on record; None if there is no record, "" if it cannot be read."""
        if not os.path.lexists(self.record):
            return None
        try:
            known = json.loads(read_bytes(self.record, MOST))
        except (UserError, ValueError, RecursionError):
            return ""
        return known if isinstance(known, dict) else ""

    def _write(self, replace: bool) -> None:
        content = (json.dumps(self.maker, indent=1) + "\n").encode()
        try:
            write_bytes(self.record, content, replace=replace)
        except UserError:
            if self._known() != self.maker:  # another process may have written it meanwhile
                raise

    def _difference(self, known: Any) -> str:
        if not isinstance(known, dict):
            return f"{MADE_BY} is damaged"
        names = [name for name in {**known, **self.maker} if known.get(name) != self.maker.get(name)]
        return ", ".join(f"{name} {_short(known.get(name))}, not {_short(self.maker.get(name))}" for name in names)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 16 else f"{text[:12]}..."
