"""Compute the cost of an iteration on a GPU, the rate that the loader must deliver, and the length of a run.

The real step runs on tensors without data. Convolutions and matrix products cost their operations, at half of the
card's bfloat16 peak; everything else costs the bytes that it reads and writes, at 80 % of the memory bandwidth. Numbers
take 2 bytes inside the networks and 4 at image size. Computed, not measured: no GPU is needed.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.cli import Parser, run  # isort: skip

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from yacs.config import CfgNode

from core import build, config
from core.compute import Compute
from datasets import labels, target_images
from datasets.iterations import Iteration
from datasets.source import ImageBatch, SourceBatch
from datasets.target import TargetBatch

EXAMPLES = """examples:
  python tools/estimate_time.py --cfg configs/*.yaml
  python tools/estimate_time.py --cfg configs/deeplabv2_resnet101_train.yaml --epochs 100
"""
META = torch.device("meta")
SHARE, STREAM = 0.5, 0.8  # of the peak and of the bandwidth


class Card(NamedTuple):
    """A GPU according to its data sheet, without sparsity."""

    name: str
    tflops: float  # bfloat16, accumulated in float32
    bandwidth: float  # TB/s


CARDS = (Card("A100 80 GB", 312, 2.04), Card("H100 SXM", 989, 3.35), Card("RTX 4090, 24 GB", 165, 1.01))


class Work(TorchDispatchMode):
    """Counts the operations of convolutions and matrix products, and the bytes that everything else moves.

    Args:
        width: of the images; tensors of this width are float32.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.flops, self.bytes = width, 0, 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1
        out = func(*args, **kwargs)
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **kwargs, out_val=out)
        elif not func.is_view:
            tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor) and x.device == META]
            self.bytes += sum(x.numel() * self._size(x) for x in tensors)
        return out

    def _size(self, x: Tensor) -> int:
        if not x.is_floating_point() or x.dim() < 3 or self.width in x.shape[-2:]:
            return x.element_size()
        return 2


class Plain(Compute):
    """Networks without autocast, which does not support tensors without data."""

    def logits(self, network: nn.Module, image: Tensor, seeds: Tensor | None = None) -> Tensor:
        """As in Compute."""
        return network(image, seeds)


def batch(cfg: CfgNode) -> Iteration:
    """What the loader yields for an iteration, without data."""
    size, sac = tuple(cfg.DATASET.CROP_SIZE), not cfg.MODEL.BASELINE

    def images(n: int) -> ImageBatch:
        padding = torch.zeros(n, *size, dtype=torch.bool, device=META)
        return ImageBatch(padding.new_zeros(n, *size, 3, dtype=torch.uint8), padding, torch.zeros(n, dtype=torch.int64))

    source, target = images(cfg.TRAIN.BATCH_SIZE), images(target_images(cfg, 1) * (cfg.TRAIN.GROUP_SIZE if sac else 1))
    source = SourceBatch(source.image, source.padding.byte(), *source[1:])
    if not sac:
        return Iteration(source, target, [])
    maps = torch.zeros(2, len(target.image), 2, 3, device=META)
    return Iteration(source, TargetBatch(target.image, target.image, target.padding, *maps, target.index), [])


def work(cfg: CfgNode) -> Work:
    """The work of an iteration without a teacher update."""
    with META:
        step = build.step(cfg, Plain(META, False), labels.load(cfg.DATASET.CLASSES).num_classes, "")
    inputs, counted = build.inputs(cfg, META, seed=0), Work(cfg.DATASET.CROP_SIZE[1])
    with counted:
        step(*inputs(batch(cfg), 0, 1), 1)
    return counted


def seconds(counted: Work, card: Card) -> float:
    """Seconds of an iteration on a card."""
    return counted.flops / (SHARE * card.tflops * 1e12) + counted.bytes / (STREAM * card.bandwidth * 1e12)


def main() -> None:
    """Parse, compute, print."""
    parser = Parser(description=__doc__, epilog=EXAMPLES)
    add = parser.add_argument
    add("--cfg", required=True, nargs="+", metavar="FILE", help="configurations (YAML)")
    add("--images", type=int, default=9000, metavar="N", help="length of the source list (default: 9000)")
    add("--epochs", type=int, default=100, metavar="N", help="epochs to compute the hours for (default: 100)")
    add("--set", nargs="*", default=[], metavar="KEY VALUE", dest="pairs", help="configuration overrides")
    args = parser.parse_args()
    print("| computed | TFLOP, GB per iteration | GPU | ms per iteration | files read per second | hours |")
    print("| --- " * 6 + "|")
    for file in args.cfg:
        cfg = config.load(file, [*args.pairs, "MODEL.INIT_MODEL", ""])[0]
        counted, groups = work(cfg), target_images(cfg, 1)
        iterations = args.epochs * min(args.images // cfg.TRAIN.BATCH_SIZE, args.images // groups)
        for card in CARDS:
            each = seconds(counted, card)
            print(f"| {Path(file).stem} | {counted.flops / 1e12:.1f}, {counted.bytes / 1e9:.0f} | {card.name} | "
                  f"{1000 * each:.0f} | {(cfg.TRAIN.BATCH_SIZE + groups) / each:.0f} | "
                  f"{iterations * each / 3600:.1f} |", flush=True)


if __name__ == "__main__":
    run(main)
