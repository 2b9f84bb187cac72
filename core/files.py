"""Reads files safely and writes them atomically; I/O errors become one-line UserErrors."""

import hashlib
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from core.cli import UserError

MAX_YAML_BYTES = 100_000  # configurations and label sets have a few thousand
# Folders that macOS, Windows and network storage put among a user's own; hidden ones are recognised by their dot.
LEFT_BEHIND = {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"}
CHUNK = 1 << 20
TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.part")
NULLS = ("", "~", "null", "Null", "NULL")


def atomic_write(
    path: str | Path, writer: Callable[[IO[bytes]], object], durable: bool = True, replace: bool = True
) -> None:
    """Write a file under a temporary name in the same folder and rename it, so that nobody ever sees half a file.

    Creates the folder if necessary. Temporary names are random, so any number of writers may target the same file;
    `sweep` removes what killed writers leave behind.

    Args:
        path: the file; an older one is replaced at the end, or left as it is.
        writer: is given the open binary file.
        durable: also survive a power failure (fsync). For thousands of small files that can be recreated, this
            costs more than the writing.
        replace: False = if the file exists by then, keep it and raise.

    Raises:
        UserError: the disk is full or read-only, permission is denied, or the path is not a regular file.
    """
    path = Path(path)
    try:
        if (there := kind_of(path)) not in ("", "a file"):
            raise UserError(f"cannot write {path}: it is {there}; nothing was changed there")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{secrets.token_hex(8)}.part")
        try:
            with open(temporary, "xb") as file:  # must be new; follows no link
                writer(file)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            _give_name(temporary, path, replace)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if durable:
            _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        # torch.save turns an OSError into a RuntimeError of its zip writer.
        refusal = error if isinstance(error, OSError) else error.__context__
        if not isinstance(refusal, OSError):
            raise
        reason = refusal.strerror or refusal
        raise UserError(f"cannot write {path}: {reason}; nothing was changed there") from None


def _give_name(temporary: Path, path: Path, replace: bool) -> None:
    if replace:
        os.replace(temporary, path)
        return
    try:
        try:
            os.link(temporary, path)  # unlike renaming, it never replaces a file
        except FileExistsError:
            raise
        except OSError:  # a file system without links
            open(path, "xb").close()
            os.replace(temporary, path)
    except FileExistsError:
        raise UserError(f"{path} has just been written by another process; it was left alone") from None
    temporary.unlink(missing_ok=True)


def write_bytes(path: str | Path, content: bytes, durable: bool = True, replace: bool = True) -> None:
    """`atomic_write` of bytes."""
    atomic_write(path, lambda file: file.write(content), durable, replace)


def _sync_folder(folder: Path) -> None:
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return  # Windows cannot open folders; the file itself is on the disk
    try:
        os.fsync(handle)
    except OSError:
        pass  # some network file systems refuse to sync a folder
    finally:
        os.close(handle)


def remove(path: str | Path) -> None:
    """Remove a file, if it exists; UserError if it cannot be removed."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UserError(f"cannot remove {path}: {error.strerror}") from None


def kind_of(path: str | Path) -> str:
    """What a path is: "a file", "a folder", "a symbolic link", "not a regular file", or "" for nothing.

    Raises:
        OSError: a parent folder is not accessible.
    """
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return ""
    kinds = {stat.S_IFREG: "a file", stat.S_IFDIR: "a folder", stat.S_IFLNK: "a symbolic link"}
    return kinds.get(stat.S_IFMT(mode), "not a regular file")


def sweep(folder: str | Path, idle: float = 3600) -> None:
    """Remove the temporary files of killed writers from a folder.

    Args:
        folder: where `atomic_write` wrote.
        idle: seconds without writing after which a writer counts as killed; 0 = there are no other writers.
    """
    try:
        for entry in os.scandir(folder):
            if TEMPORARY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                if time.time() - entry.stat(follow_symlinks=False).st_mtime >= idle:
                    os.unlink(entry.path)
    except OSError:
        pass  # they only take up space


def read_bytes(path: str | Path, most: int | None = None) -> bytes:
    """Content of a file, or of a pipe.

    Args:
        path: the file.
        most: maximum length in bytes.

    Raises:
        UserError: it is missing, not readable, empty, or too long.
    """
    content = _content(path, most)
    if not content:
        raise UserError(f"{path} is empty (0 bytes)")
    return content


def _content(path: str | Path, most: int | None) -> bytes:
    # Read it without asking for its size: pipes and the system's own files (/proc) have none.
    try:
        with open(path, "rb") as file:
            content = file.read(-1 if most is None else most + 1)
            if not content and stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
                raise UserError(f"{path} is a pipe with nothing in it; has it been read already?")
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    if most is not None and len(content) > most:
        raise UserError(f"{path} is longer than the {most} bytes allowed; is it the right file?")
    return content


def sha256(path: str | Path) -> str:
    """SHA-256 of a file in hexadecimal; UserError if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    return digest.hexdigest()


def find_files(folder: str | Path, endings: Iterable[str] = ("",)) -> list[Path]:
    """Files below a folder that have one of these endings, in any case, sorted by path.

    Linked folders are entered, unless they contain the link. Hidden files and folders are skipped, and so is what other
    systems leave behind (._a.png, .DS_Store, @eaDir, __MACOSX).

    Raises:
        UserError: a folder cannot be read, or a link is broken.
    """
    lowered = tuple(ending.lower() for ending in endings)
    return sorted(Path(path) for path in _below(folder, ()) if path.lower().endswith(lowered))


def _below(folder: str | Path, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """Paths of the files below a folder; `above`: device and inode of its parent folders."""
    try:
        state, entries = os.stat(folder), list(os.scandir(folder))
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror}") from None
    here = (state.st_dev, state.st_ino)
    if here in above:
        return  # a link leads back
    for entry in entries:
        if entry.name.startswith(".") or entry.name.lower() in LEFT_BEHIND:
            continue
        if entry.is_symlink() and not os.path.exists(entry.path):
            target = os.readlink(entry.path)
            raise UserError(f"{entry.path} is a link to {target}, which does not exist; fix the link, or remove it")
        if entry.is_dir():
            yield from _below(entry.path, (*above, here))
        elif entry.is_file():
            yield entry.path


class _Loader(yaml.BaseLoader):
    """Dictionaries and lists of strings, exactly as written; None for nothing or null.

    YAML itself would read 1:30 as 90 and on as True. No aliases (they can expand to any size), tags or duplicate keys.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise ComposerError(None, None, "aliases (*name) are not allowed", event.start_mark)
        if getattr(event, "tag", None) is not None:
            raise ComposerError(None, None, f"tags ({event.tag}) are not allowed", event.start_mark)
        return super().compose_node(parent, index)

    def construct_scalar(self, node: yaml.ScalarNode) -> str | None:
        return None if node.style is None and node.value in NULLS else node.value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConstructorError(None, None, "a key must be a word", key_node.start_mark)
            if key_node.value in mapping:
                raise ConstructorError(None, None, f"{key_node.value!r} is given twice", key_node.start_mark)
            mapping[key_node.value] = self.construct_object(value_node, deep=deep)
        return mapping


def parse_yaml(content: str | bytes, name: str | Path) -> Any:
    """Parse YAML into dictionaries and lists of strings, exactly as written; None for nothing or null.

    Args:
        content: the YAML.
        name: of its file, for messages.

    Raises:
        UserError: invalid YAML, a duplicate key, an alias or a tag; it names file and line.
    """
    try:
        return yaml.load(content, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
        raise UserError(f"{name}:{mark.line + 1 if mark else 1}: {problem}") from None
    except (ValueError, OverflowError) as error:  # an invalid character code
        raise UserError(f"{name}: {error}") from None
    except RecursionError:
        raise UserError(f"{name} is nested too deeply") from None


def read_yaml(path: str | Path) -> Any:
    """`parse_yaml` of a file or pipe; UserError also if it is missing or too long."""
    return parse_yaml(_content(path, MAX_YAML_BYTES), path)
