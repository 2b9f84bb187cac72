"""The published ResNet-101 step on a CUDA device: time against its arithmetic, memory, and the loader that feeds it."""

import gc
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median

import torch
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from core.cli import cores
from core.compute import Compute, Source, Views
from core.steps import SACStep
from datasets.iterations import Iterations, Schedule
from models import NETWORKS
from tools.benchmarks import loading
from tools.benchmarks.material import Material, Settings, published
from tools.benchmarks.measure import Row, seconds
from tools.benchmarks.training import CLASSES, batch, networks_alone, sac_step

IMAGES = 16  # per iteration: 8 source images, and 4 views of each of 2 target images


def timed(function: Callable[[], object], runs: int, warm_up: int = 3) -> float:
    """Median seconds of a function's work on the device, timed with CUDA events."""
    for _ in range(warm_up):
        function()
    times = []
    for _ in range(runs):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return median(times)


def matrix_rate(side: int = 8192) -> float:
    """Operations per second of a bfloat16 product of random matrices."""
    a, b = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / timed(lambda: a @ b, 20)


def rows(material: Material, settings: Settings) -> Iterator[Row]:
    """The step, eager and compiled; smaller micro-batches; the loader."""
    torch.backends.cudnn.benchmark = True  # as in train.py
    rate, work = matrix_rate(), arithmetic(settings)
    whole = step_row(settings, rate, work, 0)
    yield whole
    what = "the step's networks alone, in its batches; floor: as above"
    taken = timed(partial(networks_alone, *prepared(settings, 0)), 2 * settings.runs)
    yield Row("gpu_networks", what, taken, work / rate)
    for micro_batch in (4, 2, 1):
        yield step_row(settings, rate, work, micro_batch)
    for workers in (8, 16):
        yield loader_row(material, settings, workers, whole.seconds)
    yield step_row(settings, rate, work, 0, compiled=True)


def step_row(settings: Settings, rate: float, work: float, micro_batch: int, compiled: bool = False) -> Row:
    """A whole iteration in bfloat16 and channels-last: time and peak memory."""
    step, source, views = prepared(settings, micro_batch, compiled)
    torch.cuda.reset_peak_memory_stats()
    taken = timed(partial(step, source, views, 1), 2 * settings.runs)
    peak = torch.cuda.max_memory_allocated() / 1e9
    name = "gpu_step" + ("_compiled" if compiled else "") + (f"_micro_{micro_batch}" if micro_batch else "")
    crops = f"{len(source.image)} + {len(views.clean)} crops of {settings.crop[0]}x{settings.crop[1]}"
    what = f"{crops}, {settings.network}, bfloat16; floor: its arithmetic at the rate of a matrix product"
    figures = {"images_per_second": IMAGES / taken, "peak_GB": peak, "floor_TFLOP": work / 1e12,
               "matrix_TFLOPS": rate / 1e12}
    more = {key: round(value, 2) for key, value in figures.items()} | {"device": torch.cuda.get_device_name()}
    return Row(name, what, taken, work / rate, 2.0, more)


def prepared(settings: Settings, micro_batch: int, compiled: bool = False) -> tuple[SACStep, Source, Views]:
    """A step and its batch, with the device memory emptied first."""
    gc.collect()
    torch.cuda.empty_cache()
    device, cfg = torch.device("cuda", 0), published(settings, "MODEL.LR", "1e-5")
    compute = Compute(device, bfloat16=True, micro_batch=micro_batch, compiled=compiled)
    return sac_step(cfg, compute), *batch(cfg, device)


def arithmetic(settings: Settings) -> int:
    """Floating-point operations of an iteration's networks, counted without computing them."""
    with torch.device("meta"):
        network = NETWORKS[settings.network](CLASSES).to("meta")
        image = torch.zeros(1, 3, *settings.crop)
    with FlopCounterMode(display=False) as whole:
        network(image).sum().backward()
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        network(image)
    return IMAGES * whole.get_total_flops() + IMAGES // 2 * forward.get_total_flops()  # the teacher sees half of them


def loader_row(material: Material, settings: Settings, workers: int, step_seconds: float) -> Row:
    """Seconds the loader takes for an iteration's images."""
    cfg = published(settings)
    source, target, train = loading.source(material, cfg), loading.target(material, cfg), cfg.TRAIN
    data = Iterations(source, target, lengths=[len(source)], batch=train.BATCH_SIZE, groups=train.NUM_GROUPS, seed=0)
    count, warm_up = (6, 2) if settings.quick else (80, 24)
    loader = DataLoader(data, batch_size=None, sampler=Schedule(data.per_epoch, count + warm_up), num_workers=workers,
                        pin_memory=True, prefetch_factor=2)
    batches = iter(loader)

    def take(n: int) -> None:
        for _ in range(n):
            next(batches)

    take(warm_up)
    taken = seconds(partial(take, count)) / count
    what = f"an iteration's images, {workers} workers on {cores()} cores; compared with: the step that consumes them"
    return Row(f"gpu_loader_{workers}", what, taken, step_seconds, more={"images_per_second": round(IMAGES / taken, 1)})
