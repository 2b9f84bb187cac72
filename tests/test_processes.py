"""One run on 1, 2, 3 and 4 processes: the same losses, every image validated once, faults told in one line."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import small_tree
import torch
from runs import Run, Stub

import datasets
from core import checkpoint, config, distributed
from core.compute import dropout_seeds
from core.files import TEMPORARY

ROOT = Path(__file__).parents[1]
# Groups larger and smaller than what a process of 2 or of 4 holds, and images whose views are shared unevenly.
SETTINGS = {
    "larger": "MODEL.ARCH deeplabv2_resnet18 TRAIN.NUM_GROUPS 1 TRAIN.GROUP_SIZE 4 TRAIN.MAX_ITER 8 LOG.ITER_VAL 2 "
    "LOG.ITER_TARGET 100 TRAIN.NUM_EPOCHS 6 MODEL.LR 1e-5",
    "smaller": "MODEL.ARCH stub TRAIN.NUM_GROUPS 6 TRAIN.GROUP_SIZE 2 TRAIN.MAX_ITER 20 LOG.ITER_VAL 5 "
    "LOG.ITER_TARGET 5 TRAIN.NUM_EPOCHS 20 TRAIN.MICRO_BATCH 2",
    "dropout": "MODEL.ARCH fcn_vgg16_bn TRAIN.NUM_GROUPS 2 TRAIN.GROUP_SIZE 2 TRAIN.MAX_ITER 3 LOG.ITER_VAL 100 "
    "LOG.ITER_TARGET 100 MODEL.CONF_POOL minentropy_pool MODEL.LOSS focal_ce_conf MODEL.LR 1e-5",
    # Batches that the processes cannot share evenly; on four, one of them has no view at all.
    "five": "MODEL.ARCH stub TRAIN.BATCH_SIZE 5 TRAIN.NUM_GROUPS 2 TRAIN.GROUP_SIZE 4 TRAIN.MAX_ITER 6 "
    "TRAIN.NUM_EPOCHS 20 LOG.ITER_VAL 100 LOG.ITER_TARGET 100 MODEL.LOSS focal_ce_conf TRAIN.MICRO_BATCH 1",
    "seven": "MODEL.ARCH stub TRAIN.BATCH_SIZE 7 TRAIN.NUM_GROUPS 1 TRAIN.GROUP_SIZE 3 TRAIN.MAX_ITER 6 "
    "TRAIN.NUM_EPOCHS 20 LOG.ITER_VAL 100 LOG.ITER_TARGET 100 MODEL.CONF_POOL minentropy_pool",
    "mixed": "MODEL.ARCH stub TRAIN.TASK [train_game_9K,val_game_1K] TRAIN.TASK_SHARES 2,1 "
    "TRAIN.TASK_IGNORE [[],[0,5]] DATASET.SOURCE_MEAN .5,.5,.5,.3,.2,.1 DATASET.SOURCE_STD .2,.2,.2,.3,.2,.1 "
    "TRAIN.BATCH_SIZE 5 TRAIN.NUM_GROUPS 2 TRAIN.MAX_ITER 6 TRAIN.NUM_EPOCHS 20 LOG.ITER_VAL 100 LOG.ITER_TARGET 100",
    "baseline": "MODEL.BASELINE True MODEL.ARCH plain TRAIN.BATCH_SIZE 5 TRAIN.NUM_GROUPS 2 TRAIN.MAX_ITER 6 "
    "TRAIN.NUM_EPOCHS 20 LOG.ITER_VAL 100 TRAIN.MICRO_BATCH 1",
}  # fmt: skip
ITERATIONS = {"larger": 8, "smaller": 20, "dropout": 3}  # of the others 6
ON_THREE = ("larger", "five", "seven", "baseline")
# Four processes share an image's views: where it cannot be read, all of them take the same other one.
SKIP = (
    "MODEL.ARCH stub TRAIN.NUM_GROUPS 1 TRAIN.GROUP_SIZE 4 TRAIN.MAX_ITER 8 LOG.ITER_VAL 100 "
    "LOG.ITER_TARGET 2 TRAIN.NUM_EPOCHS 20 MODEL.LR 1e-5 DATASET.ON_ERROR skip"
)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "tree"
    small_tree.make(root)
    return root


@pytest.fixture(scope="module")
def runs(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Run]]:
    """All settings on 1, 2 and 4 processes, some on 3; what the processes raised in `raised`."""
    result = {}
    for processes in (1, 2, 3, 4):
        folder = tmp_path_factory.mktemp(f"on{processes}")
        names = ON_THREE if processes == 3 else SETTINGS
        own = {name: Run(folder / name, tree, *SETTINGS[name].split()) for name in names}
        if processes != 3:
            own["skip"] = Run(folder / "skip", damaged(folder), *SKIP.split())
        jobs = [{"name": n, "command": "train", "arguments": r.arguments(), "plant": ""} for n, r in own.items()]
        if processes == 4:
            own["interrupted"] = Run(folder / "interrupted", tree, *SETTINGS["five"].split())
            arguments = [own["interrupted"].arguments(also=also) for also in (("TRAIN.MAX_ITER", "2"), ())]
            jobs += [{"name": "interrupted", "command": "train", "arguments": a, "plant": ""} for a in arguments]
        jobs += [job for job in faults(folder, tree) if processes == 2] + [inference(folder, tree)]
        if processes == 2:
            slow = inference(folder, tree, "slow")
            slow["arguments"][slow["arguments"].index("val_cityscapes")] = "train_cityscapes"  # two for each
            slow["arguments"][:0] = ["--submission", str(folder / "slow.zip")]
            jobs.append(slow | {"plant": "slow_last"})
            killed = inference(folder, tree, "killed")
            jobs += [job | {"plant": "kill_after_four_files"} for job in (killed,)]
        if processes == 4:
            jobs.append(killed | {"name": "resumed", "arguments": ["--resume-output", *killed["arguments"]]})
        (folder / "jobs.json").write_text(json.dumps(jobs))
        said = several(processes, folder / "jobs.json", fails=processes == 2)
        (folder / "said.txt").write_text(said)
        if processes == 2:
            (folder / "left.json").write_text(json.dumps(sorted(contents(folder / "killed"))))
        result[processes] = own
    return result


ENDS = """
from core import distributed
distributed.start("cpu")
distributed.gather_values("x")
raise SystemExit(3)
"""


def test_a_process_may_end_right_after_an_exchange(tmp_path: Path) -> None:
    """As one does that is refused: it was aborted every other time, where the processors were busy."""
    (tmp_path / "ends.py").write_text(ENDS)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "6", tmp_path / "ends.py"]
    done = subprocess.run([sys.executable, *torchrun], env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert "exitcode  : 3" in done.stderr and "terminate called" not in done.stderr


def damaged(folder: Path) -> Path:
    """A tree with an image of each domain that cannot be read."""
    root = folder / "damaged"
    small_tree.make(root)
    small_tree.damage(root)
    return root


def save_stub(path: Path) -> None:
    """A snapshot of a baseline, the same each time."""
    torch.manual_seed(0)
    model = {f"{checkpoint.PREFIX}backbone.{k}": v for k, v in Stub(19).state_dict().items()}
    checkpoint.save(path, {"model": model, "opt": {}, "epoch": 0, "score": 0.0})


def inference(folder: Path, tree: Path, name: str = "masks") -> dict:
    """Masks of a list that the processes cannot share evenly; all processes' numbers use the same weights."""
    save_stub(folder / "stub.pth")
    arguments = [
        "--cfg", str(ROOT / "configs" / "deeplabv2_vgg16_train.yaml"), "--resume", str(folder / "stub.pth"),
        "--infer-list", "val_cityscapes", "--mask-output-dir", str(folder / name), "--workers", "0",
        "--save", "ids", "cs", "vis", "--set", "DATASET.ROOT", str(tree), "TRAIN.DEVICE", "cpu", "MODEL.ARCH", "stub",
    ]  # fmt: skip
    return {"name": name, "command": "infer_val", "arguments": arguments, "plant": ""}


