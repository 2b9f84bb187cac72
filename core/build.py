"""Builds the parts of a run from the configuration; the parts take plain values and do not know it."""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from yacs.config import CfgNode

from core import config, distributed, optim, resume
from core.alarms import Finding, label_findings
from core.cli import UserError, cores
from core.compute import Compute, Inputs
from core.log import Log
from core.metrics import class_counts, without
from core.recompute import recompute
from core.steps import BaselineStep, Method, SACStep, no_change
from core.validation import Validation
from datasets import Data, check_shared_memory, labels, shares, target_images
from datasets.images import DataError, read_label
from datasets.labels import LabelSet
from datasets.lists import Sample
from datasets.transforms import renormalised
from models import build, has_batchnorm, synchronised
from models.sac import SAC

SOURCE_ONLY = "no BatchNorm: this baseline is trained on the source only"
LOOKED_AT = 8  # labels inspected at the start of a run
MOST_WORKERS = 16  # by default: enough to feed a current GPU from prepared images (docs/performance.md)


@dataclass(frozen=True)
class Intervals:
    """How often a run does what, with the configuration keys."""

    epochs: int  # TRAIN.NUM_EPOCHS
    most_iterations: int  # TRAIN.MAX_ITER, 0 = no limit
    snapshot: int  # TRAIN.SNAPSHOT_ITER, iterations
    lists: int  # LOG.ITER_VAL, epochs
    target: int  # LOG.ITER_TARGET, epochs; 0 = never, in the baseline


def intervals(cfg: CfgNode) -> Intervals:
    """The intervals of a run."""
    train, log = cfg.TRAIN, cfg.LOG
    target = 0 if cfg.MODEL.BASELINE else log.ITER_TARGET
    return Intervals(train.NUM_EPOCHS, train.MAX_ITER, train.SNAPSHOT_ITER, log.ITER_VAL, target)


def start_processes(cfg: CfgNode) -> torch.device:
    """Start the processes; UserError if the device is missing, or if there are more processes than images."""
    if cfg.TRAIN.DEVICE == "cuda" and not torch.cuda.is_available():
        raise UserError("TRAIN.DEVICE = cuda: there is no CUDA device; use cpu or auto")
    if cfg.TRAIN.DETERMINISTIC:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        torch.use_deterministic_algorithms(True)
    device = distributed.start(cfg.TRAIN.DEVICE)
    if distributed.size() > cfg.TRAIN.BATCH_SIZE:
        raise UserError(f"{distributed.size()} processes cannot share the {cfg.TRAIN.BATCH_SIZE} source images of an "
                        f"iteration: use at most {cfg.TRAIN.BATCH_SIZE} (NUM_GPUS), or a larger TRAIN.BATCH_SIZE")
    torch.backends.cudnn.benchmark = device.type == "cuda" and not cfg.TRAIN.DETERMINISTIC
    return device


def label_set(cfg: CfgNode) -> LabelSet:
    """The classes; UserError if the ignored classes do not fit them."""
    found = labels.load(cfg.DATASET.CLASSES)
    config.check_classes(cfg, found.num_classes)
    return found


