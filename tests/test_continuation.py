"""Runs that are killed, stopped, started again: they end as if nothing had happened (docs/method.md section 8)."""

import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import long_run
import pytest
import small_tree
import torch
from runs import Process, Run, curves, kill_at, same, wrap

import core.checkpoint
import core.files
from core.log import Log
from core.trainer import Trainer
from core.validation import Validation

EVERY = 3  # TRAIN.SNAPSHOT_ITER of runs.CONFIG
MODES = {"sac": "False", "baseline": "True"}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "tree"
    small_tree.make(root)
    return root


@pytest.fixture(scope="module")
def undisturbed(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A run in each mode that nobody disturbs."""
    runs = {mode: Run(tmp_path_factory.mktemp(mode), tree, "MODEL.BASELINE", value) for mode, value in MODES.items()}
    processes = [run.start() for run in runs.values()]
    assert [process.wait() for process in processes] == [0, 0]
    assert all(len(run.metrics("step")) == 8 for run in runs.values())
    return runs


class Counted:
    """A file whose `write` is counted."""

    def __init__(self, file: object, count: object) -> None:
        self.file, self.count = file, count

    def write(self, data: bytes) -> int:
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        self.count()
        return self.file.write(data[len(data) // 2 :]) + len(data) // 2

    def flush(self) -> None:
        self.file.flush()

    def fileno(self) -> int:
        return self.file.fileno()


def plant(moment: str, number: int, steps: str) -> None:
    """Kill this process when it comes to this moment for the `number`th time; a byte in `steps` for each iteration."""
    count = kill_at(number)

    def note() -> None:
        with open(steps, "a") as file:
            file.write(".")

    wrap(Trainer, "train_on", after=note)
    if moment == "in a snapshot":
        write = core.files.atomic_write
        core.checkpoint.atomic_write = lambda path, writer: write(path, lambda f: writer(Counted(f, count)))
        return
    owner, name, when = {
        "after a step": (Trainer, "train_on", "after"),
        "before renaming": (core.files.os, "replace", "before"),
        "after renaming": (core.files.os, "replace", "after"),
        "in a validation": (Validation, "_colour", "before"),
        "before tidying": (core.checkpoint.Best, "tidy", "before"),
        "after a best one": (core.checkpoint.Best, "offer", "after"),
        "log written": (Log, "position", "after"),
        "in the log": (Log, "record", "after"),
    }[moment]
    wrap(owner, name, **{when: count})


KILLS = [
    ("after a step", 2), ("in a snapshot", 40), ("before renaming", 2), ("after renaming", 2), ("after a step", 2),
    ("in the log", 7), ("in a validation", 5), ("after a best one", 1), ("log written", 2), ("before tidying", 1),
    ("in a snapshot", 3), ("after a step", 1), ("in a validation", 2),
]  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_kill_9_at_all_kinds_of_moments(mode: str, tree: Path, undisturbed: dict[str, Run], tmp_path: Path) -> None:
    run = Run(tmp_path, tree, "MODEL.BASELINE", MODES[mode])
    steps, killed = tmp_path / "steps", 0
    for i, (moment, number) in enumerate(KILLS):
        begun = run.last()["run"]["step"] if (run.snapshots / "last.pth").exists() else 0
        steps.write_text("")
        status = run.start(workers=i % 3, before=partial(plant, moment, number, str(steps))).wait()
        assert status in (-signal.SIGKILL, 0)
        killed += status != 0
        if (run.snapshots / "last.pth").exists():
            assert run.last()["run"]["step"] >= begun + len(steps.read_text()) - EVERY
    assert killed >= 10
    assert run.start().wait() == 0
    same(run, undisturbed[mode])


def test_a_long_run_killed_at_random_times(tmp_path: Path) -> None:
    """The short form of long_run.py."""
    found = long_run.check(tmp_path, 48, (0.0, 0.6), warm_up=20)
    assert found["iterations"] == 48 and found["starts"] >= 3 and found["SIGKILL"] + found["SIGTERM"] >= 2, found
    assert found["rss_growth"] < 0.05 and len(found["open_files"]) == 1, found


def wait_at_step(number: int, folder: Path, group: bool = False) -> None:
    """Hold this process at the iteration `number`, which `folder`/held tells, until there is `folder`/go.

    With `group` in a process group of its own.
    """
    if group:
        os.setsid()

    def hold(_: Trainer) -> None:
        (folder / "held").touch()
        while not (folder / "go").exists():
            time.sleep(0.02)

    at_step(number, hold)


def wait_until_held(folder: Path, process: Process, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not (folder / "held").exists():
        assert process.process.is_alive() and time.monotonic() < end, process.said
        time.sleep(0.02)


def test_sigterm_to_all_processes_twice_finishes_the_iteration(
    tree: Path, undisturbed: dict[str, Run], tmp_path: Path
) -> None:
    """As systemd and schedulers send it: the loader's workers get it too."""
    run = Run(tmp_path, tree)
    process = run.start(workers=2, before=partial(wait_at_step, EVERY + 2, tmp_path, True))
    wait_until_held(tmp_path, process)
    for _ in range(2):
        os.killpg(process.process.pid, signal.SIGTERM)
        time.sleep(0.1)  # two signals at once would be one
    (tmp_path / "go").touch()
    assert process.wait() == 0
    assert "stopped by a signal after 5 iterations" in process.said and "the same command resumes" in process.said
    assert "Traceback" not in process.said and "error" not in process.said
    assert run.last()["run"]["step"] == 5 and [e["iter"] for e in run.metrics("step")] == [1, 2, 3, 4, 5]
    assert run.start().wait() == 0
    same(run, undisturbed["sac"])


def test_a_second_run_is_refused_and_a_crash_leaves_no_lock(tree: Path, tmp_path: Path) -> None:
    run = Run(tmp_path, tree)
    first = run.start(workers=2, before=partial(wait_at_step, EVERY + 1, tmp_path))
    wait_until_held(tmp_path, first)
    (tmp_path / "second").mkdir()
    second = Process(tmp_path / "second", run.arguments())
    assert second.wait() == 2
    assert second.said.count("\n") == 1 and "another run is writing to" in second.said
    first.send(signal.SIGKILL)  # its workers notice after some seconds
    assert first.wait() == -signal.SIGKILL
    assert run.start(also=("TRAIN.MAX_ITER", "4")).wait() == 0


def test_an_end_by_max_iter_at_an_epoch_s_end(tree: Path, undisturbed: dict[str, Run], tmp_path: Path) -> None:
    run = Run(tmp_path, tree)
    for limit in ("4", "4", "5"):
        process = run.start(also=("TRAIN.MAX_ITER", limit))
        assert process.wait() == 0 and f"TRAIN.MAX_ITER = {limit} is reached" in process.said
        assert run.last()["run"]["step"] == int(limit)
    assert run.start().wait() == 0
    same(run, undisturbed["sac"])


def a_day_back() -> None:
    """The clock is set back before the run goes on."""
    now = time.time
    time.time = lambda: now() - 86_400


def test_a_clock_that_is_set_back(tree: Path, undisturbed: dict[str, Run], tmp_path: Path) -> None:
    run = Run(tmp_path, tree)
    assert run.start(also=("TRAIN.MAX_ITER", "5")).wait() == 0
    assert run.start(before=a_day_back).wait() == 0
    same(run, undisturbed["sac"])


def test_a_finished_run_says_so(undisturbed: dict[str, Run]) -> None:
    run = undisturbed["sac"]
    before = run.metrics(), curves(run), sorted(run.snapshots.glob("*.pth"))
    process = run.start()
    assert process.wait() == 0 and "done: 2 epochs, 8 iterations; result:" in process.said
    assert (run.metrics(), curves(run), sorted(run.snapshots.glob("*.pth"))) == before


def test_what_may_change_and_what_may_not(tree: Path, tmp_path: Path) -> None:
    run = Run(tmp_path, tree)
    assert run.start(also=("TRAIN.MAX_ITER", "2")).wait() == 0
    refused = {
        "--seed 0, not 1": (["--seed", "1"], ()),
        "MODEL.BASELINE False": ([], ("MODEL.BASELINE", "True")),
        "leave TRAIN.BATCH_SIZE": ([], ("TRAIN.BATCH_SIZE", "2")),
        "another optimiser": ([], ("MODEL.OPT", "Adam")),
    }
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != "output.txt"}
    for message, (options, also) in refused.items():
        process = run.start(*options, also=also)
        assert process.wait() == 2, message
        assert process.said.count("\n") == 1 and message in process.said
    assert before == {path: path.read_bytes() for path in before}
    process = run.start(also=("MODEL.LR", "0.002", "TRAIN.MAX_ITER", "3"))
    assert process.wait() == 0
    changed = next(line for line in process.said.splitlines() if "the configuration has changed" in line)
    assert "TRAIN.MAX_ITER 2 -> 3" in changed and "MODEL.LR 0.001 -> 0.002" in changed
    assert run.last()["opt"]["param_groups"][0]["lr"] == 0.002


