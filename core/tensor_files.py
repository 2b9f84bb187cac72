"""The one reader of files of tensors: every archive is checked before it is used, no code of the file is run."""

import os
import pickle
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor, nn

from core.cli import UserError

CHUNK = 1 << 20
KINDS = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8,
)


class _Refused(Exception):
    """What is wrong with a file's content."""


def read(path: str | Path, what: str, advice: str) -> Any:
    """What torch.save wrote: plain values, NumPy scalars and dense tensors, on the CPU; or a .safetensors file.

    Args:
        path: the file.
        what: it should be, for the message: "snapshot".
        advice: what to do about a file that is missing or refused.

    Raises:
        UserError: no such file, damaged, code in it, or tensors that are not dense numbers in memory (sparse,
            quantised, meta, ...).
    """
    if not os.path.isfile(path):
        found = "is not a file" if os.path.exists(path) else "does not exist"
        raise UserError(f"{what} {path} {found}; {advice}")
    try:
        with open(path, "rb") as file:
            content = _safetensors(file) if str(path).endswith(".safetensors") else _saved(file)
        _check_tensors(content)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read: {error.strerror or error}; {advice}") from None
    except Exception as error:  # torch raises whatever a broken file causes, from KeyError to MemoryError
        raise UserError(f"{what} {path} {_reason(error)}; {advice}") from None
    return content


def _saved(file: IO[bytes]) -> Any:
    _check_archive(file)
    with _numpy_scalars(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of what is refused in one line by `read`
        return torch.load(file, map_location="cpu", weights_only=True)


def _safetensors(file: IO[bytes]) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load
    except ImportError:
        raise UserError(f"{file.name} needs the package safetensors: pip install -r requirements-encoders.txt"
                        ) from None
    return load(file.read())


def _check_archive(file: IO[bytes]) -> None:
    """Compare each member of a zip with its checksum, which torch does not; torch's older files have none."""
    zipped = file.read(4) == b"PK\3\4"
    file.seek(0)
    if not zipped:
        return
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            # torch.save compresses nothing: it never writes what would unpack to more than the file.
            if sum(member.file_size for member in members) > os.fstat(file.fileno()).st_size:
                raise _Refused("is damaged: its members are larger than the file")
            for member in members:
                _check_member(archive, member)
    except zipfile.BadZipFile as error:
        raise _Refused(f"is damaged: {error}") from None
    file.seek(0)


def _check_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    try:
        with archive.open(member) as content:
            while content.read(CHUNK):
                pass
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, ValueError):
        raise _Refused(f"is damaged: its member {member.filename!r} does not match its checksum") from None


def _check_tensors(content: Any) -> None:
    """Refuse tensors that are no plain numbers in memory."""
    for path, value in _tensors(content):
        name = repr(path[:100])
        dense = type(value) in (Tensor, nn.Parameter) and value.layout == torch.strided and value.device.type == "cpu"
        if not dense or value.is_nested or value.is_neg():
            raise _Refused(f"holds {name}, which is not a dense tensor")
        if value.dtype not in KINDS:
            raise _Refused(f"holds {name}, a tensor of {value.dtype}, where plain numbers are expected")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise _Refused(f"holds {name}, a tensor of {list(value.shape)} with fewer numbers than that")


def _tensors(content: Any) -> Iterator[tuple[str, Tensor]]:
    """All tensors in nested dictionaries, lists and tuples, with their names; without recursion, each once."""
    todo, seen = [("", content)], set()
    while todo:
        name, value = todo.pop()
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            parts = value.items() if isinstance(value, dict) else enumerate(value)
            todo += [(f"{name}.{key}" if name else str(key), part) for key, part in parts]


def _reason(error: Exception) -> str:
    """The telling part of what torch says, at length, about a file that it refuses."""
    if isinstance(error, _Refused):
        return str(error)
    text = " ".join(str(error).split())
    if "Unsupported global" in text:
        code = text.partition("Unsupported global: ")[2].partition(" was not")[0]
        return f"holds code ({code}), more than tensors and plain values: not loaded"
    known = isinstance(error, (pickle.UnpicklingError, EOFError))  # torch's words about these are of no use
    return "is damaged, or torch.save has not written it" + ("" if known or not text else f" ({text[:100]})")


def _numpy_scalars() -> AbstractContextManager[None]:
    """Let torch's restricted reader make NumPy scalars, by the names of NumPy 1 and 2."""
    make_scalar = np.float64(0).__reduce__()[0]

    def under(module: str) -> Callable[[np.dtype, bytes], np.generic]:
        def scalar(dtype: np.dtype, content: bytes) -> np.generic:
            return make_scalar(dtype, content)

        scalar.__module__, scalar.__qualname__ = module, "scalar"
        return scalar

    kinds = [type(np.dtype(code)) for code in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")]
    scalars = [under("numpy.core.multiarray"), under("numpy._core.multiarray")]
    return torch.serialization.safe_globals([np.dtype, *kinds, *scalars])
