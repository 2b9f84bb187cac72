"""A run's folders, its lock and its provenance."""

import os
import platform
import subprocess
import sys
from argparse import ArgumentTypeError
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import torch

from core.cli import UserError, folder_name

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

    fcntl = None


@dataclass(frozen=True)
class Run:
    """A run by name: `{snapshots,logs}/{dataloader}/{exp}/{run}`."""

    exp: str
    run: str
    dataloader: str = "cityscapes"
    snapshot_dir: str = "snapshots"
    log_dir: str = "logs"

    def __post_init__(self) -> None:
        """UserError for names that are not a folder's: they could lead out of snapshots and logs."""
        for option in ("exp", "run", "dataloader"):
            try:
                folder_name(getattr(self, option))
            except ArgumentTypeError as error:
                raise UserError(f"--{option} {getattr(self, option)!r}: {error}") from None

    @property
    def snapshots(self) -> Path:
        """The folder of its snapshots."""
        return Path(self.snapshot_dir, self.dataloader, self.exp, self.run)

    @property
    def logs(self) -> Path:
        """The folder of its logs."""
        return Path(self.log_dir, self.dataloader, self.exp, self.run)

    @property
    def last(self) -> Path:
        """The snapshot that an interrupted run resumes from."""
        return self.snapshots / "last.pth"

    def lock(self) -> object:
        """Keep other runs out of the folder while this process lives; the system always releases the lock.

        Raises:
            UserError: another run holds it, or the folder cannot be created.
        """
        try:
            self.snapshots.mkdir(parents=True, exist_ok=True)
            file = open(self.snapshots / ".lock", "a+b", opener=_no_link)  # it stays, empty
        except OSError as error:
            raise UserError(f"cannot write snapshots to {self.snapshots}: {error}") from None
        try:
            if fcntl is None:
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                # Unlike flock's, this lock is not inherited by the loader's workers, which may live on for seconds.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise UserError(f"another run is writing to {self.snapshots}; wait for it, or choose another --run"
                            ) from None
        except OSError:
            pass  # a network file system without locks: no guarantee there
        return file


def _no_link(path: str, flags: int) -> int:
    """Open a file; OSError for a link, which could lead anywhere."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def provenance(device: torch.device) -> dict[str, str]:
    """Where this run's results come from: commit, versions, device, command line."""
    root = Path(__file__).resolve().parents[1]
    try:
        git = subprocess.run(["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
                             capture_output=True, text=True)
        commit = git.stdout.strip() if git.returncode == 0 and (root / ".git").exists() else ""
    except OSError:  # git is not installed
        commit = ""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "commit": commit, "python": platform.python_version(), "torch": str(torch.__version__),
        "torchvision": version("torchvision"), "numpy": np.__version__, "opencv": cv2.__version__,
        "device": f"{device.type} ({name})",
        "command": " ".join([os.path.basename(sys.executable), *sys.argv]),
    }
