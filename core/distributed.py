"""Processes, started from torchrun's environment; with one process, every function here is the identity.

All communication is visible at the call sites; the networks and the mathematics in models/ know nothing of processes.
"""

import atexit
import datetime
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from core.cli import Fault, Lost, UserError

_agreement: dist.ProcessGroup | None = None  # a CPU group: agreeing on a flag must not wait for the GPU


def rank() -> int:
    """Rank of this process, 0 ... size-1."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def start(device: str) -> torch.device:
    """Join torchrun's processes, if there are several, and choose this one's device.

    Args:
        device: "cuda", "cpu", or "auto" for CUDA if available.

    Raises:
        UserError: this machine has more processes than GPUs.
    """
    given = {name: os.environ.get(name, "") for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT")}
    wrong = [f"{name}={value}" for name, value in given.items() if value and not value.isdecimal()]
    many = not wrong and int(given["WORLD_SIZE"] or 1) > 1
    if wrong or many and not (all(given.values()) and os.environ.get("MASTER_ADDR")):
        raise UserError(f"{' '.join(wrong) or 'WORLD_SIZE=' + given['WORLD_SIZE']} in the environment is not from "
                        "torchrun: unset it, or start with torchrun")
    cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    local = int(given["LOCAL_RANK"]) if many else 0
    chosen = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        if local >= torch.cuda.device_count():
            raise UserError(f"no GPU for process {local + 1} on this machine, which has {torch.cuda.device_count()}: "
                            "start one process per GPU (NUM_GPUS)")
        _check_capability(chosen)
        torch.cuda.set_device(chosen)
    if many:
        # However this process exits, a thread of the backend may still be releasing the last exchange's tensors, for
        # which it needs the interpreter. If that is gone by then, the process aborts.
        atexit.register(time.sleep, 0.5)
        wait = datetime.timedelta(seconds=patience())
        with _connected("connect"):
            dist.init_process_group("nccl" if cuda else "gloo", timeout=wait)
            global _agreement
            _agreement = dist.new_group(backend="gloo", timeout=wait) if cuda else dist.group.WORLD
    return chosen


def _check_capability(device: torch.device) -> None:
    """UserError if the GPU is older than what this torch was built for: its first kernel would fail."""
    kernels = [arch for arch in torch.cuda.get_arch_list() if arch.startswith("sm_")]
    built = [int(arch.removeprefix("sm_").rstrip("af")) for arch in kernels]
    major, minor = torch.cuda.get_device_capability(device)
    if built and 10 * major + minor < min(built):
        raise UserError(
            f"{torch.cuda.get_device_name(device)} has compute capability {major}.{minor}, torch {torch.__version__} "
            f"needs {min(built) / 10} or newer: install an older torch (2.6 or newer) built for it, or use another GPU"
        )


def patience() -> float:
    """Seconds that a process waits for another (SAC_TIMEOUT_MINUTES).

    Raises:
        UserError: the variable is not a number above 0.
    """
    given = os.environ.get("SAC_TIMEOUT_MINUTES", "30")
    try:
        minutes = float(given)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < 1e6:
        raise UserError(f"SAC_TIMEOUT_MINUTES={given}: expected a number above 0")
    return 60 * minutes


def machines() -> int:
    """Number of machines, as torchrun counts them."""
    return int(os.environ.get("GROUP_WORLD_SIZE", 1)) if dist.is_initialized() else 1


@contextmanager
def _connected(verb: str = "continue") -> Iterator[None]:
    """Turn what torch raises when another process does not respond into one line."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # of gloo, NCCL or the store
        late = "timeout" in str(error).lower() or "timed out" in str(error).lower()
        why = f"did not respond within {patience() / 60:g} minutes (SAC_TIMEOUT_MINUTES)" if late else "is gone"
        raise Lost(
            f"cannot {verb}: another process, or its machine, {why}. If it failed, see its own message; several "
            "machines must reach each other: GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name the network interface"
        ) from error


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        # _agreement is kept: deleting its group waits for threads that may need the interpreter, while holding it
        # (seen with torch 2.6).
        dist.destroy_process_group()