def several(processes: int, jobs: Path, fails: bool = False) -> str:
    """Do the jobs, of which the last one may be meant to fail; what the processes said on stdout."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *torchrun, str(ROOT / "tests" / "several.py"), str(jobs)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=900)
    assert (done.returncode != 0) == fails, done.stderr[-3000:]
    return done.stdout


def faults(folder: Path, tree: Path) -> list[dict]:
    """Jobs in which something happens to one of the processes; what follows goes on from there."""
    quick = "TRAIN.MAX_ITER 8 LOG.ITER_VAL 100 LOG.ITER_TARGET 100 MODEL.ARCH stub".split()
    jobs = []
    for name in ("signal_to_one", "fault_of_one"):
        run = Run(folder / name, tree, *quick)
        jobs += [
            {"name": name, "arguments": run.arguments(), "plant": name, "command": "train"},
            {"name": "again", "arguments": run.arguments(), "plant": "", "command": "train"},
        ]
    refused = Run(folder / "refused", tree)
    mistakes = {"baseline": "MODEL.BASELINE True", "few": "TRAIN.BATCH_SIZE 1"}
    return jobs + [
        {"name": name, "command": "train", "arguments": refused.arguments(also=also.split()), "plant": ""}
        for name, also in mistakes.items()
    ]


@pytest.mark.parametrize(
    "setting, processes", [(s, n) for s in SETTINGS for n in (2, 3, 4) if n != 3 or s in ON_THREE])
def test_the_same_losses_on_any_number_of_processes(
    setting: str, processes: int, runs: dict[int, dict[str, Run]]
) -> None:
    one, several = runs[1][setting], runs[processes][setting]
    ours, theirs = one.metrics("step"), several.metrics("step")
    count = ITERATIONS.get(setting, 6)
    assert [e["iter"] for e in ours] == [e["iter"] for e in theirs] == list(range(1, count + 1))
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for name in {"loss_ce", "self_ce"} & a.keys():
            assert b[name] == pytest.approx(a[name], rel=1e-4), (a["iter"], name)
        assert b.get("kept", 0.0) == pytest.approx(a.get("kept", 0.0), abs=1e-3)
        assert b.get("teacher_diff", 0.0) == pytest.approx(a.get("teacher_diff", 0.0), rel=1e-3, abs=1e-5)
    if setting != "baseline":
        assert min(e["self_ce"] for e in ours) > 0.01 and min(e["kept"] for e in ours) > 0.02
    for a, b in zip(one.metrics("prior"), several.metrics("prior"), strict=True):
        assert b["class_prior"] == pytest.approx(a["class_prior"], rel=1e-3)
    weights, others = one.last()["model"], several.last()["model"]
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, rtol=1e-3, atol=1e-5, msg=name)


def test_four_processes_continue_bit_for_bit(runs: dict[int, dict[str, Run]]) -> None:
    """The gradients are summed in one order from the first iteration of each start on."""
    whole, interrupted = runs[4]["five"], runs[4]["interrupted"]
    assert "2 iterations in all" in (interrupted.logs / "log.txt").read_text()
    assert interrupted.metrics() == whole.metrics()
    ours, theirs = interrupted.last(), whole.last()
    assert all(torch.equal(ours["model"][name], value) for name, value in theirs["model"].items())
    for state, other in zip(ours["opt"]["state"].values(), theirs["opt"]["state"].values(), strict=True):
        assert torch.equal(state["momentum_buffer"], other["momentum_buffer"])


def test_a_baseline_has_a_target_image_on_each_process(runs: dict[int, dict[str, Run]]) -> None:
    """BatchNorm needs some everywhere; the plan says how many are used."""
    log = (runs[4]["baseline"].logs / "log.txt").read_text()
    assert "5 source images and 4 target images per iteration (TRAIN.NUM_GROUPS = 2, at least one per process)" in log


def test_dropout_depends_on_the_image_s_place_in_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def seeds(key: tuple[int, ...] = (0, 4, 1, 2)) -> list[int]:
        return dropout_seeds(key, 8).tolist()

    whole = seeds()
    assert len(set(whole)) == 8 and min(whole) >= 0
    others = [seeds(key) for key in ((1, 4, 1, 2), (0, 5, 1, 2), (0, 4, 2, 2), (0, 4, 1, 3))]
    for processes in (2, 3, 8):
        parts = []
        monkeypatch.setattr(distributed, "size", lambda processes=processes: processes)
        for rank in range(processes):
            monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
            parts += seeds()
        assert parts == whole
    assert len({s for part in [whole, *others] for s in part}) == 5 * 8


@pytest.mark.parametrize("processes", [2, 4])
def test_validations_agree(processes: int, runs: dict[int, dict[str, Run]]) -> None:
    for setting, expected in (("larger", {"student"}), ("smaller", {"student", "teacher", "fused", "pseudo"})):
        ours, theirs = (runs[n][setting].metrics("val") for n in (1, processes))
        assert {e["layer"] for e in ours} == expected
        for a, b in zip(ours, theirs, strict=True):
            assert (a["list"], a["layer"], a["iter"]) == (b["list"], b["layer"], b["iter"])
            assert [x is None for x in a["iou"]] == [x is None for x in b["iou"]]
            assert b["miou"] == pytest.approx(a["miou"], abs=2e-3)


@pytest.mark.parametrize("processes", [2, 4])
def test_the_same_images_are_skipped_on_any_number_of_processes(
    processes: int, runs: dict[int, dict[str, Run]]
) -> None:
    ours, theirs = runs[1]["skip"], runs[processes]["skip"]
    skipped = [[{**e, "file": Path(e["file"]).name} for e in run.metrics("skipped")] for run in (ours, theirs)]
    assert skipped[0] == skipped[1] and {e["file"] for e in skipped[0]} == set(small_tree.DAMAGED)
    for a, b in zip(ours.metrics("step"), theirs.metrics("step"), strict=True):
        assert [b[name] for name in ("loss_ce", "self_ce")] == pytest.approx([a["loss_ce"], a["self_ce"]], rel=1e-4)


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 7])
def test_every_image_is_validated_once(processes: int, tree: Path, tmp_path: Path) -> None:
    cfg = configuration(tree, tmp_path)
    parts = [datasets.Data(cfg, 0, (rank, processes)) for rank in range(processes)]
    for name in ("val_game_1K", "val_cityscapes", "train_game_9K"):
        seen = [i for data in parts for batch in data.validation(name) for i in batch.index.tolist()]
        assert sorted(seen) == list(range(small_tree.LISTS[name]))
    keys = [list(data.target_views(2).sampler) for data in parts]
    whole = list(datasets.Data(cfg).target_views(2).sampler)
    assert sorted(key for part in keys for key in part) == sorted(whole) and len(whole) == 16


@pytest.mark.parametrize("processes", [2, 4])
def test_inference_writes_the_same_files(processes: int, runs: dict[int, dict[str, Run]]) -> None:
    one, several = (contents(runs[n]["larger"].folder.parent / "masks") for n in (1, processes))
    assert one == several and len(one) == 3 * small_tree.LISTS["val_cityscapes"] + 1  # and what made them
    assert len(set(one.values())) > 3


def test_an_inference_may_take_longer_than_the_timeout(runs: dict[int, dict[str, Run]]) -> None:
    """A process takes 8 seconds longer than the other, and they wait for each other for 6; the zip has all masks."""
    folder = runs[2]["larger"].folder.parent
    masks = contents(folder / "slow").keys() - {"made_by.json"}
    assert len(masks) == 3 * small_tree.LISTS["train_cityscapes"]
    assert "slow" not in json.loads((folder / "jobs.0.json").read_text())
    assert len(zipfile.ZipFile(folder / "slow.zip").namelist()) == small_tree.LISTS["train_cityscapes"]


def contents(folder: Path) -> dict[str, bytes]:
    """The files, but for the temporary ones that a kill may leave behind, and that a later run sweeps away."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not TEMPORARY.fullmatch(path.name)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_killed_inference_goes_on_with_what_is_missing(runs: dict[int, dict[str, Run]]) -> None:
    folders = [runs[n]["larger"].folder.parent for n in (1, 2, 4)]
    whole = contents(folders[0] / "masks")
    left = json.loads((folders[1] / "left.json").read_text())  # by two processes that were killed
    assert 0 < len(left) < len(whole)
    assert contents(folders[1] / "killed") == whole  # by four processes with --resume-output
    done, there = re.search(r"(\d) images, (\d) already existed", (folders[2] / "said.txt").read_text()).groups()
    assert int(done) >= 1 and int(done) + int(there) == small_tree.LISTS["val_cityscapes"]