def test_a_user_s_snapshots_and_earlier_logs_are_left_alone(tree: Path, tmp_path: Path) -> None:
    run = Run(tmp_path, tree, "TRAIN.NUM_EPOCHS", "5", "LOG.ITER_TARGET", "100")
    run.snapshots.mkdir(parents=True)
    foreign = run.snapshots / "epoch098_score0.412.pth"
    foreign.write_text("a user's")
    assert run.start(also=("TRAIN.MAX_ITER", "4")).wait() == 0
    earlier = run.metrics()
    (run.snapshots / "last.pth").unlink()  # to begin again
    own = {path.name for path in run.snapshots.glob("epoch*")}
    assert len(own) == 2
    assert run.start().wait() == 0
    # The same run again may write, and displace, a snapshot of the same name: that one is its own.
    own -= {f"epoch{e['epoch']:03d}_score{e['miou']:.3f}.pth" for e in run.metrics("val")}
    assert foreign.read_text() == "a user's" and own <= {path.name for path in run.snapshots.glob("epoch*")}
    best = sorted((e for e in run.metrics("val") if e["list"] == "val2_cityscapes"), key=lambda e: -e["miou"])[:3]
    names = {f"epoch{e['epoch']:03d}_score{e['miou']:.3f}.pth" for e in best}
    assert {path.name for path in run.snapshots.glob("epoch*")} == names | own | {foreign.name}
    for e in best:
        snapshot = torch.load(run.snapshots / f"epoch{e['epoch']:03d}_score{e['miou']:.3f}.pth", weights_only=True)
        assert (snapshot["epoch"], snapshot["score"]) == (e["epoch"], e["miou"])
    kept = [line for line in (run.logs / "earlier1" / "metrics.jsonl").read_text().splitlines()]
    assert len(kept) == len(earlier) and [e["iter"] for e in run.metrics("step")] == list(range(1, 21))


