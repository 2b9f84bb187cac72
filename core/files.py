"""Files: read safely, written whole or not at all. Whatever the disk refuses is the user's one line."""

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
# Folders that macOS, Windows and network storage put among a user's own; the hidden ones are known by their dot.
LEFT_BEHIND = {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"}
CHUNK = 1 << 20
TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.part")
NULLS = ("", "~", "null", "Null", "NULL")


def atomic_write(
    path: str | Path, writer: Callable[[IO[bytes]], object], durable: bool = True, replace: bool = True
) -> None:
    """Write a file under a temporary name in the same folder and rename it: nobody ever sees half of it.

    The folder is made if need be. The temporary name is drawn and new, so that any number of writers may have the same
    file in mind; what a kill leaves behind is removed by `sweep`.

    Args:
        path: the file; an older one is replaced at the end, or stays as it is.
        writer: gets the open binary file.
        durable: also survive a power failure (fsync). For thousands of small files that can be made again it
            costs more than the writing.
        replace: False = a file that has come to be there in the meantime stays, and this one is not written.

    Raises:
        UserError: the disk refuses (full, read-only, no permission), or something else than a file has that name.
    """
    path = Path(path)
    try:
        if (there := kind_of(path)) not in ("", "a file"):
            raise UserError(f"cannot write {path}: it is {there}; nothing was changed there")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{secrets.token_hex(8)}.part")
        try:
            with open(temporary, "xb") as file:  # new, and no link is followed
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
        # torch.save turns the disk's refusal into a RuntimeError of its zip writer.
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
            os.link(temporary, path)  # unlike renaming, it leaves alone what is there
        except FileExistsError:
            raise
        except OSError:  # a file system without links
            open(path, "xb").close()
            os.replace(temporary, path)
    except FileExistsError:
        raise UserError(f"{path} has just been written by another process; it was left alone") from None
    temporary.unlink(missing_ok=True)


def write_bytes(path: str | Path, content: bytes, durable: bool = True, replace: bool = True) -> None:
    """`atomic_write` of bytes that are at hand."""
    atomic_write(path, lambda file: file.write(content), durable, replace)


def _sync_folder(folder: Path) -> None:
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return  # Windows opens no folders; the file itself is on the disk
    try:
        os.fsync(handle)
    except OSError:
        pass  # some network file systems refuse to sync a folder
    finally:
        os.close(handle)


def remove(path: str | Path) -> None:
    """Remove a file, if it is there; UserError if the disk refuses."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UserError(f"cannot remove {path}: {error.strerror}") from None


def kind_of(path: str | Path) -> str:
    """What has this name: "a file", "a folder", "a symbolic link", "no regular file", or "" for nothing.

    Raises:
        OSError: the folders on the way may not be looked into.
    """
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return ""
    kinds = {stat.S_IFREG: "a file", stat.S_IFDIR: "a folder", stat.S_IFLNK: "a symbolic link"}
    return kinds.get(stat.S_IFMT(mode), "no regular file")


def sweep(folder: str | Path, idle: float = 3600) -> None:
    """Remove the temporary files of killed writers from a folder.

    Args:
        folder: where `atomic_write` wrote.
        idle: seconds without a byte after which a writer counts as killed; 0 = there is no other writer.
    """
    try:
        for entry in os.scandir(folder):
            if TEMPORARY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                if time.time() - entry.stat(follow_symlinks=False).st_mtime >= idle:
                    os.unlink(entry.path)
    except OSError:
        pass  # they only take up room


def read_bytes(path: str | Path, most: int | None = None) -> bytes:
    """Content of a file, or of a pipe.

    Args:
        path: the file.
        most: bytes that it may have.

    Raises:
        UserError: it is not there, not readable, empty, or too long.
    """
    content = _content(path, most)
    if not content:
        raise UserError(f"{path} is empty (0 bytes)")
    return content


def _content(path: str | Path, most: int | None) -> bytes:
    # Read, not asked for its size: pipes and the system's own files (/proc) have none.
    try:
        with open(path, "rb") as file:
            content = file.read(-1 if most is None else most + 1)
            if not content and stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
                raise UserError(f"{path} is a pipe with nothing in it; has it been read already?")
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    if most is not None and len(content) > most:
        raise UserError(f"{path} is longer than the {most} bytes that are read; is it the right file?")
    return content


def sha256(path: str | Path) -> str:
    """SHA-256 sum of a file, in hexadecimal digits; UserError if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    return digest.hexdigest()


def find_files(folder: str | Path, endings: Iterable[str] = ("",)) -> list[Path]:
    """Files below a folder whose names end so, whatever their case, sorted by their paths.

    Linked folders are entered, except for one that the link itself lies in. Hidden files and folders are left out, and
    so is what other systems leave behind (._a.png, .DS_Store, @eaDir, __MACOSX).

    Raises:
        UserError: a folder cannot be read, or a link leads nowhere.
    """
    lowered = tuple(ending.lower() for ending in endings)
    return sorted(Path(path) for path in _below(folder, ()) if path.lower().endswith(lowered))


def _below(folder: str | Path, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """Paths of the files below a folder; `above`: device and inode of the folders that it lies in."""
    try:
        state, entries = os.stat(folder), list(os.scandir(folder))
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror}") from None
    here = (state.st_dev, state.st_ino)
    if here in above:
        return  # a link has led back
    for entry in entries:
        if entry.name.startswith(".") or entry.name.lower() in LEFT_BEHIND:
            continue
        if entry.is_symlink() and not os.path.exists(entry.path):
            target = os.readlink(entry.path)
            raise UserError(f"{entry.path} is a link to {target}, which is not there; mend the link, or remove it")
        if entry.is_dir():
            yield from _below(entry.path, (*above, here))
        elif entry.is_file():
            yield entry.path


class _Loader(yaml.BaseLoader):
    """Dictionaries and lists of the texts that the user wrote; None where nothing, or null, is written.

    YAML itself would make 90 of 1:30 and True of on. No aliases (they can expand to any size), no tags, no key twice.
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
    """What YAML says: dictionaries and lists of texts, as they are written; None where nothing, or null, is written.

    Args:
        content: the YAML.
        name: where it stands, for the message.

    Raises:
        UserError: naming file and line: no YAML, a key given twice, aliases, tags.
    """
    try:
        return yaml.load(content, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "no YAML"
        raise UserError(f"{name}:{mark.line + 1 if mark else 1}: {problem}") from None
    except (ValueError, OverflowError) as error:  # a character's number that is none
        raise UserError(f"{name}: {error}") from None
    except RecursionError:
        raise UserError(f"{name} is nested too deeply") from None


def read_yaml(path: str | Path) -> Any:
    """`parse_yaml` of a file or pipe; UserError also where it is not there or too long."""
    return parse_yaml(_content(path, MAX_YAML_BYTES), path)
