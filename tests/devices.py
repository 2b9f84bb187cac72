"""A pretended device: tensors on `meta` have no numbers; a mode watches what is done with them.

What a GPU would refuse (tensors on different devices in one operation) is an error, what would wait for it is noted,
and the bytes that exist on it are counted. No CUDA is needed.
"""

import traceback
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
DEVICE = torch.device("meta")
ROOT = Path(__file__).parents[1]
COPIES = (aten._to_copy.default, aten.copy_.default)


class Watch(TorchDispatchMode):
    """Watches the device.

    Args:
        number: what the device answers where it is asked for one.
    """

    def __init__(self, number: float = 1.0) -> None:
        super().__init__()
        self.number, self.waits, self.operations = number, Counter(), set()
        self.now = self.peak = 0  # bytes
        self._counted: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled():  # operations that consist of others come whole
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        here = any(x.device == DEVICE for x in given)
        if here:
            self.operations.add(str(func))
            if func is aten._local_scalar_dense.default:
                self.wait("a number")
                return type(torch.zeros((), dtype=given[0].dtype).item())(self.number)
            if func is aten.bincount.default:  # for the largest number; others of its kind are errors on `meta`
                self.wait("bincount")
                return torch.empty(kwargs.get("minlength", args[-1]), dtype=torch.int64, device=DEVICE)
            if func not in COPIES and any(x.device != DEVICE and x.dim() > 0 for x in given):
                raise AssertionError(f"{func} mixes devices: {[(x.device.type, tuple(x.shape)) for x in given]}")
        if func in COPIES and (moved := self.copied(func, args, kwargs)) is not None:
            return moved
        out = func(*args, **kwargs)
        self.count([x for x in tree_leaves(out) if isinstance(x, Tensor) and x.device == DEVICE])
        return out

    def copied(self, func: Any, args: Sequence, kwargs: dict[str, Any]) -> Tensor | None:
        """Notes a copy between the devices that waits; what comes from the device are zeros."""
        to_copy = func is aten._to_copy.default
        source = args[0] if to_copy else args[1]
        target = torch.device(kwargs.get("device") or source.device) if to_copy else args[0].device
        if (source.device == DEVICE) == (target == DEVICE):
            return None
        if target != DEVICE:
            self.wait("a copy from the device")
            return torch.zeros(source.shape, dtype=kwargs.get("dtype") or source.dtype)
        if not (kwargs.get("non_blocking") or (not to_copy and len(args) > 2 and args[2])):
            self.wait("a copy to the device")
        return None

    def wait(self, what: str) -> None:
        """Note that something waits, and the function of ours that asks for it."""
        frames = [f for f in traceback.extract_stack() if f.filename.startswith(str(ROOT)) and "tests" not in f.filename
                  and ".venv" not in f.filename]
        self.waits[(frames[-1].name if frames else "", what)] += 1

    def count(self, tensors: Sequence[Tensor]) -> None:
        """Count tensors' bytes, each memory once, until it is freed."""
        for storage in (x.untyped_storage() for x in tensors):
            if storage._cdata not in self._counted:
                size = storage.nbytes()
                self._counted.add(storage._cdata)
                self.now += size
                weakref.finalize(storage, self._freed, storage._cdata, size)
        self.peak = max(self.peak, self.now)

    def _freed(self, key: int, size: int) -> None:
        self._counted.discard(key)
        self.now -= size


def pretend(monkeypatch: pytest.MonkeyPatch, watch: Watch) -> None:
    """Let `torch.tensor(..., device=...)` count as the blocking copy that it is, and autocast know the device."""

    def watched(original: Callable) -> Callable:
        def make(*args: object, **kwargs: Any) -> Tensor:
            if torch.device(kwargs.get("device") or "cpu") == DEVICE:
                watch.wait("a copy to the device")
            return original(*args, **kwargs)

        return make

    for name in ("tensor", "as_tensor"):
        monkeypatch.setattr(torch, name, watched(getattr(torch, name)))
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())
