"""The device: batches come to it and are normalised; networks run on it in some precision and by micro-batches."""

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

# What torch's scaler keeps.
SCALER = {
    "scale": float, "growth_factor": float, "backoff_factor": float, "growth_interval": int, "_growth_tracker": int}
Statistics = tuple[Sequence[float], Sequence[float]]  # mean and deviation of red, green, blue, in 0 ... 1


class Compute:
    """How the networks run; what they compute does not depend on it, but for rounding.

    Args:
        device: where.
        bfloat16: autocast around the networks, and around nothing else.
        micro_batch: images per forward pass; 0 = all at once.
        compiled: torch.compile the networks.
        tf32: let the GPU's convolutions, which only networks have, round their inputs to TF32.
        float16: autocast to float16 in the place of bfloat16, with losses scaled so that no gradient becomes 0.
    """

    def __init__(
        self, device: torch.device, bfloat16: bool, micro_batch: int = 0, compiled: bool = False, tf32: bool = False,
        float16: bool = False,
    ) -> None:
        self.device, self.bfloat16, self.micro_batch, self.compiled = device, bfloat16, micro_batch, compiled
        self.precision = "float16" if float16 else "bfloat16" if bfloat16 else "TF32" if tf32 else "float32"
        self.scaler = torch.amp.GradScaler(device.type, enabled=float16)
        if device.type == "cuda":
            # torch allows it by default. The mathematics' matrix products (affine_grid's) stay exact in any case.
            torch.backends.cudnn.allow_tf32 = tf32

    @classmethod
    def of(cls, precision: str, device: torch.device, micro_batch: int = 0, compiled: bool = False) -> "Compute":
        """From TRAIN.PRECISION; TF32 is float32 where the device has none."""
        tf32 = precision == "tf32" and device.type == "cuda"
        return cls(device, uses_bfloat16(precision, device), micro_batch, compiled, tf32, precision == "float16")

    def state(self) -> dict[str, Any]:
        """What a snapshot needs of it, as plain values."""
        return {"scaler": self.scaler.state_dict()} if self.scaler.is_enabled() else {}

    def restore(self, state: Mapping[str, Any], path: str) -> None:
        """Take over what a run has kept by `state` in the snapshot `path`, as far as it is needed now.

        Raises:
            UserError: it makes no sense.
        """
        if self.scaler.is_enabled() and "scaler" in state:
            try:
                self.scaler.load_state_dict({name: kind(state["scaler"][name]) for name, kind in SCALER.items()})
            except (KeyError, TypeError, ValueError):
                raise UserError(f"{path} is damaged: its entry 'scaler' makes no sense; start from an earlier snapshot "
                                "with --resume and another --run") from None

    def take_step(self, optimiser: torch.optim.Optimizer, clip: float) -> None:
        """Move the parameters along their gradients, which are complete.

        Args:
            optimiser: of the parameters.
            clip: the largest norm of all gradients together; 0 = any.
        """
        self.scaler.unscale_(optimiser)
        if clip:
            nn.utils.clip_grad_norm_([p for group in optimiser.param_groups for p in group["params"]], clip)
        self.scaler.step(optimiser)
        self.scaler.update()

    def too_much(self, totals: Sequence[int]) -> str:
        """What to do where the GPU's memory does not hold an iteration with batches of these sizes."""
        most = max(map(distributed.most_of, totals))
        most = min(self.micro_batch or most, most)
        if most == 1:
            return ("the GPU's memory does not hold the passes of one image (TRAIN.MICRO_BATCH is 1): use a smaller "
                    "DATASET.CROP_SIZE, or a GPU with more memory")
        return f"the GPU's memory does not hold {most} images per forward pass: use TRAIN.MICRO_BATCH {most // 2}"

    def logits(self, network: nn.Module, image: Tensor, seeds: Tensor | None = None) -> Tensor:
        """The network's logits at stride 8, float32, of images [b,3,H,W] -> [b,C,h,w]."""
        kind = torch.float16 if self.precision == "float16" else torch.bfloat16
        with torch.autocast(self.device.type, kind, enabled=self.precision.endswith("16")):
            logits = network(image, seeds)
        return logits.float()

    def slices(self, n: int, largest: int | None = None) -> Iterator[slice]:
        """The micro-batches of `n` images.

        Args:
            n: images of this process; where it has none, there is one empty slice.
            largest: the most that a process has. Where given, all processes get as many slices, of which the last may
                be empty: synchronised BatchNorm waits for every process in every pass.
        """
        largest = max(1, n if largest is None else largest)
        step = self.micro_batch or largest
        for i in range(0, largest, step):
            yield slice(min(i, n), min(i + step, n))

    def called(self, network: nn.Module) -> nn.Module:
        """The network as it is called: compiled, where that is wanted."""
        return torch.compile(network) if self.compiled else network


def uses_bfloat16(precision: str, device: torch.device) -> bool:
    """TRAIN.PRECISION on a device: auto = bfloat16 on CUDA devices that compute in it, float32 elsewhere."""
    return precision == "bfloat16" or (
        precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    )


class Source(NamedTuple):
    """This process's source images on the device."""

    image: Tensor  # float32 [n,3,H,W], normalised
    label: Tensor  # any integer type [n,H,W], 255 = ignored
    seeds: Tensor  # int64 [n], of the dropout
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
    seeds: Tensor  # int64 [n], of the student's dropout
    total: int  # N·T, over all processes; n where this process's images are its own


class Inputs:
    """From what the loader gives to what a step takes: on the device, normalised, with the seeds of the dropout.

    Args:
        device: where it goes.
        source: what the images of each source list are normalised with.
        target: what the target, and everything that is validated, is normalised with.
        totals: source images, and target images or views, per iteration over all processes.
        seed: of the run.
        firsts: index of each source list's first image.
    """

    SOURCE, TARGET = 4, 5  # streams of random numbers; those of the data are in datasets

    def __init__(
        self, device: torch.device, source: Sequence[Statistics], target: Statistics, totals: tuple[int, int],
        seed: int, firsts: Sequence[int] = (0,),
    ) -> None:
        self.device, self.source, self.target, self.firsts = device, source, target, firsts
        self.totals, self.seed = totals, seed

    def __call__(self, batch: Iteration, epoch: int, iteration: int) -> tuple[Source | None, Views | Images]:
        """Both domains of an iteration, whose numbers decide on the dropout."""
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
        """Views, this process's of `total` ones, normalised (section 5.7)."""
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
    """A seed for the dropout of each of this process's images, int64 [n], by the image's place in the whole batch.

    Args:
        key: the run's seed and what tells this batch from all others, each >= 0.
        total: images of the batch over all processes.
    """
    here = distributed.share(total)
    seeds = torch.empty(here.stop - here.start, dtype=torch.int64)
    for i, place in enumerate(range(here.start, here.stop)):
        seeds[i] = int(np.random.SeedSequence((*key, place)).generate_state(1, np.uint64)[0]) >> 1
    return seeds
