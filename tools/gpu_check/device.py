"""Measurements on the device itself; each function runs in its own process."""

import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

from core import build, config, distributed
from core.cli import UserError
from datasets import Data
from datasets.iterations import Iteration
from datasets.source import SourceBatch
from datasets.target import TargetBatch

ROOT = Path(__file__).resolve().parents[2]
CLASSES = 19
SMALL = ("MODEL.ARCH deeplabv2_resnet18 DATASET.CROP_SIZE 32,64 TRAIN.BATCH_SIZE 2 TRAIN.NUM_GROUPS 1 "
         "TRAIN.GROUP_SIZE 2").split()  # CPUs that only emulate bfloat16 are slow


def machine(device: str) -> dict[str, Any]:
    """Versions and cards; UserError if the device is missing or too old."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("there is no CUDA device: rehearse with --device cpu")
    distributed.start(device)
    found = {"python": platform.python_version(), "torch": str(torch.__version__)}
    if device == "cpu":
        return found | {"cards": 0}
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(query, capture_output=True, text=True).stdout.split("\n")[0]
    cards = range(torch.cuda.device_count())
    return found | {
        "cards": len(cards), "names": [torch.cuda.get_device_name(i) for i in cards], "driver": driver,
        "capability": [".".join(map(str, torch.cuda.get_device_capability(i))) for i in cards],
        "GB": [round(torch.cuda.get_device_properties(i).total_memory / 1e9, 1) for i in cards],
        "kernels": torch.cuda.get_arch_list(), "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
        "nccl": ".".join(map(str, torch.cuda.nccl.version())),
    }


def published(device: torch.device, *pairs: str) -> config.CfgNode:
    """SAC with ResNet-101; on the CPU, a small network and small crops, as a rehearsal."""
    small = SMALL if device.type == "cpu" else ()
    file = ROOT / "configs" / "deeplabv2_resnet101_train.yaml"
    return config.load(str(file), ["MODEL.INIT_MODEL", "", "MODEL.LR", "1e-5", *small, *pairs])[0]


def batch(cfg: config.CfgNode) -> Iteration:
    """Random images, in the form that the loader yields."""
    size, views = tuple(cfg.DATASET.CROP_SIZE), cfg.TRAIN.NUM_GROUPS * cfg.TRAIN.GROUP_SIZE

    def random(n: int, *more: int, high: int = 256) -> torch.Tensor:
        return torch.randint(0, high, (n, *size, *more), dtype=torch.uint8)

    n, padding = cfg.TRAIN.BATCH_SIZE, torch.zeros(views, *size, dtype=torch.bool)
    source = SourceBatch(random(n, 3), random(n, high=CLASSES), padding[:1].expand(n, -1, -1), torch.arange(n))
    maps = torch.eye(2, 3).repeat(views, 1, 1)
    target = TargetBatch(random(views, 3), random(views, 3), padding, maps, maps, torch.arange(views))
    return Iteration(source, target, [])


def steps(device: torch.device, precision: str, micro_batch: int, watched: bool) -> None:
    """Three iterations of the published step; if `watched`, waiting for the device in the last two is an error."""
    cfg = published(device, "TRAIN.PRECISION", precision, "TRAIN.MICRO_BATCH", str(micro_batch))
    step = build.step(cfg, build.compute(cfg, device), CLASSES, "")
    inputs, loaded = build.inputs(cfg, device, 0), batch(cfg)
    step(*inputs(loaded, 0, 0), 0)  # the teacher's first update, which reads a number back
    if watched and device.type == "cuda":
        loaded = Iteration(*(type(part)(*(x.pin_memory() for x in part)) for part in loaded[:2]), [])
        torch.cuda.set_sync_debug_mode("error")
    for i in (1, 2):
        step(*inputs(loaded, 0, i), i)
    if watched and device.type == "cuda":
        torch.cuda.set_sync_debug_mode("default")


def peak(device_name: str, precision: str, micro_batch: int, cap: float) -> float | None:
    """Peak memory in GB of the published step in a process limited to `cap` GB; None on the CPU."""
    device = distributed.start(device_name)
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        if total < cap * 1e9:
            raise UserError(f"the card has {total / 1e9:.0f} GB")
        torch.cuda.set_per_process_memory_fraction(cap * 1e9 / total)
    steps(device, precision, micro_batch, watched=False)
    return torch.cuda.max_memory_reserved() / 1e9 if device.type == "cuda" else None


def waits(device_name: str) -> bool:
    """Whether a wait would have been noticed; raises if the step waits for the device."""
    device = distributed.start(device_name)
    steps(device, "auto", 4 if device.type == "cuda" else 0, watched=True)
    return device.type == "cuda"


def loader(root: str, workers: int, small: bool) -> float:
    """Images per second of the loader for SAC with ResNet-101, from files of any size."""
    pairs = ["DATASET.ROOT", root, "TRAIN.NUM_EPOCHS", "100000"]
    cfg = published(torch.device("cpu" if small else "cuda"), *pairs, *(["DATASET.GAME_SIZE", "[]"] if small else []))
    batches = iter(Data(cfg, workers=workers).training())
    warm_up, count = (2 * workers + 2, 4 if small else 40)
    for _ in range(warm_up):
        next(batches)
    start = time.perf_counter()
    for _ in range(count):
        next(batches)
    images = cfg.TRAIN.BATCH_SIZE + cfg.TRAIN.NUM_GROUPS * cfg.TRAIN.GROUP_SIZE
    return images * count / (time.perf_counter() - start)
