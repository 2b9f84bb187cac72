"""The only reader of tensor files: every archive is verified before it is used, and no code from it is executed."""

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
    """Read what torch.save wrote, plain values, NumPy scalars and dense tensors, onto the CPU; or a .safetensors file.

    Args:
        path: the file.
        what: it should be, for messages: "snapshot".
        advice: what to do if the file is missing or rejected.

    Raises:
        UserError: the file is missing or damaged, contains code, or has tensors that are not dense numbers in memory
            (sparse, quantised, meta, ...).
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
    except Exception as error:  # a broken file makes torch raise anything from KeyError to MemoryError
        raise UserError(f"{what} {path} {_reason(error)}; {advice}") from None
    return content


def _saved(file: IO[bytes]) -> Any:
    _check_archive(file)
    with _numpy_scalars(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about what `read` reports in one line
        return torch.load(file, map_location="cpu", weights_only=True)


def _safetensors(file: IO[bytes]) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load
    except ImportError:
        raise UserError(f"{file.name} needs the package safetensors: pip install -r requirements-encoders.txt"
                        ) from None
    return load(file.read())


def _check_archive(file: IO[bytes]) -> None:
    """Verify the checksum of each member of a zip, which torch does not; torch's older format has none."""
    zipped = file.read(4) == b"PK\3\4"
    file.seek(0)
    if not zipped:
        return
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            # torch.save does not compress: what it writes never unpacks to more than the file.
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
    """Reject tensors that are not plain numbers in memory."""
    for path, value in _tensors(content):
        name = repr(path[:100])
        dense = type(value) in (Tensor, nn.Parameter) and value.layout == torch.strided and value.device.type == "cpu"
        if not dense or value.is_nested or value.is_neg():
            raise _Refused(f"holds {name}, which is not a dense tensor")
        if value.dtype not in KINDS:
            raise _Refused(f"holds {name}, a tensor of {value.dtype}, where plain numbers are expected")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise _Refused(f"holds {name}, a tensor of {list(value.shape)} with too few numbers")


def _tensors(content: Any) -> Iterator[tuple[str, Tensor]]:
    """All tensors in nested dictionaries, lists and tuples, with their names; not recursive, each container once."""
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
    """The informative part of torch's long message about a file that it rejects."""
    if isinstance(error, _Refused):
        return str(error)
    text = " ".join(str(error).split())
    if "Unsupported global" in text:
        code = text.partition("Unsupported global: ")[2].partition(" was not")[0]
        return f"holds code ({code}), not just tensors and plain values: not loaded"
    known = isinstance(error, (pickle.UnpicklingError, EOFError))  # torch's messages for these are useless
    return "is damaged, or was not written by torch.save" + ("" if known or not text else f" ({text[:100]})")


def _numpy_scalars() -> AbstractContextManager[None]:
    """Let torch's restricted reader create NumPy scalars, under the names of NumPy 1 and 2."""
    make_scalar = np.float64(0).__reduce__()[0]

    def under(module: str) -> Callable[[np.dtype, bytes], np.generic]:
        def scalar(dtype: np.dtype, content: bytes) -> np.generic:
            return make_scalar(dtype, content)

        scalar.__module__, scalar.__qualname__ = module, "scalar"
        return scalar

    kinds = [type(np.dtype(code)) for code in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")]
    scalars = [under("numpy.core.multiarray"), under("numpy._core.multiarray")]
    return torch.serialization.safe_globals([np.dtype, *kinds, *scalars])
