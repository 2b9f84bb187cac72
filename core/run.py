"""A run's place on the disk, its lock, its provenance, and where it starts from."""

import fcntl
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torchvision

from core import checkpoint
from core.cli import UserError
from models.sac import SAC


@dataclass(frozen=True)
class Run:
    """A run by name: `{snapshots,logs}/{dataloader}/{exp}/{run}`."""

    exp: str
    run: str
    dataloader: str = "cityscapes"
    snapshot_dir: str = "snapshots"
    log_dir: str = "logs"

    def __post_init__(self) -> None:
        """Refuse names that are no folder's: they would lead out of snapshots and logs."""
        for option in ("exp", "run", "dataloader"):
            name = getattr(self, option)
            if name in ("", ".", "..") or "/" in name:
                raise UserError(f"--{option} {name!r}: expected the name of a folder, without '/'")

    @property
    def snapshots(self) -> Path:
        """Where its snapshots lie."""
        return Path(self.snapshot_dir, self.dataloader, self.exp, self.run)

    @property
    def logs(self) -> Path:
        """Where its logs lie."""
        return Path(self.log_dir, self.dataloader, self.exp, self.run)

    @property
    def last(self) -> Path:
        """The snapshot that an interrupted run goes on from."""
        return self.snapshots / "last.pth"

    def lock(self) -> object:
        """Keep other runs out of the folder while this process lives; the system releases it, whatever happens.

        Raises:
            UserError: another run has it, or the folder cannot be made.
        """
        try:
            self.snapshots.mkdir(parents=True, exist_ok=True)
            # Readable and writable by the owner alone; the file stays, it holds nothing.
            file = open(self.snapshots / ".lock", "w")
        except OSError as error:
            raise UserError(f"cannot write snapshots to {self.snapshots}: {error}") from None
        try:
            # Unlike flock's, this lock is not inherited by the loader's workers, who may live on for seconds.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise UserError(f"another run is writing to {self.snapshots}; wait for it, or choose another --run"
                            ) from None
        except OSError:
            pass  # a network file system without locks: nothing can be promised there
        return file


def provenance(device: torch.device) -> dict[str, str]:
    """What this run's numbers come from: commit, versions, device, command line."""
    root = Path(__file__).resolve().parents[1]
    git = subprocess.run(["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
                         capture_output=True, text=True) if (root / ".git").exists() else None
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "commit": git.stdout.strip() if git and git.returncode == 0 else "",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "device": f"{device.type} ({name})",
        "command": " ".join([os.path.basename(sys.executable), *sys.argv]),
    }


def start_sac(sac: SAC, optimiser: torch.optim.Optimizer, path: str, arch: str) -> tuple[int, list[str]]:
    """Start SAC from a snapshot of a baseline, or of SAC (section 8b, C8).

    Returns:
        The epochs done, and lines that say what was taken and what was not.
    """
    state = checkpoint.load(path)
    model = state["model"]
    checkpoint.load_into(sac.backbone, checkpoint.part(model, checkpoint.STUDENT), path, arch)
    taken, left = ["student"], []
    if checkpoint.has_teacher(model):
        checkpoint.load_into(sac.slow_net, checkpoint.part(model, checkpoint.TEACHER), path, f"{arch} (teacher)")
        prior = model.get("running_conf", torch.zeros(0))
        if prior.shape != sac.running_conf.shape:
            raise UserError(f"{path}: its class prior has {prior.numel()} classes, "
                            f"this run {len(sac.running_conf)}; see DATASET.CLASSES")
        sac.running_conf.copy_(prior)
        sac.slow_init.fill_(1)
        taken += ["teacher", "class prior"]
    else:
        left.append("teacher and class prior (it has none: the teacher starts as the student)")
    return _carry_over(optimiser, state, path, taken, left)


def start_baseline(
    network: torch.nn.Module, optimiser: torch.optim.Optimizer, path: str, arch: str
) -> tuple[int, list[str]]:
    """Start a baseline from another run's snapshot; see `start_sac`."""
    state = checkpoint.load(path)
    checkpoint.load_into(network, checkpoint.part(state["model"], checkpoint.STUDENT), path, arch)
    left = ["teacher and class prior (a baseline has none)"] if "slow_init" in state["model"] else []
    return _carry_over(optimiser, state, path, ["student"], left)


def _carry_over(
    optimiser: torch.optim.Optimizer, state: dict[str, Any], path: str, taken: list[str], left: list[str]
) -> tuple[int, list[str]]:
    momentum = checkpoint.carry_momentum(optimiser, state.get("opt"), path)
    (taken if momentum else left).append("the optimiser's momentum")
    epoch = state.get("epoch", 0)
    if not isinstance(epoch, int) or epoch < 0:
        raise UserError(f"snapshot {path}: its epoch count is {epoch!r}, not a number from 0 on")
    taken.append(f"the epoch count ({epoch})")
    left.append("learning rate and best score (this run's own)")
    return epoch, [f"from {path} taken: {', '.join(taken)}", f"from {path} not taken: {', '.join(left)}"]
