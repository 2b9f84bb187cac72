"""A step of SAC with every tested encoder: on two processes, and after an interruption, it is the same step."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import batches
import pytest
import torch
from shallow_encoders import shallow
from torch import Tensor

from core import checkpoint, distributed, resume
from core.compute import Source, Views
from core.optim import build_optimiser
from core.steps import SACStep
from models.timm_encoder import TESTED

pytest.importorskip("timm", reason="timm is not installed (requirements-encoders.txt)")

ROOT = Path(__file__).parents[1]
CLASSES, SIZE = 5, (32, 64)


def sac(name: str) -> SACStep:
    student = shallow(name, CLASSES, drop_path=0.2)
    step = batches.sac_step(student, copy.deepcopy(student), CLASSES, 2)
    step.optimiser = build_optimiser(student, "AdamW", 1e-4, 0.9, False, 0.01, layer_decay=0.9)
    return step


def train(step: SACStep, iteration: int) -> dict[str, Tensor]:
    """One iteration on this process's share of two source images and of an image's two views; the gradients."""
    source, views, mine = batches.source(2, SIZE, CLASSES), batches.views(1, 2, SIZE), distributed.share(2)
    step(Source(*(x[mine] for x in source[:-1]), 2), Views(*(x[mine] for x in views[:-1]), 2), iteration)
    return {name: parameter.grad for name, parameter in step.student.named_parameters()}


@pytest.fixture(scope="module")
def on_two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    """The gradients of every encoder's first step on two processes."""
    file = tmp_path_factory.mktemp("two") / "gradients.pth"
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run([sys.executable, *torchrun, __file__, file], capture_output=True, text=True, timeout=600,
                          env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(file)


@pytest.mark.parametrize("name", TESTED)
def test_on_two_processes(name: str, on_two: dict[str, dict[str, Tensor]]) -> None:
    ours = train(sac(name), 0)
    assert set(ours) == set(on_two[name])
    for parameter, gradient in ours.items():
        tolerance = 1e-4 * gradient.abs().max().item() + 1e-7
        torch.testing.assert_close(on_two[name][parameter], gradient, rtol=0, atol=tolerance, msg=parameter)


@pytest.mark.parametrize("name", TESTED)
def test_after_an_interruption(name: str, tmp_path: Path) -> None:
    whole, other = sac(name), sac(name)
    before = {key: x.clone() for key, x in whole.network.state_dict().items()}
    train(whole, 0)
    file = tmp_path / "last.pth"
    checkpoint.save(file, resume.snapshot(resume.Progress(), whole.network, whole.optimiser, 0.0, {}))
    state = checkpoint.load(file)
    checkpoint.load_into(other.network, state["model"], file, name)
    assert checkpoint.carry_momentum(other.optimiser, state["opt"], file)
    train(whole, 1)
    train(other, 1)
    after = whole.network.state_dict()
    assert all(torch.equal(x, after[key]) for key, x in other.network.state_dict().items())
    assert not all(torch.equal(x, after[key]) for key, x in before.items())


def main() -> None:
    """What each of the two processes does."""
    distributed.start("cpu")
    gradients = {name: train(sac(name), 0) for name in TESTED}
    distributed.on_first(lambda: torch.save(gradients, sys.argv[1]))
    distributed.stop()


if __name__ == "__main__":
    main()