def at_step(number: int, action: Callable[[Trainer], None]) -> None:
    """Do something before the iteration `number` of this process."""
    original, seen = Trainer.train_on, 0

    def step(self: Trainer, *args: object) -> object:
        nonlocal seen
        seen += 1
        if seen == number:
            action(self)
        return original(self, *args)

    Trainer.train_on = step


def delete_logs(trainer: Trainer) -> None:
    shutil.rmtree(trainer.folder.logs)


def small_files_only(trainer: Trainer) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))


def kill_a_worker(trainer: Trainer) -> None:
    os.kill(trainer.batches._workers[0].pid, signal.SIGKILL)
    time.sleep(0.5)


def spoil_weights(trainer: Trainer) -> None:
    """As a gradient that is not finite leaves them, by the snapshot of this very iteration."""
    with torch.no_grad():
        trainer.step.network.slow_net.conv1.bias[0] = float("nan")


def test_the_log_s_folder_deleted_under_the_run(tree: Path, tmp_path: Path) -> None:
    run = Run(tmp_path, tree)
    process = run.start(before=partial(at_step, 5, delete_logs))
    assert process.wait() == 0
    assert "has been deleted: a new log starts" in process.said
    assert [e["iter"] for e in run.metrics("step")] == [7, 8]  # what came after the next snapshot
    assert "done: 2 epochs" in (run.logs / "log.txt").read_text()