def split(total: int, number: int, count: int) -> slice:
    """The slice of `total` items that belongs to process `number` of `count`: in order, as evenly as possible."""
    return slice(total * number // count, total * (number + 1) // count)


def share(total: int) -> slice:
    """The slice of `total` items that belongs to this process."""
    return split(total, rank(), size())


def most_of(total: int) -> int:
    """The most of `total` items that any process has."""
    return -(-total // size())


def cuts(total: int, together: int) -> bool:
    """Whether `share` splits a group of `together` consecutive items between processes."""
    return any(split(total, number, size()).start % together for number in range(size()))


def total(x: Tensor) -> Tensor:
    """Sum of `x` (any shape, the same on all processes) over the processes."""
    if size() > 1:
        x = x.clone()
        with _connected():
            dist.all_reduce(x)
    return x


def totals(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sums of all values (any shapes, the same on all processes) over the processes, in one exchange."""
    flat = total(torch.cat([value.flatten().float() for value in values.values()]))
    sums, start = {}, 0
    for name, value in values.items():
        sums[name] = flat[start : start + value.numel()].view_as(value)
        start += value.numel()
    return sums


def gather(tensors: Sequence[Tensor], count: int) -> list[Tensor]:
    """All processes' shares [n, ...] of each tensor, in rank order: [count, ...]."""
    return [_gather(x, count) for x in tensors]


def _gather(x: Tensor, count: int) -> Tensor:
    if size() == 1:
        return x
    # Shares may differ by one, and neither backend sends booleans.
    kind = torch.uint8 if x.dtype == torch.bool else x.dtype
    sent = torch.zeros(most_of(count), *x.shape[1:], dtype=kind, device=x.device)
    sent[: len(x)] = x
    parts = [torch.empty_like(sent) for _ in range(size())]
    with _connected():
        dist.all_gather(parts, sent)
    shares = (split(count, number, size()) for number in range(size()))
    return torch.cat([part[: own.stop - own.start] for part, own in zip(parts, shares, strict=True)]).to(x.dtype)


BUCKET = 2**23  # numbers summed at once: 32 MB


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sum the gradients of all processes in a fixed order, so that a run resumes bit for bit.

    A parameter without a gradient counts as zeros: a process may have no images.
    """
    if size() == 1:
        return
    bucket: list[nn.Parameter] = []
    for parameter in parameters:
        bucket.append(parameter)
        if sum(p.numel() for p in bucket) >= BUCKET:
            _sum_bucket(bucket)
            bucket = []
    if bucket:
        _sum_bucket(bucket)


def _sum_bucket(parameters: list[nn.Parameter]) -> None:
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    with _connected():
        dist.all_reduce(flat)
    sums = flat.split([p.numel() for p in parameters])
    for parameter, gradient, x in zip(parameters, gradients, sums, strict=True):
        parameter.grad = gradient.copy_(x.view_as(gradient))


def largest(n: int) -> int:
    """The largest `n` of all processes."""
    if size() == 1:
        return n
    numbers = torch.tensor([n])
    with _connected():
        dist.all_reduce(numbers, dist.ReduceOp.MAX, group=_agreement)
    return int(numbers.item())


def gather_values(value: Any) -> list:
    """All processes' plain values, in rank order."""
    values = [value] * size()
    if size() > 1:
        with _connected():
            dist.all_gather_object(values, value, group=_agreement)
    return values


def gather_lists(entries: list) -> list:
    """All processes' entries (plain values) in one list, in rank order."""
    return [entry for part in gather_values(entries) for entry in part]


def agree(error: Exception | None) -> None:
    """If a process has an error, raise on all of them: the error itself there, a Fault that quotes it on the others."""
    said = gather_values("" if error is None else f"{type(error).__name__}: {error}")
    if error is not None:
        raise error
    for number, text in enumerate(said):
        if text:
            raise Fault(f"process {number} cannot continue: {text.splitlines()[-1]}")


def on_first(action: Callable[[], Any]) -> Any:
    """Call `action` on the first process only; its UserError is raised on all. None on the others."""
    result, error = None, ""
    if rank() == 0:
        try:
            result = action()
        except UserError as refused:
            error = str(refused)
    if error := gather_values(error)[0]:
        raise UserError(error)
    return result


def from_first(action: Callable[[], Any]) -> Any:
    """`on_first` for what needs the first process's disk; its result (plain values, CPU tensors) on all of them."""
    result = [on_first(action)]
    if size() > 1:
        with _connected():
            dist.broadcast_object_list(result, src=0, group=_agreement)
    return result[0]


def tell(done: int, finished: bool = False) -> None:
    """Tell the first process how much this one has done, without waiting."""
    if size() > 1:
        with _connected():
            dist.distributed_c10d._get_default_store().set(f"told/{rank()}", f"{done} {finished:d}")


def wait_for_all(done: int) -> int:
    """On the first process: wait until all others have finished; how much all have done in total.

    Args:
        done: how much this process has done.

    Raises:
        Lost: no progress from those that have not finished, for SAC_TIMEOUT_MINUTES.
    """
    store = dist.distributed_c10d._get_default_store() if size() > 1 else None
    told, since = {}, time.monotonic()
    while True:
        keys = [f"told/{number}" for number in range(1, size())]
        with _connected():
            now = {key: store.get(key).decode() for key in keys if store.check([key])}
        if now != told:
            told, since = now, time.monotonic()
        if all(told.get(key, "0 0").endswith(" 1") for key in keys):
            return done + sum(int(text.split()[0]) for text in told.values())
        if time.monotonic() - since > patience():
            missing = [str(n) for n, key in enumerate(keys, 1) if not told.get(key, "").endswith(" 1")]
            raise Lost(f"no progress from process {' and '.join(missing)} for {patience() / 60:g} minutes "
                       "(SAC_TIMEOUT_MINUTES): it, or its machine, is gone")
        time.sleep(0.1)


SIGNALS, AT_ONCE = (signal.SIGTERM, signal.SIGINT), 2.0  # that request a stop; seconds
READ, SKIPPED, STOP = 1, 2, 3  # what a process may want before an iteration; the largest wins


class Stopped(Exception):
    """The run was asked to stop, and everything so far is saved."""


class Agreement:
    """Stops all processes at the same point if one of them has to stop, on a signal or an error."""

    def __init__(self) -> None:
        self.stopping = False

    def heed_signals(self) -> None:
        """From now on, SIGTERM and SIGINT request a stop at the next agreement; a second one ends this process at once.

        Signals within AT_ONCE seconds count as one: a single Ctrl-C may reach a process in several ways.
        """
        for number in SIGNALS:
            signal.signal(number, lambda *_: setattr(self, "stopping", True))
        # Python only calls handlers between its own instructions, not while it waits for a device or another process,
        # possibly forever. This pipe gets a byte at any time.
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        threading.Thread(target=_end_at_second, args=(reading,), daemon=True).start()

    def __call__(self, error: Exception | None = None, wanted: int = 0, save: Callable[[], None] | None = None) -> int:
        """The largest of what the processes want.

        Args:
            error: this process's, if any.
            wanted: READ, SKIPPED or 0.
            save: called before all processes stop.

        Raises:
            Stopped: on all processes, after a signal to one; or the error, as `agree` raises it.
        """
        # Exchanging one number covers all of it.
        most = largest(STOP if self.stopping or error is not None else wanted)
        if most < STOP:
            return most
        if save is not None:
            save()
        agree(error)
        raise Stopped("stopped by a signal")


def _end_at_second(reading: int) -> None:
    """Read signal numbers from a pipe; exit on one that comes more than AT_ONCE seconds after the first."""
    first = None
    while number := os.read(reading, 1):
        if number[0] in SIGNALS:
            now = time.monotonic()
            first = first or now
            if now - first > AT_ONCE:
                os._exit(128 + number[0])
