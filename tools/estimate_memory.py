"""Estimate the GPU memory of a training iteration for several micro-batch sizes, without training and without a GPU.

It counts weights, gradients, momentum and the teacher; the images of an iteration; the activations that the student's
forward pass keeps for the backward pass, and a working copy of the largest of them; logits at full size; and 1 GB for
CUDA itself. This is only an estimate: convolution workspaces and memory fragmentation depend on the GPU.
"""

import sys
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.cli import Parser, run  # isort: skip

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from yacs.config import CfgNode

from core import config
from datasets import labels
from models import build, set_batchnorm

EXAMPLES = """examples:
  python tools/estimate_memory.py --cfg configs/deeplabv2_resnet101_train.yaml
  python tools/estimate_memory.py --cfg configs/deeplabv2_resnet101_train.yaml --set TRAIN.PRECISION bfloat16
"""
GB, CUDA = 1e9, 1e9


def kept(cfg: CfgNode, classes: int, images: int, bfloat16: bool) -> tuple[float, float, float]:
    """Bytes of the weights, of all activations that the forward pass of `images` keeps, and of the largest of them."""
    sizes: dict[int, int] = {}

    def note(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        sizes.setdefault(storage._cdata, storage.nbytes())
        return x

    network = made(cfg.MODEL.ARCH, classes)
    set_batchnorm(network, cfg.MODEL.BASELINE)
    weights = sum(p.numel() * 4 for p in network.parameters())
    with FakeTensorMode() as fake:  # shapes without numbers
        state = {name: fake.from_tensor(x) for name, x in [*network.named_parameters(), *network.named_buffers()]}
        own = {x.untyped_storage()._cdata for x in state.values()}
        image = torch.zeros(images, 3, *cfg.DATASET.CROP_SIZE)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                logits = torch.func.functional_call(network, state, (image,))
        activations = [n for storage, n in sizes.items() if storage not in own]
        del logits
    return weights, sum(activations), max(activations)


@cache
def made(arch: str, classes: int) -> torch.nn.Module:
    """A network in training mode, built once."""
    return build(arch, classes).train()


def estimate(cfg: CfgNode, classes: int, micro_batch: int, bfloat16: bool) -> float:
    """Bytes that an iteration takes on one GPU."""
    train, pixels = cfg.TRAIN, cfg.DATASET.CROP_SIZE[0] * cfg.DATASET.CROP_SIZE[1]
    sac = not cfg.MODEL.BASELINE
    views = train.NUM_GROUPS * (train.GROUP_SIZE if sac else 1)
    weights, activations, largest = kept(cfg, classes, micro_batch, bfloat16)
    images = (train.BATCH_SIZE + views * (2 if sac else 1)) * 3 * pixels * 4
    full_size = (2 * micro_batch + 2 * sac) * classes * pixels * 4  # probabilities and their gradient; m and the merged
    return weights * (4 if sac else 3) + images + activations + 2 * largest + full_size + CUDA


def main() -> None:
    """Parse, estimate, print."""
    parser = Parser(description=__doc__, epilog=EXAMPLES)
    add = parser.add_argument
    add("--cfg", required=True, metavar="FILE", help="configuration (YAML)")
    add("--micro-batches", nargs="+", type=int, default=[1, 2, 4, 8], metavar="N",
        help="sizes to estimate for (default: 1 2 4 8)")
    add("--set", nargs="*", default=[], metavar="KEY VALUE", dest="pairs", help="configuration overrides")
    args = parser.parse_args()
    cfg, _ = config.load(args.cfg, args.pairs)
    classes = labels.load(cfg.DATASET.CLASSES).num_classes
    print("estimated memory of an iteration on one GPU, in GB")
    for precision in ("float32", "bfloat16") if cfg.TRAIN.PRECISION == "auto" else (cfg.TRAIN.PRECISION,):
        for micro_batch in args.micro_batches:
            size = estimate(cfg, classes, micro_batch, precision == "bfloat16") / GB
            print(f"{precision:<9} TRAIN.MICRO_BATCH {micro_batch}: {size:5.1f}")


if __name__ == "__main__":
    run(main)
