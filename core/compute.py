"""Runs networks on the device, with a precision and micro-batches; moves batches there and normalises them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from core import distributed
from core.cli import UserError
from datasets.iterations import Iteration
from datasets.source import ImageBatch, SourceBatch
from datasets.target import TargetBatch
from datasets.transforms import normalise

# The state of torch's GradScaler.
SCALER = {
    "scale": float, "growth_factor": float, "backoff_factor": float, "growth_interval": int, "_growth_tracker": int}
Statistics = tuple[Sequence[float], Sequence[float]]  # mean and standard deviation of red, green, blue, in 0 ... 1


class Compute:
    """How the networks run, which changes their results only by rounding.

    Args:
        device: where they run.
        bfloat16: autocast around the networks, and nothing else.
        micro_batch: images per forward pass; 0 = all at once.
        compiled: torch.compile the networks.
        tf32: let the GPU's convolutions, which only networks have, round their inputs to TF32.
        float16: autocast to float16 instead, with loss scaling so that gradients do not underflow.
    """

    def __init__(
        self, device: torch.device, bfloat16: bool, micro_batch: int = 0, compiled: bool = False, tf32: bool = False,
        float16: bool = False,
    ) -> None:
        self.device, self.bfloat16, self.micro_batch, self.compiled = device, bfloat16, micro_batch, compiled
        self.precision = "float16" if float16 else "bfloat16" if bfloat16 else "TF32" if tf32 else "float32"
        self.scaler = torch.amp.GradScaler(device.type, enabled=float16)
        if device.type == "cuda":
            # torch allows it by default. Matrix products outside the networks (affine_grid's) stay float32 in any case.
            torch.backends.cudnn.allow_tf32 = tf32

    @classmethod
    def of(cls, precision: str, device: torch.device, micro_batch: int = 0, compiled: bool = False) -> "Compute":
        """From TRAIN.PRECISION; on a device without TF32, tf32 means float32."""
        tf32 = precision == "tf32" and device.type == "cuda"
        return cls(device, uses_bfloat16(precision, device), micro_batch, compiled, tf32, precision == "float16")

    def state(self) -> dict[str, Any]:
        """What a snapshot must keep, as plain values."""
        return {"scaler": self.scaler.state_dict()} if self.scaler.is_enabled() else {}

    def restore(self, state: Mapping[str, Any], path: str) -> None:
        """Restore what `state` saved in the snapshot `path`, as far as it is needed now.

        Raises:
            UserError: it is invalid.
        """
        if self.scaler.is_enabled() and "scaler" in state:
            try:
                self.scaler.load_state_dict({name: kind(state["scaler"][name]) for name, kind in SCALER.items()})
            except (KeyError, TypeError, ValueError):
                raise UserError(f"{path} is damaged: its entry 'scaler' is invalid; start from an earlier snapshot "
                                "with --resume and another --run") from None

    def take_step(self, optimiser: torch.optim.Optimizer, clip: float) -> None:
        """Take an optimiser step with the accumulated gradients.

        Args:
            optimiser: of the parameters.
            clip: maximum norm of all gradients together; 0 = no limit.
        """
        self.scaler.unscale_(optimiser)
        if clip:
            nn.utils.clip_grad_norm_([p for group in optimiser.param_groups for p in group["params"]], clip)
        self.scaler.step(optimiser)
        self.scaler.update()

    def too_much(self, totals: Sequence[int]) -> str:
        """What to do if an iteration with batches of these sizes does not fit into the GPU's memory."""
        most = max(map(distributed.most_of, totals))
        most = min(self.micro_batch or most, most)
        if most == 1:
            return ("out of GPU memory with one image per forward pass (TRAIN.MICRO_BATCH is 1): use a smaller "
                    "DATASET.CROP_SIZE, or a GPU with more memory")
        return f"out of GPU memory with {most} images per forward pass: use TRAIN.MICRO_BATCH {most // 2}"

    def logits(self, network: nn.Module, image: Tensor, seeds: Tensor | None = None) -> Tensor:
        """The network's logits at stride 8, float32, of images [b,3,H,W] -> [b,C,h,w]."""
        kind = torch.float16 if self.precision == "float16" else torch.bfloat16
        with torch.autocast(self.device.type, kind, enabled=self.precision.endswith("16")):
            logits = network(image, seeds)
        return logits.float()

    def slices(self, n: int, largest: int | None = None) -> Iterator[slice]:
        """The micro-batches of `n` images.

        Args:
            n: images of this process; if it has none, there is one empty slice.
            largest: the most images that any process has. If given, all processes get the same number of slices, the
                last of them possibly empty: synchronised BatchNorm waits for every process in every pass.
        """
        largest = max(1, n if largest is None else largest)
        step = self.micro_batch or largest
        for i in range(0, largest, step):
            yield slice(min(i, n), min(i + step, n))

    def called(self, network: nn.Module) -> nn.Module:
        """The network to call: compiled, if so configured."""
        return torch.compile(network) if self.compiled else network


