"""Processes: started from torchrun's environment; with one process every function here is the identity.

What is communicated is visible where it is called, in the trainer; the networks and the method know no processes.
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
            raise UserError(f"process {local + 1} on this machine has no GPU, there are {torch.cuda.device_count()}: "
                            "start one process per GPU (NUM_GPUS)")
        _check_capability(chosen)
        torch.cuda.set_device(chosen)
    if many:
        # However this process ends: a thread of the back end may still be letting go of the last exchange's tensors,
        # for which it needs the interpreter. If that ends meanwhile, the process is aborted.
        atexit.register(time.sleep, 0.5)
        wait = datetime.timedelta(seconds=patience())
        with _connected("meet"):
            dist.init_process_group("nccl" if cuda else "gloo", timeout=wait)
            global _agreement
            _agreement = dist.new_group(backend="gloo", timeout=wait) if cuda else dist.group.WORLD
    return chosen


def _check_capability(device: torch.device) -> None:
    """UserError for a GPU that is older than what this torch was built for: it would fail at its first kernel."""
    kernels = [arch for arch in torch.cuda.get_arch_list() if arch.startswith("sm_")]
    built = [int(arch.removeprefix("sm_").rstrip("af")) for arch in kernels]
    major, minor = torch.cuda.get_device_capability(device)
    if built and 10 * major + minor < min(built):
        raise UserError(
            f"{torch.cuda.get_device_name(device)} has compute capability {major}.{minor}, torch {torch.__version__} "
            f"needs {min(built) / 10} or newer: install an older torch (2.6 or newer) built for it, or use another GPU"
        )


def patience() -> float:
    """Seconds that a process waits for another one (SAC_TIMEOUT_MINUTES).

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
    """Turn what torch raises when another process does not answer into one line."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # of gloo, NCCL or the store
        late = "timeout" in str(error).lower() or "timed out" in str(error).lower()
        why = f"does not answer within {patience() / 60:g} minutes (SAC_TIMEOUT_MINUTES)" if late else "has gone"
        raise Lost(
            f"cannot {verb}: another process, or its machine, {why}. If it has ended, it says why itself; several "
            "machines must reach each other: GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name the network interface"
        ) from error


def stop() -> None:
    """Leave the processes."""
    if dist.is_initialized():
        # _agreement stays as it is: taking its group apart waits for threads that may need the interpreter meanwhile,
        # and keeps it from them (seen with torch 2.6).
        dist.destroy_process_group()


def split(total: int, number: int, count: int) -> slice:
    """Which of `total` things in a row are process `number`'s of `count`: as evenly as it goes, in their order."""
    return slice(total * number // count, total * (number + 1) // count)


def share(total: int) -> slice:
    """Which of `total` things in a row are this process's."""
    return split(total, rank(), size())


def most_of(total: int) -> int:
    """The most of `total` things that a process has."""
    return -(-total // size())


def cuts(total: int, together: int) -> bool:
    """Whether `share` puts some of `together` neighbours on different processes."""
    return any(split(total, number, size()).start % together for number in range(size()))


def total(x: Tensor) -> Tensor:
    """Sum of `x` (any shape, the same everywhere) over the processes."""
    if size() > 1:
        x = x.clone()
        with _connected():
            dist.all_reduce(x)
    return x


def totals(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sums of all values (any shapes, the same everywhere) over the processes, in one exchange."""
    flat = total(torch.cat([value.flatten().float() for value in values.values()]))
    sums, start = {}, 0
    for name, value in values.items():
        sums[name] = flat[start : start + value.numel()].view_as(value)
        start += value.numel()
    return sums


def gather(tensors: Sequence[Tensor], count: int) -> list[Tensor]:
    """Every process's share [n, ...] of each tensor, in the order of the processes: [count, ...]."""
    return [_gather(x, count) for x in tensors]


def _gather(x: Tensor, count: int) -> Tensor:
    if size() == 1:
        return x
    # Shares may differ by one, and neither back end sends booleans.
    kind = torch.uint8 if x.dtype == torch.bool else x.dtype
    sent = torch.zeros(most_of(count), *x.shape[1:], dtype=kind, device=x.device)
    sent[: len(x)] = x
    parts = [torch.empty_like(sent) for _ in range(size())]
    with _connected():
        dist.all_gather(parts, sent)
    shares = (split(count, number, size()) for number in range(size()))
    return torch.cat([part[: own.stop - own.start] for part, own in zip(parts, shares, strict=True)]).to(x.dtype)


BUCKET = 2**23  # numbers that are summed at once: 32 MB


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add up the gradients of all processes, in an order that never changes: then a run continues bit for bit.

    A parameter without gradient counts with zeros: a process may have no images.
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
    """The largest of the processes' numbers."""
    if size() == 1:
        return n
    numbers = torch.tensor([n])
    with _connected():
        dist.all_reduce(numbers, dist.ReduceOp.MAX, group=_agreement)
    return int(numbers.item())


def gather_values(value: Any) -> list:
    """Every process's plain value, in the order of the processes."""
    values = [value] * size()
    if size() > 1:
        with _connected():
            dist.all_gather_object(values, value, group=_agreement)
    return values


def gather_lists(entries: list) -> list:
    """Every process's entries (plain values) in one list, in the order of the processes."""
    return [entry for part in gather_values(entries) for entry in part]


def agree(error: Exception | None) -> None:
    """Raise what one process has run into on all of them: there the error, on the others a Fault that tells of it."""
    said = gather_values("" if error is None else f"{type(error).__name__}: {error}")
    if error is not None:
        raise error
    for number, text in enumerate(said):
        if text:
            raise Fault(f"process {number} cannot continue: {text.splitlines()[-1]}")


def on_first(action: Callable[[], Any]) -> Any:
    """Do on the first process what only one may do; its UserError ends all of them. None on the others."""
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
    """Do on the first process what needs its disk, and hand the result (plain values, CPU tensors) to all of them."""
    result = [on_first(action)]
    if size() > 1:
        with _connected():
            dist.broadcast_object_list(result, src=0, group=_agreement)
    return result[0]


def tell(done: int, finished: bool = False) -> None:
    """Tell the first process how much this one has done; nobody waits for anybody."""
    if size() > 1:
        with _connected():
            dist.distributed_c10d._get_default_store().set(f"told/{rank()}", f"{done} {finished:d}")


def wait_for_all(done: int) -> int:
    """On the first process: wait until all others have told that they have finished; what all have done in total.

    Args:
        done: by this process.

    Raises:
        Lost: for as long as SAC_TIMEOUT_MINUTES, none of those that have not finished has told anything new.
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
            raise Lost(f"process {' and '.join(missing)} has done nothing for {patience() / 60:g} minutes "
                       "(SAC_TIMEOUT_MINUTES): it, or its machine, has gone")
        time.sleep(0.1)


SIGNALS, AT_ONCE = (signal.SIGTERM, signal.SIGINT), 2.0  # that ask to stop; seconds
READ, SKIPPED, STOP = 1, 2, 3  # what a process may want before an iteration; the largest counts


class Stopped(Exception):
    """The run was asked to stop, and everything up to here is written."""


class Agreement:
    """Lets all processes stop at the same point where one of them has to, for a signal or an error."""

    def __init__(self) -> None:
        self.stopping = False

    def heed_signals(self) -> None:
        """From now on SIGTERM and SIGINT ask to stop at the next agreement; another one ends this process at once.

        What follows within AT_ONCE counts as the same: one Ctrl-C reaches a process in several ways.
        """
        for number in SIGNALS:
            signal.signal(number, lambda *_: setattr(self, "stopping", True))
        # Python calls its handlers between two of its own instructions alone: not where it waits for a device or for
        # another process, possibly forever. The bytes of this pipe come at any time.
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        threading.Thread(target=_end_at_second, args=(reading,), daemon=True).start()

    def __call__(self, error: Exception | None = None, wanted: int = 0, save: Callable[[], None] | None = None) -> int:
        """The most that any process wants.

        Args:
            error: what this process has run into.
            wanted: READ, SKIPPED or 0.
            save: called before all processes stop.

        Raises:
            Stopped: on all processes, after a signal to one; or the error, on the others a Fault that tells of it.
        """
        # One exchange of a number for all of it.
        most = largest(STOP if self.stopping or error is not None else wanted)
        if most < STOP:
            return most
        if save is not None:
            save()
        agree(error)
        raise Stopped("stopped by a signal")


def _end_at_second(reading: int) -> None:
    """Read the numbers of signals from a pipe; end when one comes later than the first."""
    first = None
    while number := os.read(reading, 1):
        if number[0] in SIGNALS:
            now = time.monotonic()
            first = first or now
            if now - first > AT_ONCE:
                os._exit(128 + number[0])
