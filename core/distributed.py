"""Processes: started from torchrun's environment; with one process every function here is the identity.

What is communicated is visible where it is called, in the trainer; the networks and the method know no processes.
"""

import datetime
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from core.cli import Fault, UserError

_agreement: dist.ProcessGroup | None = None  # a CPU group: agreeing on a flag must not wait for the GPU


def rank() -> int:
    """Number of this process, 0 ... size-1."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def start(device: str) -> torch.device:
    """Join torchrun's processes, if there are several, and choose this one's device.

    Args:
        device: "cuda", "cpu", or "auto" for CUDA where there is any.

    Raises:
        UserError: more processes on this machine than it has GPUs.
    """
    cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    local = int(os.environ.get("LOCAL_RANK", 0))
    chosen = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        if local >= torch.cuda.device_count():
            raise UserError(f"process {local + 1} on this machine has no GPU, there are {torch.cuda.device_count()}: "
                            "start one process a GPU (NUM_GPUS)")
        torch.cuda.set_device(chosen)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        patience = datetime.timedelta(minutes=int(os.environ.get("SAC_TIMEOUT_MINUTES", 30)))
        dist.init_process_group("nccl" if cuda else "gloo", timeout=patience)
        global _agreement
        _agreement = dist.new_group(backend="gloo", timeout=patience) if cuda else dist.group.WORLD
    return chosen


def stop() -> None:
    """Leave the processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def total(x: Tensor) -> Tensor:
    """Sum of `x` (any shape, the same everywhere) over the processes."""
    if size() > 1:
        x = x.clone()
        dist.all_reduce(x)
    return x


def mean(x: Tensor) -> Tensor:
    """Mean of `x` (float, any shape, the same everywhere) over the processes."""
    return total(x) / size() if size() > 1 else x


def gather_views(x: Tensor) -> Tensor:
    """`x` [n, ...] of every process, in the order of the processes: [size·n, ...]."""
    if size() == 1:
        return x
    # Neither back end sends booleans.
    sent = x.to(torch.uint8) if x.dtype == torch.bool else x
    parts = [torch.empty_like(sent, memory_format=torch.contiguous_format) for _ in range(size())]
    dist.all_gather(parts, sent.contiguous())
    return torch.cat(parts).to(x.dtype)


def largest(n: int) -> int:
    """The largest of the processes' numbers."""
    if size() == 1:
        return n
    numbers = torch.tensor([n])
    dist.all_reduce(numbers, dist.ReduceOp.MAX, group=_agreement)
    return int(numbers.item())


def any_process(flag: bool) -> bool:
    """Whether any process has raised its flag; all get the same answer."""
    return largest(int(flag)) > 0


def gather_text(text: str) -> list[str]:
    """Every process's text, in the order of the processes."""
    texts = [text] * size()
    if size() > 1:
        dist.all_gather_object(texts, text, group=_agreement)
    return texts


def gather_lists(entries: list) -> list:
    """Every process's entries (plain values) in one list, in the order of the processes."""
    parts = [entries] * size()
    if size() > 1:
        dist.all_gather_object(parts, entries, group=_agreement)
    return [entry for part in parts for entry in part]


def agree(error: Exception | None) -> None:
    """Raise what one process has run into on all of them: there the error, on the others a Fault that tells of it."""
    said = gather_text("" if error is None else f"{type(error).__name__}: {error}")
    if error is not None:
        raise error
    for number, text in enumerate(said):
        if text:
            raise Fault(f"process {number} cannot go on: {text.splitlines()[-1]}")


def on_first(action: Callable[[], Any]) -> Any:
    """Do on the first process what only one may do; its UserError ends all of them. None on the others."""
    result, error = None, ""
    if rank() == 0:
        try:
            result = action()
        except UserError as refused:
            error = str(refused)
    if error := gather_text(error)[0]:
        raise UserError(error)
    return result