def uses_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether TRAIN.PRECISION means bfloat16 on a device: auto does on CUDA devices that support it natively."""
    return precision == "bfloat16" or (
        precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    )


class Source(NamedTuple):
    """This process's source images on the device."""

    image: Tensor  # float32 [n,3,H,W], normalised
    label: Tensor  # any integer type [n,H,W], 255 = ignored
    seeds: Tensor  # int64 [n], for dropout
    total: int  # B, over all processes


class Images(NamedTuple):
    """This process's unlabelled target images on the device, in the baseline."""

    image: Tensor  # float32 [n,3,H,W], normalised
    total: int  # over all processes


class Views(NamedTuple):
    """This process's views of target images on the device, in the order of the batch (section 4.2)."""

    noisy: Tensor  # x̂, float32 [n,3,H,W], normalised: the student's
    clean: Tensor  # x, likewise: the teacher's
    padding: Tensor  # bool [n,H,W]
    A: Tensor  # [n,2,3], reference coordinates -> view
    A_inv: Tensor  # [n,2,3]
    seeds: Tensor  # int64 [n], for the student's dropout
    total: int  # N·T, over all processes; n if the batch is this process's alone


class Inputs:
    """Turns the loader's batches into a step's inputs: on the device, normalised, with dropout seeds.

    Args:
        device: of the inputs.
        source: statistics that normalise each source list's images.
        target: statistics that normalise the target and everything that is validated.
        totals: source images, and target images or views, per iteration over all processes.
        seed: of the run.
        firsts: index of each source list's first image.
    """

    SOURCE, TARGET = 4, 5  # random streams; those of the data are in datasets

    def __init__(
        self, device: torch.device, source: Sequence[Statistics], target: Statistics, totals: tuple[int, int],
        seed: int, firsts: Sequence[int] = (0,),
    ) -> None:
        self.device, self.source, self.target, self.firsts = device, source, target, firsts
        self.totals, self.seed = totals, seed

    def __call__(self, batch: Iteration, epoch: int, iteration: int) -> tuple[Source | None, Views | Images]:
        """Both domains of an iteration; `epoch` and `iteration` determine the dropout."""
        (b, nt), source = self.totals, None
        if batch.source is not None:
            image, label, padding, _ = self.moved(batch.source)
            lists = np.searchsorted(self.firsts, batch.source.index.tolist(), "right") - 1
            each = map(self.source.__getitem__, lists)
            image = normalise(image, padding, *zip(*each, strict=True))
            source = Source(image, label, dropout_seeds((self.seed, self.SOURCE, epoch, iteration), b), b)
        if isinstance(batch.target, TargetBatch):
            return source, self.views(batch.target, dropout_seeds((self.seed, self.TARGET, epoch, iteration), nt), nt)
        return source, Images(self.images(batch.target), nt)

    def views(self, batch: TargetBatch, seeds: Tensor, total: int) -> Views:
        """This process's share of `total` views, normalised (section 5.7)."""
        noisy, clean, padding, a, a_inv, _ = self.moved(batch)
        noisy, clean = normalise(noisy, padding, *self.target), normalise(clean, padding, *self.target)
        return Views(noisy, clean, padding, a, a_inv, seeds, total)

    def images(self, batch: SourceBatch | ImageBatch) -> Tensor:
        """Images normalised with the target's statistics -> float32 [B,3,H,W]."""
        moved = self.moved(batch)
        return normalise(moved.image, moved.padding, *self.target)

    def moved(self, batch: NamedTuple) -> NamedTuple:
        """A batch on the device, without waiting for it."""
        return type(batch)(*(x.to(self.device, non_blocking=True) for x in batch))


def dropout_seeds(key: tuple[int, ...], total: int) -> Tensor:
    """Dropout seeds of this process's images, int64 [n], by an image's place in the whole batch.

    Args:
        key: the run's seed and numbers that identify the batch, each >= 0.
        total: images of the batch over all processes.
    """
    here = distributed.share(total)
    seeds = torch.empty(here.stop - here.start, dtype=torch.int64)
    for i, place in enumerate(range(here.start, here.stop)):
        seeds[i] = int(np.random.SeedSequence((*key, place)).generate_state(1, np.uint64)[0]) >> 1
    return seeds
