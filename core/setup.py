"""What a run is made of, before it runs: processes and device, networks, optimiser; and the plan in words."""

import os

import torch
from torch import nn
from yacs.config import CfgNode

from core import config, distributed, optim
from core.cli import UserError
from core.compute import Compute, uses_bfloat16
from core.threads import cores
from models import build
from models.sac import SAC


def start_processes(cfg: CfgNode) -> torch.device:
    """Check that the device is there and that the processes can share the batch, and start them."""
    if cfg.TRAIN.DEVICE == "cuda" and not torch.cuda.is_available():
        raise UserError("TRAIN.DEVICE = cuda: there is no CUDA device; use cpu or auto")
    if cfg.TRAIN.DETERMINISTIC:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        torch.use_deterministic_algorithms(True)
    device = distributed.start(cfg.TRAIN.DEVICE)
    config.check_processes(cfg, distributed.size())
    if cfg.MODEL.BASELINE and distributed.size() > 1 and device.type != "cuda":
        raise UserError(
            f"the baseline needs synchronised BatchNorm over its {distributed.size()} processes, which torch has "
            "for CUDA only: use one process on the CPU"
        )
    torch.backends.cudnn.benchmark = device.type == "cuda" and not cfg.TRAIN.DETERMINISTIC
    return device


def default_workers() -> int:
    """Loader processes for one process of training: its share of the machine's cores, at most 8."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return max(1, min(8, cores() // here))


def make_compute(cfg: CfgNode, device: torch.device) -> Compute:
    """How the networks run."""
    train = cfg.TRAIN
    return Compute(device, uses_bfloat16(train.PRECISION, device), train.MICRO_BATCH, train.COMPILE)


def make_networks(
    cfg: CfgNode, classes: int, device: torch.device, init: str
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The networks under the published names, and the optimiser of the student.

    Args:
        cfg: the configuration.
        classes: C.
        device: where they run.
        init: file of ImageNet weights, or "" for random ones.

    Returns:
        A SAC, or for the baseline a ModuleDict with the one network as `backbone`.
    """
    model = cfg.MODEL
    settings = (model.OPT, model.LR, model.MOMENTUM, model.OPT_NESTEROV, model.WEIGHT_DECAY)
    student = build(model.ARCH, classes, init).to(device, memory_format=torch.channels_last)
    if model.BASELINE:
        if distributed.size() > 1:
            student = nn.SyncBatchNorm.convert_sync_batchnorm(student)
        return nn.ModuleDict({"backbone": student}), optim.build_optimiser(student, *settings)
    teacher = build(model.ARCH, classes).to(device, memory_format=torch.channels_last)
    return SAC(student, teacher, classes).to(device), optim.build_optimiser(student, *settings)


def plan(cfg: CfgNode, compute: Compute, workers: int, seed: int) -> str:
    """What an iteration takes, in a line."""
    train = cfg.TRAIN
    views = "" if cfg.MODEL.BASELINE else f" x {train.GROUP_SIZE} views"
    processes = distributed.size()
    return (
        f"plan: {train.BATCH_SIZE} source images and {train.NUM_GROUPS} target images{views} an iteration, "
        f"{processes} process{'es' if processes > 1 else ''}, micro-batch {train.MICRO_BATCH or 'all at once'}, "
        f"{'bfloat16' if compute.bfloat16 else 'float32'} networks, {workers} loader workers a process, seed {seed}"
    )