def configuration(tree: Path, folder: Path, *pairs: str) -> config.CfgNode:
    run = Run(folder, tree, *pairs)
    return config.load(str(folder / "cfg.yaml"), run.changes)[0]


def test_one_process_concerns_all(runs: dict[int, dict[str, Run]]) -> None:
    """A signal to one ends both alike; where one cannot go on the other says so; both times nothing is lost."""
    folder = runs[2]["larger"].folder.parent
    first, last = (json.loads((folder / f"jobs.{rank}.json").read_text()) for rank in (0, 1))
    assert "signal_to_one" not in first and "again" not in first and "again" not in last
    assert last["fault_of_one"] == "UserError: image x.png is damaged"
    assert first["fault_of_one"] == "Fault: process 1 cannot continue: UserError: image x.png is damaged"
    for name in ("signal_to_one", "fault_of_one"):
        path = folder / name / "logs" / "cityscapes" / "e" / "r"
        lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        assert [e["iter"] for e in lines if e["kind"] == "step"] == list(range(1, 9))
        assert "resumes from" in (path / "log.txt").read_text()
    assert "stopped by a signal after 5 iterations" in (
        folder / "signal_to_one" / "logs" / "cityscapes" / "e" / "r" / "log.txt").read_text()
    assert first["baseline"] == last["baseline"] and "the baseline needs synchronised BatchNorm" in first["baseline"]
    assert "2 processes cannot share the 1 source images" in first["few"] and "use at most 1" in first["few"]
    assert not (folder / "refused" / "logs").exists() and not (folder / "refused" / "snapshots").exists()