def workers(cfg: CfgNode, given: int | None) -> int:
    """Loader processes per training process: `given`, or its share of the machine's cores, at most 16.

    Raises:
        UserError: they need more shared memory than is free.
    """
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    chosen = max(1, min(MOST_WORKERS, cores() // here)) if given is None else given
    check_shared_memory(cfg, chosen, distributed.size(), here)
    return chosen


def compute(cfg: CfgNode, device: torch.device) -> Compute:
    """How the networks run."""
    train = cfg.TRAIN
    return Compute.of(train.PRECISION, device, train.MICRO_BATCH, train.COMPILE)


def constants(cfg: CfgNode) -> Method:
    """The method's constants."""
    model = cfg.MODEL
    return Method(
        views=cfg.TRAIN.GROUP_SIZE, lr_target=model.LR_TARGET,
        net_momentum=model.NET_MOMENTUM, net_momentum_iter=model.NET_MOMENTUM_ITER,
        stat_momentum=model.STAT_MOMENTUM, fusion=model.CONF_POOL if model.CONF_POOL_ON else "",
        upper=model.RUN_CONF_UPPER, lower=model.RUN_CONF_LOWER, beta=model.THRESHOLD_BETA,
        discount=model.CONF_DISCOUNT, loss=model.LOSS, focal_p=model.FOCAL_P, ramp=model.LR_TARGET_RAMP,
    )


def step(cfg: CfgNode, compute: Compute, classes: int, init: str) -> BaselineStep | SACStep:
    """The networks, the student's optimiser, and the step that trains them.

    Args:
        cfg: the configuration.
        compute: how the networks run.
        classes: C.
        init: file of ImageNet weights, or "" for random ones.
    """
    student = _network(cfg, compute, classes, init)
    if cfg.TRAIN.CHECKPOINT:
        recompute(student)
    model = cfg.MODEL
    optimiser = optim.build_optimiser(
        student, model.OPT, model.LR, model.MOMENTUM, model.OPT_NESTEROV, model.WEIGHT_DECAY, model.BETA1,
        model.LAYER_DECAY)
    if not cfg.MODEL.BASELINE:
        network = SAC(student, _network(cfg, compute, classes, ""), classes).to(compute.device)
        return SACStep(network, optimiser, compute, constants(cfg), model.CLIP_GRAD)
    return BaselineStep(student, optimiser, compute, model.CLIP_GRAD)


def rates(
    cfg: CfgNode, optimiser: torch.optim.Optimizer, progress: resume.Progress, per_epoch: int
) -> Callable[[int], None]:
    """The learning rate schedule over the whole run, wherever it resumes."""
    if cfg.MODEL.SCHEDULE == "constant" and not cfg.MODEL.WARMUP_ITER:
        return no_change
    total = progress.step + (cfg.TRAIN.NUM_EPOCHS - progress.epoch) * per_epoch - progress.iteration
    return optim.Rates(optimiser, cfg.MODEL.SCHEDULE, cfg.MODEL.WARMUP_ITER, total)


def _network(cfg: CfgNode, compute: Compute, classes: int, init: str) -> nn.Module:
    network = build(cfg.MODEL.ARCH, classes, init, **config.network_options(cfg))
    network = network.to(compute.device, memory_format=torch.channels_last)
    if not cfg.MODEL.BASELINE or distributed.size() == 1 or not has_batchnorm(network):
        return network
    if compute.device.type != "cuda":
        raise UserError(
            f"the baseline needs synchronised BatchNorm over its {distributed.size()} processes, which torch only "
            "supports on CUDA: use one process on the CPU"
        )
    return synchronised(network)


def inputs(cfg: CfgNode, device: torch.device, seed: int, firsts: Sequence[int] = (0,)) -> Inputs:
    """What turns the loader's batches into inputs of the step; `firsts`: index of each source list's first image."""
    data = cfg.DATASET
    target = data.MEAN, data.STD
    source = [target] * len(firsts)
    if data.RENORM_SOURCE:
        own = [(data.SOURCE_MEAN[i : i + 3], data.SOURCE_STD[i : i + 3]) for i in range(0, 3 * len(firsts), 3)]
        source = [renormalised(*target, *given, data.TARGET_MEAN, data.TARGET_STD) for given in own]
    views = 1 if cfg.MODEL.BASELINE else cfg.TRAIN.GROUP_SIZE
    totals = cfg.TRAIN.BATCH_SIZE, target_images(cfg, distributed.size()) * views
    return Inputs(device, source, target, totals, seed, firsts)


def validation(cfg: CfgNode, data: Data, inputs: Inputs, log: Log, agree: Callable[..., int]) -> Validation:
    """The validation during training."""
    picture = tuple(cfg.TB.IM_SIZE)
    return Validation(data, label_set(cfg), cfg.VAL.IGNORE_CLASS, inputs, log, picture, agree)


def identity(cfg: CfgNode, data: Data) -> dict[str, Any]:
    """What identifies the run in its snapshots; a resumed run is checked against it."""
    sources, mixture = [data.samples[name] for name in data.ignored], data.iterations.mixture
    lists = {"source": digest(chain(*sources)), "target": digest(data.samples[data.target_list])}
    if len(sources) > 1:
        lists["turns"] = f"{mixture.lists} {mixture.turns}"
    return {
        "seed": data.seed, "baseline": cfg.MODEL.BASELINE, "per_epoch": data.iterations.per_epoch, "lists": lists,
        "config": cfg.dump(), "init": cfg.MODEL.INIT_MODEL, "arch": cfg.MODEL.ENCODER or cfg.MODEL.ARCH,
        "num_epochs": cfg.TRAIN.NUM_EPOCHS,
    }


def digest(samples: Iterable[Sample]) -> str:
    """A fingerprint of a list's lines, in order."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(f"{sample.image}\n{sample.label}\n".encode())
    return digest.hexdigest()


def plan(cfg: CfgNode, compute: Compute, workers: int, seed: int) -> str:
    """A line that describes an iteration."""
    train, processes = cfg.TRAIN, distributed.size()
    targets, views = target_images(cfg, processes), "" if cfg.MODEL.BASELINE else f" x {train.GROUP_SIZE} views"
    raised = f" (TRAIN.NUM_GROUPS = {train.NUM_GROUPS}, at least one per process)" if targets > train.NUM_GROUPS else ""
    mixed = f" ({':'.join(map(str, shares(cfg)))} of {', '.join(train.TASK)})" if len(train.TASK) > 1 else ""
    return (
        f"plan: {train.BATCH_SIZE} source images{mixed} and {targets} target images{views} per iteration{raised}, "
        f"{processes} process{'es' if processes > 1 else ''}, micro-batch {train.MICRO_BATCH or 'all at once'}, "
        f"{compute.precision} networks, {workers} loader workers per process, seed {seed}"
    )


def useless_labels(data: Data, name: str) -> list[Finding]:
    """Why a source list's labels are useless for training, if they are; looks at a few, evenly spread."""
    samples, counts = data.samples[name], np.zeros(256, np.int64)
    for sample in samples[:: max(1, len(samples) // LOOKED_AT)][:LOOKED_AT]:
        with suppress(DataError):  # training itself reports unusable files
            counts += class_counts(read_label(Path(data.root, sample.label), data.num_classes))
    return label_findings(without(counts, data.ignored[name]), data.class_names)


def introduce(cfg: CfgNode, data: Data, step: BaselineStep | SACStep, log: Log) -> None:
    """Log what a run is about to do."""
    if cfg.MODEL.BASELINE and not step.adapts:
        log.say(SOURCE_ONLY)
    if data.missing:
        log.say(f"validation lists that do not exist are skipped: {', '.join(data.missing)}")
    if not data.lists:
        log.say("there is no list to validate on (VAL.LISTS): no validation")
    log.say(f"the best snapshots are chosen by their mIoU on {data.select}" if data.select
            else "there is no list to choose the best snapshots by: last.pth is the result")
    if data.select and (trained := data.trained_on(data.select)):
        log.warn(f"{trained} images of {data.select} are trained on too: the score is optimistic, and their labels "
                 "choose the best snapshots (for another list, set VAL.SELECT)")
    for name in data.ignored:
        for finding in useless_labels(data, name):
            log.warn(f"list {name}, judging by {LOOKED_AT} of its labels: {finding.text}")
    log.say(plan(cfg, step.compute, data.workers, data.seed))
    if (machines := distributed.machines()) > 1:
        log.say(f"{machines} machines: each reads the lists, images and weights from its own disk or a shared one; "
                "only the first reads the snapshot to start from, and writes snapshots and logs")
