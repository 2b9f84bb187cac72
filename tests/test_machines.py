"""Several machines without a common disk, on the loopback address, and who says why a run ended."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import small_tree
from runs import Run
from test_processes import ENVIRONMENT, ROOT, SMALL_TRAIN

from core.torchrun import report

FOREVER = "TRAIN.NUM_EPOCHS 100000 TRAIN.SNAPSHOT_ITER 2 LOG.ITER_VAL 100000 LOG.ITER_TARGET 100000".split()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "tree"
    small_tree.make(root)
    return root


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def machines(runs: Sequence[Run]) -> list[subprocess.Popen[str]]:
    """One process on each of two machines."""
    port, started = free_port(), []
    for number, run in enumerate(runs):
        (run.folder / "job.py").write_text(SMALL_TRAIN.format(root=str(ROOT), tests=str(ROOT / "tests")))
        where = f"--nnodes 2 --node_rank {number} --master_addr 127.0.0.1 --master_port {port} --nproc_per_node 1"
        command = [sys.executable, "-m", "core.torchrun", *where.split(), "--", str(run.folder / "job.py")]
        started.append(subprocess.Popen(
            [*command, *run.arguments()], cwd=run.folder, env={**ENVIRONMENT, "GLOO_SOCKET_IFNAME": "lo"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    return started


def children(parent: int) -> list[int]:
    """The processes that a process has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # "pid (name) state parent ...", and a name may hold anything
            if int(path.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(path.parent.name))
        except (OSError, ValueError, IndexError):
            continue  # it has ended meanwhile
    return found


def errors(said: str) -> list[str]:
    assert "Traceback" not in said
    return [line for line in said.splitlines() if line.startswith("error: ")]


def test_two_machines_without_a_common_disk(tree: Path, tmp_path: Path) -> None:
    """A start continues on both from what the first machine has; one that vanishes ends the other."""
    runs = [Run(tmp_path / name, tree, *FOREVER) for name in ("first", "second")]
    first, second = runs
    assert first.start(also=["TRAIN.MAX_ITER", "3"]).wait() == 0
    both = machines(runs)
    deadline = time.monotonic() + 300
    while first.last()["run"]["step"] <= 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in (both[1].pid, *children(both[1].pid)):
        os.kill(pid, signal.SIGKILL)
    said = "".join(both[0].communicate(timeout=300))
    both[1].communicate()
    assert both[0].returncode == 3 and len(errors(said)) == 1, said
    assert "another process, or its machine, is gone" in errors(said)[0] and "GLOO_SOCKET_IFNAME" in errors(said)[0]
    log = (first.logs / "log.txt").read_text()
    assert "2 machines: each reads the lists" in log and "3 iterations in all" in log
    assert "last.pth" in log.splitlines()[-1]  # it says from where to resume
    steps = [entry["iter"] for entry in first.metrics("step")]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) > 3
    assert not second.snapshots.exists() and not second.logs.exists()


STOPPED = "; the others were stopped"


@pytest.mark.parametrize(
    "statuses, files, status, said",
    [
        ({0: 3, 1: -9}, {"0.lost": "error: gone"}, 137, "error: process 1 was killed by SIGKILL" + STOPPED),
        ({0: 3, 1: 2}, {"0.lost": "error: gone", "1": "error: x.png"}, 2, "error: x.png"),
        ({0: 3}, {"0.lost": "error: gone"}, 3, "error: gone"),
        ({0: 3, 1: 3}, {"0.lost": "error: gone", "1.lost": "error: gone"}, 3, "error: gone"),
        ({1: 1}, {}, 1, "error: process 1 failed with status 1" + STOPPED),
        ({1: -11}, {}, 139, "error: process 1 was killed by SIGSEGV" + STOPPED),
        ({1: 2, 0: 2}, {"0": "error: same", "1": "error: same"}, 2, "error: same"),
    ],
)
def test_the_cause_is_said_once(
    statuses: dict[int, int], files: dict[str, str], status: int, said: str, tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert report(statuses, tmp_path) == status
    assert capsys.readouterr().err == said + "\n"
