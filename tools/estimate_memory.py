"""Estimate the GPU memory of a training iteration for several micro-batch sizes, without training and without a GPU.

The real step runs on tensors that have shapes but no data, and the bytes of all tensors that exist at the same time are
counted: weights, gradients, the optimiser's state, images, activations, probabilities. 1 GB is added for CUDA
itself. This is only an estimate: convolution workspaces and memory fragmentation depend on the GPU.
"""

import copy
import sys
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.cli import KEY_VALUE, Parser, UserError, run  # isort: skip

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from yacs.config import CfgNode

from core import build, config
from core.compute import Compute
from datasets import labels, target_images
from datasets.iterations import Iteration
from datasets.source import ImageBatch, SourceBatch
from datasets.target import TargetBatch

EXAMPLES = """examples:
  python tools/estimate_memory.py --cfg configs/deeplabv2_resnet101_train.yaml
  python tools/estimate_memory.py --cfg configs/*_train.yaml --micro-batches 2 0 --set TRAIN.PRECISION bfloat16
"""
GB, CUDA = 1e9, 1e9
CPU = torch.device("cpu")


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of live tensors: `now`, and the maximum so far, `peak`."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.counted: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1  # a number that is read, such as a seed: any will do
        out = func(*args, **(kwargs or {}))
        self.count(x for x in tree_leaves(out) if isinstance(x, Tensor))
        return out

    def count(self, tensors: Iterable[Tensor]) -> None:
        """Count tensors until they are freed, each storage once."""
        for storage in (x.untyped_storage() for x in tensors):
            if storage._cdata not in self.counted:
                self.counted.add(storage._cdata)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)

    def _freed(self, key: int, size: int) -> None:
        self.counted.discard(key)
        self.now -= size


def estimate(cfg: CfgNode, bfloat16: bool, micro_batches: Sequence[int]) -> list[float]:
    """Bytes of an iteration on one GPU, for each micro-batch size (0 = all images at once)."""
    real = build.step(cfg, Compute(CPU, bfloat16), labels.load(cfg.DATASET.CLASSES).num_classes, "")
    fake, peaks = FakeTensorMode(allow_non_fake_inputs=True), []
    with fake, LiveBytes() as live:
        with FakeCopyMode(fake):
            step = copy.deepcopy(real)
        live.count([*step.network.parameters(), *step.network.buffers()])
        make_optimiser_state(step.student, step.optimiser)
        for micro_batch in micro_batches:
            step.compute.micro_batch, live.peak = micro_batch, live.now
            step(*build.inputs(cfg, CPU, seed=0)(batch(cfg), 0, 0), 0)
            peaks.append(live.peak + CUDA)
    return peaks


def make_optimiser_state(network: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Create what the optimiser keeps from its first step on, such as the momentum."""
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def batch(cfg: CfgNode) -> Iteration:
    """What the loader yields for an iteration, without data."""
    size, groups = tuple(cfg.DATASET.CROP_SIZE), target_images(cfg, 1)

    def images(count: int) -> ImageBatch:
        image, padding = torch.zeros(count, *size, 3, dtype=torch.uint8), torch.zeros(count, *size, dtype=torch.bool)
        return ImageBatch(image, padding, torch.zeros(count, dtype=torch.int64))

    source = images(cfg.TRAIN.BATCH_SIZE)
    source = SourceBatch(source.image, source.padding.byte(), source.padding, source.index)
    if cfg.MODEL.BASELINE:
        return Iteration(source, images(groups), [])
    views = images(groups * cfg.TRAIN.GROUP_SIZE)
    maps = torch.zeros(2, len(views.image), 2, 3)
    target = TargetBatch(views.image.clone(), views.image, views.padding, *maps, views.index)
    return Iteration(None if cfg.TRAIN.TARGET_ONLY else source, target, [])


def main() -> None:
    """Parse, estimate, print."""
    parser = Parser(description=__doc__, epilog=EXAMPLES)
    add = parser.add_argument
    add("--cfg", required=True, nargs="+", metavar="FILE", help="configurations (YAML)")
    add("--micro-batches", nargs="+", type=int, default=[1, 2, 4, 0], metavar="N",
        help="sizes to estimate for; 0 = all images at once (default: 1 2 4 0)")
    add("--set", **KEY_VALUE)
    args = parser.parse_args()
    if min(args.micro_batches) < 0:
        raise UserError(f"--micro-batches {min(args.micro_batches)}: expected 1 or more, or 0 for all images at once")
    configurations = {Path(file).name: config.load(file, args.pairs)[0] for file in args.cfg}
    width = max(map(len, configurations))
    columns = "".join(f"{n or 'all':>6}" for n in args.micro_batches)
    print(f"{'GB on one GPU, estimated':{width}} TRAIN.MICRO_BATCH{columns}")
    for name, cfg in configurations.items():
        for precision in ("float32", "bfloat16") if cfg.TRAIN.PRECISION == "auto" else (cfg.TRAIN.PRECISION,):
            sizes = estimate(cfg, precision.endswith("16"), args.micro_batches)
            print(f"{name:{width}} {precision:17}" + "".join(f"{size / GB:6.1f}" for size in sizes), flush=True)


if __name__ == "__main__":
    run(main)
