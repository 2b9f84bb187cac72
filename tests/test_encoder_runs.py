"""Whole trainings of an encoder with every key of its recipe: killed and continued, on several processes, inferred."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import pytest
import small_tree
from runs import Process, Run, kill_at, same, wrap
from shallow_encoders import BLOCKS

from core.build import SOURCE_ONLY
from core.optim import POWER
from core.trainer import Trainer
from models.timm_encoder import TESTED

pytest.importorskip("timm", reason="timm is not installed (requirements-encoders.txt)")

ROOT = Path(__file__).parents[1]
RECIPE = (
    "MODEL.ARCH timm MODEL.ENCODER test_vit MODEL.DROP_PATH 0.2 MODEL.OPT AdamW MODEL.LAYER_DECAY 0.9 "
    "MODEL.SCHEDULE poly MODEL.WARMUP_ITER 3 MODEL.LR_TARGET_RAMP 5 MODEL.CLIP_GRAD 1.0 MODEL.WEIGHT_DECAY 0.01 "
    "TRAIN.CHECKPOINT True MODEL.LR 1e-5"
).split()
SETTINGS = {
    "sac": ("TRAIN.PRECISION", "float16"),
    "baseline": ("MODEL.BASELINE", "True", "TRAIN.NUM_GROUPS", "3"),  # images that two processes share unevenly
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "tree"
    small_tree.make(root)
    return root


@pytest.fixture(scope="module")
def alone(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """SAC and a baseline, each on one process that nobody disturbs."""
    runs = {name: Run(tmp_path_factory.mktemp(name), tree, *RECIPE, *keys) for name, keys in SETTINGS.items()}
    processes = [run.start() for run in runs.values()]
    assert [process.wait() for process in processes] == [0, 0], [process.said for process in processes]
    return runs


def kill(number: int) -> None:
    wrap(Trainer, "train_on", after=kill_at(number))


def test_killed_and_continued_it_is_the_same_run(alone: dict[str, Run], tree: Path, tmp_path: Path) -> None:
    """Rates, ramp, dropped paths, the optimiser's and the scaler's state: nothing is lost at any moment."""
    run = Run(tmp_path, tree, *RECIPE, *SETTINGS["sac"])
    for number in (5, 2):
        assert run.start(before=partial(kill, number)).wait() == -signal.SIGKILL
    assert run.start().wait() == 0
    same(run, alone["sac"])
    scaler = run.last()["run"]["scaler"]
    assert scaler["scale"] > 0 and scaler["_growth_tracker"] + (scaler["scale"] < 65536) > 0


def with_few_blocks(name: str, then: Callable[[], object]) -> None:
    import timm

    timm.create_model = partial(timm.create_model, **BLOCKS[name])
    then()


@pytest.mark.parametrize("name", TESTED)
def test_every_encoder_killed_and_continued_is_the_same_run(name: str, tree: Path, tmp_path: Path) -> None:
    keys = f"MODEL.ARCH timm MODEL.ENCODER {name} MODEL.OPT AdamW MODEL.LR 1e-5 TRAIN.MAX_ITER 3 TRAIN.SNAPSHOT_ITER 1"
    whole, killed = (Run(tmp_path / part, tree, *keys.split()) for part in ("whole", "killed"))
    for run, then, status in ((whole, int, 0), (killed, partial(kill, 2), -signal.SIGKILL), (killed, int, 0)):
        process = run.start(before=partial(with_few_blocks, name, then))
        assert process.wait() == status, process.said
    assert "1 iterations in all" in (killed.logs / "log.txt").read_text()
    same(killed, whole, validated=False)


def test_the_rates_are_what_the_schedule_says(alone: dict[str, Run]) -> None:
    last = max(group["lr"] for group in alone["sac"].last()["opt"]["param_groups"])
    assert last == pytest.approx(10 * 1e-5 * (1 - 4 / 5) ** POWER)  # the eighth iteration, after three of warm-up


def test_a_baseline_without_batchnorm_says_what_it_is(alone: dict[str, Run]) -> None:
    assert SOURCE_ONLY in (alone["baseline"].logs / "log.txt").read_text()
    assert SOURCE_ONLY not in (alone["sac"].logs / "log.txt").read_text()


def test_two_processes_train_the_same(alone: dict[str, Run], tree: Path, tmp_path: Path) -> None:
    """SAC, and the baseline too: where there is no BatchNorm, none has to be synchronised."""
    runs = {name: Run(tmp_path / name, tree, *RECIPE, *keys) for name, keys in SETTINGS.items()}
    jobs = [{"name": n, "command": "train", "arguments": r.arguments(), "plant": ""} for n, r in runs.items()]
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run([sys.executable, *torchrun, ROOT / "tests/several.py", tmp_path / "jobs.json"],
                          env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}, capture_output=True,
                          text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    for name, run in runs.items():
        ours, theirs = run.metrics("step"), alone[name].metrics("step")
        assert len(ours) == len(theirs) == 8
        for a, b in zip(ours, theirs, strict=True):
            for loss in {"loss_ce", "self_ce"} & set(a):
                assert b[loss] == pytest.approx(a[loss], rel=1e-2), (name, a["iter"], loss)


def test_masks_of_any_size(alone: dict[str, Run], tmp_path: Path) -> None:
    image = cv2.imread(str(next(Path(alone["sac"].changes[1]).glob("val_cityscapes_0.png"))))
    for height, width in ((61, 83), (8, 200)):
        cv2.imwrite(str(tmp_path / f"{height}.png"), cv2.resize(image, (width, height)))
    run, images = alone["sac"], map(str, tmp_path.glob("*.png"))
    arguments = ["--cfg", str(run.folder / "cfg.yaml"), "--resume", str(run.snapshots / "last.pth"), "--teacher",
                 "--images", *images, "--mask-output-dir", str(tmp_path / "masks"), "--save", "ids", "--flip",
                 "--workers", "0", "--set", *run.changes]
    process = Process(tmp_path, arguments, command="infer_val")
    assert process.wait() == 0, process.said
    shapes = {cv2.imread(str(path), cv2.IMREAD_UNCHANGED).shape for path in (tmp_path / "masks").glob("*.png")}
    assert shapes == {(61, 83), (8, 200)}
