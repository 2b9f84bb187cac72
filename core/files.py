"""Files: read safely, written whole or not at all. Whatever the disk refuses is the user's one line."""

import os
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


def atomic_write(path: str | Path, writer: Callable[[IO[bytes]], object], durable: bool = True) -> None:
    """Write a file under a temporary name in the same folder and rename it: nobody ever sees half of it.

    The folder is made if need be. One writer a file: the temporary name is fixed, so that what a kill leaves
    behind is overwritten by the next attempt.

    Args:
        path: the file; an older one is replaced at the end, or stays as it is.
        writer: gets the open binary file.
        durable: also survive a power failure (fsync). For thousands of small files that can be made again it
            costs more than the writing.

    Raises:
        UserError: the disk refuses (full, read-only, no permission, a folder of that name).
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                writer(file)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            os.replace(temporary, path)
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


def write_bytes(path: str | Path, content: bytes, durable: bool = True) -> None:
    """`atomic_write` of bytes that are at hand."""
    atomic_write(path, lambda file: file.write(content), durable)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        pass  # some network file systems refuse to sync a folder; the file itself has been
    finally:
        os.close(handle)


def read_bytes(path: str | Path) -> bytes:
    """Content of a file.

    Raises:
        UserError: it is not there, not readable, or empty.
    """
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    if not content:
        raise UserError(f"{path} is empty (0 bytes)")
    return content


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


class _Loader(yaml.SafeLoader):
    """Plain values only: no aliases (they can expand to any size), no tags, no key twice."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise ComposerError(None, None, "aliases (*name) are not allowed", event.start_mark)
        if getattr(event, "tag", None) is not None:
            raise ComposerError(None, None, f"tags ({event.tag}) are not allowed", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        mapping = super().construct_mapping(node, deep)
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node)
            if key in seen:
                raise ConstructorError(None, None, f"{key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return mapping


def read_yaml(path: str | Path) -> Any:
    """Content of a YAML file: dictionaries, lists, text, numbers, booleans, None (an empty file).

    Raises:
        UserError: naming file and line: not there, too large, no YAML, a key given twice, aliases, tags.
    """
    try:
        size = os.path.getsize(path)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    if size > MAX_YAML_BYTES:
        raise UserError(f"{path} has {size} bytes, at most {MAX_YAML_BYTES} are read; is it the right file?")
    if size == 0:
        return None
    try:
        return yaml.load(read_bytes(path), _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "no YAML"
        raise UserError(f"{path}:{mark.line + 1 if mark else 1}: {problem}") from None
    except (ValueError, OverflowError) as error:  # what looks like a number or a date and is none
        raise UserError(f"{path}: {error}") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply") from None