# launch/ calls it in the place of train.py: the same with a small network.
SMALL_TRAIN = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
import runs  # the stub
import train
from core.cli import run
run(train.main)
"""


@pytest.fixture(scope="module")
def installation(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project at a place where launchers may write, with a baseline to start from."""
    root = tmp_path_factory.mktemp("project")
    for name in ("core", "datasets", "models", "configs"):
        (root / name).symlink_to(ROOT / name)
    (root / "launch").mkdir()
    for path in (ROOT / "launch").glob("*.sh"):
        (root / "launch" / path.name).write_text(path.read_text())
    (root / "train.py").write_text(SMALL_TRAIN.format(root=str(ROOT), tests=str(ROOT / "tests")))
    (root / "data").symlink_to(tree)
    save_stub(root / "baseline.pth")
    return root


def launch(installation: Path, *overrides: str) -> subprocess.Popen[str]:
    """launch/train.sh with two processes, in a session of its own, practically without end."""
    small = (
        "TRAIN.BATCH_SIZE 2 TRAIN.NUM_GROUPS 1 TRAIN.GROUP_SIZE 2 TRAIN.NUM_EPOCHS 100000 TRAIN.SNAPSHOT_ITER 2 "
        "TRAIN.DEVICE cpu DATASET.CROP_SIZE 32,64 DATASET.GAME_SIZE [] MODEL.ARCH stub MODEL.LR 1e-5 "
        "LOG.ITER_VAL 100000 LOG.ITER_TARGET 100000"
    ).split()
    mine = {"NUM_GPUS": "2", "PYTHON": sys.executable, "RESUME": str(installation / "baseline.pth")}
    return subprocess.Popen(
        ["bash", str(installation / "launch" / "train.sh"), "gta", "resnet101", *small, *overrides],
        env={**ENVIRONMENT, **mine}, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def wait_for_training(installation: Path, process: subprocess.Popen[str], after: int = -1) -> int:
    """Until there is a snapshot of a later iteration than `after`; its iterations."""
    end = time.monotonic() + 600
    while time.monotonic() < end and process.poll() is None:
        if (step := last_step(installation)) > after:
            return step
        time.sleep(0.1)
    process.kill()
    raise AssertionError(process.communicate()[1][-3000:])


def last_step(installation: Path) -> int:
    path = installation / "snapshots" / "cityscapes" / "v1" / "01_gta_resnet101" / "last.pth"
    return torch.load(path, weights_only=True)["run"]["step"] if path.exists() else -1


def trainers(session: int) -> list[int]:
    """The training processes that the launcher of a session has started."""
    launchers, parents = set(), {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            fields = (path / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile
        parents[int(path.name)] = int(fields[1])
        if int(fields[3]) == session and b"core.torchrun" in words:
            launchers.add(int(path.name))
    return [pid for pid, parent in parents.items() if parent in launchers]


def test_a_mistake_in_a_launched_run_of_two_processes_is_one_line(installation: Path) -> None:
    (installation / "baseline.pth").rename(installation / "gone.pth")
    try:
        process = launch(installation)
        said = process.communicate(timeout=600)[1]
    finally:
        (installation / "gone.pth").rename(installation / "baseline.pth")
    lines = [line for line in said.splitlines() if not line.startswith("warning: no data/cs_weights")]
    assert process.returncode == 2 and len(lines) == 1, said
    assert lines[0].startswith("error: ") and "baseline.pth does not exist" in lines[0]
    assert not (installation / "snapshots").exists()


def test_a_launched_run_of_two_processes_is_stopped_goes_on_and_is_killed(installation: Path) -> None:
    """SIGTERM to the launcher: everything is written, and the next start goes on; one killed ends the other, too."""
    first = launch(installation)
    wait_for_training(installation, first)
    first.send_signal(signal.SIGTERM)
    said = "".join(first.communicate(timeout=600))
    assert first.returncode == 0, said
    assert "the same command resumes from there" in said and "Traceback" not in said and "error" not in said
    stopped = last_step(installation)
    assert f"stopped by a signal after {stopped} iterations" in said

    second = launch(installation)
    reached = wait_for_training(installation, second, stopped)
    both = trainers(second.pid)
    assert len(both) == 2
    os.kill(both[1], signal.SIGKILL)
    out, said = second.communicate(timeout=600)
    assert second.returncode == 128 + signal.SIGKILL, said
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "was killed by SIGKILL; the others were stopped" in errors[0]
    assert not any(Path(f"/proc/{pid}").exists() for pid in both)
    folder = installation / "logs" / "cityscapes" / "v1" / "01_gta_resnet101"
    assert f"{stopped} iterations in all" in (folder / "log.txt").read_text()
    steps = [e["iter"] for e in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
             if e["kind"] == "step"]
    assert steps[:reached] == list(range(1, reached + 1))  # neither gaps nor doubles