@pytest.mark.parametrize(
    "fault, workers, status, message",
    [
        (spoil_weights, 0, 2, "finite"),
        (kill_a_worker, 1, 1, "fewer --workers"),
    ],
)
def test_faults_end_the_run_in_one_line_and_cost_little(
    fault: Callable[[Trainer], None],
    workers: int,
    status: int,
    message: str,
    tree: Path,
    undisturbed: dict[str, Run],
    tmp_path: Path,
) -> None:
    run = Run(tmp_path, tree)
    process = run.start(workers=workers, before=partial(at_step, 5, fault))
    assert process.wait() == status
    errors = [line for line in process.said.splitlines() if "error: " in line]
    assert len(errors) == 1 and message in errors[0] and "Traceback" not in process.said
    assert 4 <= run.last()["run"]["step"] <= 6
    assert run.start().wait() == 0
    same(run, undisturbed["sac"])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path | None]:
    """A file system of 4 MB; None where one may not be mounted."""
    path = tmp_path / "disk"
    path.mkdir()
    options = ["-t", "tmpfs", "-o", "size=4m", "tmpfs", str(path)]
    mounted = subprocess.run(["mount", *options], capture_output=True).returncode == 0
    yield path if mounted else None
    if mounted:
        subprocess.run(["umount", str(path)], check=True)


def fill_disk(trainer: Trainer) -> None:
    """To the last byte."""
    ballast = trainer.folder.snapshots.parents[3] / "ballast"
    with pytest.raises(OSError, match="No space left"), open(ballast, "wb") as f:
        while True:
            f.write(bytes(1000))
            f.flush()


def test_a_full_disk(small_disk: Path | None, tree: Path, undisturbed: dict[str, Run], tmp_path: Path) -> None:
    """Snapshots and logs on a small file system that is full from iteration 5 on, else with a limit as a quota has."""
    run = Run(small_disk or tmp_path / "run", tree)
    process = run.start(before=partial(at_step, 5, fill_disk if small_disk else small_files_only), output=tmp_path)
    assert process.wait() == 2
    errors = [line for line in process.said.splitlines() if "error" in line.lower()]
    assert len(errors) == 1 and errors[0].startswith("error: cannot write"), process.said
    assert "Traceback" not in process.said and "ignored" not in process.said
    if small_disk:
        assert "No space left on device" in errors[0]
        (small_disk / "ballast").unlink()
    assert run.last()["run"]["step"] == 4
    assert not list(run.snapshots.glob(".*.part"))
    assert run.start(output=tmp_path).wait() == 0
    same(run, undisturbed["sac"])


def test_a_loss_that_is_not_finite_names_the_images(tree: Path, tmp_path: Path) -> None:
    run = Run(tmp_path, tree, "MODEL.LR", "1000", "MODEL.WEIGHT_DECAY", "1000", "TRAIN.SNAPSHOT_ITER", "1")
    process = run.start()
    assert process.wait() == 2
    error = process.said.splitlines()[-1]
    assert error.startswith("error: loss_ce") and "not finite at iteration" in error
    assert "train_game_9K_" in error and "train_cityscapes_" in error and ".png" in error
    at = int(error.split("iteration ")[1].split(";")[0])
    assert run.last()["run"]["step"] == at - 1 >= 1
    assert [e["iter"] for e in run.metrics("step")] == list(range(1, at))


def test_an_unreadable_image_found_late_costs_nothing(
    tree: Path, undisturbed: dict[str, Run], tmp_path: Path
) -> None:
    copy = tmp_path / "tree"
    shutil.copytree(tree, copy)
    run = Run(tmp_path / "run", copy)
    missing = [copy / f"train_game_9K_{i}.png" for i in range(16)]
    assert run.start(also=("TRAIN.MAX_ITER", "2")).wait() == 0
    content = {path: path.read_bytes() for path in missing}
    for path in missing:
        path.write_bytes(b"")
    process = run.start(workers=1)
    assert process.wait() == 2
    assert "train_game_9K_" in process.said.splitlines()[-1] and "Traceback" not in process.said
    for path in missing:
        path.write_bytes(content[path])
    assert run.start().wait() == 0
    same(run, undisturbed["sac"])
