"""The launchers, with a Python that only writes down what it is asked for, and an nvidia-smi of our own."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAUNCHERS = {"train": ("gta", "vgg16", "base"), "infer_val": ()}  # with what they need to be told
# In the place of Python. STUB is what it does when it is asked for more than whether it is there.
PYTHON = """#!/bin/bash
[ "$1" != -c ] || exit 0
printf '%s\\n' "$@" >"$ASKED"
eval "${STUB:-}"
"""
SMI = """#!/bin/sh
[ "$1" = --list-gpus ] || exit 1
echo "GPU 0: NVIDIA A100 (UUID: GPU-0a)"
echo "  MIG 1g.5gb Device 0: (UUID: MIG-0b)"
i=1; while [ $i -lt {} ]; do echo "GPU $i: NVIDIA A100 (UUID: GPU-$i)"; i=$((i + 1)); done
"""


class Project:
    """The launchers at a place of their own, with configurations, and a run with snapshots."""

    run = "snapshots/cityscapes/v1/01_gta_resnet101"

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("launch", "tools"):
            (root / name).mkdir()
        for path in [*(ROOT / "launch").glob("*.sh"), *(ROOT / "tools").glob("*.sh")]:
            shutil.copy(path, root / path.parent.name, follow_symlinks=False)
        self.program("bin/python", PYTHON)
        (root / self.run).mkdir(parents=True)
        for name in ("last", "epoch002_score0.300", "epoch004_score0.412", "epoch006_score0.412"):
            (root / self.run / f"{name}.pth").touch()

    def program(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def gpus(self, number: int) -> None:
        self.program("bin/nvidia-smi", SMI.format(number) if number else "#!/bin/sh\nexit 9\n")

    def environment(self, **more: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if k in ("HOME", "LANG", "TMPDIR")}
        mine = {"PATH": f"{self.root / 'bin'}:/usr/bin:/bin", "PYTHON": str(self.root / "bin/python")}
        return {**kept, **mine, "ASKED": str(self.root / "asked"), **more}

    def start(self, launcher: str, *words: str, **more: str) -> subprocess.Popen[str]:
        command = ["bash", str(self.root / "launch" / f"{launcher}.sh"), *words]
        return subprocess.Popen(command, env=self.environment(**more), cwd=self.root / "bin", text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def call(self, launcher: str, *words: str, **more: str) -> tuple[int, str, str]:
        """Exit status, stdout, stderr."""
        process = self.start(launcher, *(words or LAUNCHERS.get(launcher, ())), **more)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def asked(self) -> list[str]:
        return (self.root / "asked").read_text().splitlines()

    def processes(self, **more: str) -> int:
        """How many are started; 1 = without torchrun."""
        (self.root / "asked").unlink(missing_ok=True)
        status, _, err = self.call("train", **more)
        assert status == 0, err
        words = self.asked()
        if words[:2] != ["-m", "core.torchrun"]:
            assert words[0] == "train.py"
            return 1
        assert words[words.index("--") + 1] == "train.py"
        return int(words[words.index("--nproc_per_node") + 1])


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


# --- how many processes


@pytest.mark.parametrize(
    ("there", "visible", "expected"),
    [
        (0, None, 1), (1, None, 1), (4, None, 4),
        (4, "", 1), (4, "-1", 1),
        (4, "2", 1), (4, "0,2", 2), (4, " 3, 1 ", 2), (4, "0,1,2,3", 4), (4, "00,01", 2), (4, "1,2,", 2),
        (4, "GPU-1a2b", 1), (4, "GPU-1a2b,GPU-77", 2), (4, "MIG-GPU-1/2/0", 1), (4, "MIG-5,MIG-6,MIG-7", 3),
        (4, "0,1,4,2", 2),  # CUDA stops at the first that is not there
        (4, "0,-1,1,2", 1), (4, "1,x,2", 1), (4, "7", 1), (4, "99999999999999999999", 1), (2, "0,1,2,3", 2),
        (4, "0,1,0", 1), (4, "GPU-1,GPU-1", 1),  # and shows none where one is named twice
        (4, "*", 1), (4, "NoDevFiles", 1),
        (0, "0,1", 1), (0, "GPU-1,GPU-2", 1),  # left over from a machine with GPUs
    ],
)  # fmt: skip
def test_cuda_visible_devices(project: Project, there: int, visible: str | None, expected: int) -> None:
    project.gpus(there)
    more = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert project.processes(**more) == expected


def test_a_machine_whose_gpus_are_hidden_by_mistake_says_so_once(project: Project) -> None:
    project.gpus(4)
    said = {visible: project.call("infer_val", CUDA_VISIBLE_DEVICES=visible)[2] for visible in ("7", "-1", "")}
    assert said == {"7": "warning: CUDA_VISIBLE_DEVICES=7: CUDA sees none of the 4 GPUs\n", "-1": "", "": ""}


def test_num_gpus_is_what_the_user_says(project: Project) -> None:
    project.gpus(4)
    assert [project.processes(NUM_GPUS=n, CUDA_VISIBLE_DEVICES="0") for n in ("1", "3", "08", "0")] == [1, 3, 8, 1]
    (project.root / "bin/nvidia-smi").unlink()
    assert project.processes() == 1


def test_several_machines(project: Project) -> None:
    project.gpus(2)
    more = {"NNODES": "3", "NODE_RANK": "2", "MASTER_ADDR": "node0"}
    assert project.processes(**more) == 2 and project.processes(**more, NUM_GPUS="1") == 1  # by torchrun even then
    where = "--nnodes 3 --node_rank 2 --master_addr node0 --master_port 29500"
    assert " ".join(project.asked()).startswith(f"-m core.torchrun {where} --nproc_per_node 1 -- train.py")
    assert project.processes(NNODES="1", NODE_RANK="x", NUM_GPUS="1") == 1


# --- what is refused, before anything is made

NAMES = ["../../zz", "..", "a/b", "/tmp", "a\\b", "new\nline", "x" * 300]


@pytest.mark.parametrize(
    ("launcher", "variable", "value"),
    [
        *[("train", variable, name) for variable in ("EXP", "EXP_ID") for name in NAMES],
        *[("infer_val", variable, name) for variable in ("EXP", "RUN_ID") for name in NAMES],
        ("infer_val", "FILELIST", ".."),
        *[(launcher, *pair) for launcher in LAUNCHERS for pair in (
            ("NUM_GPUS", "x"), ("NUM_GPUS", "-1"), ("NUM_GPUS", "1e3"), ("NUM_GPUS", "99999999999999999999"),
            ("NNODES", "x"), ("NNODES", "0"), ("NNODES", "1:4"),
            ("WORLD_SIZE", "4"), ("RANK", "1"), ("LOCAL_RANK", "x"), ("LOCAL_WORLD_SIZE", "2"),
        )],
    ],
)  # fmt: skip
def test_refused_before_anything_is_made(project: Project, launcher: str, variable: str, value: str) -> None:
    before = sorted(project.root.rglob("*"))
    status, out, err = project.call(launcher, **{variable: value})
    assert (status, out) == (2, "") and err.startswith(f"error: {variable}")
    assert err.count("\n") == 1 + value.count("\n")
    assert sorted(project.root.rglob("*")) == before and not list(project.root.parent.glob("zz*"))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "NODE_RANK=: expected a number from 0 to 1"),
        ({"NODE_RANK": "x"}, "NODE_RANK=x: expected a number from 0 to 1"),
        ({"NODE_RANK": "2", "MASTER_ADDR": "a"}, "NODE_RANK=2: expected a number from 0 to 1"),
        ({"NODE_RANK": "0"}, "NNODES=2 needs MASTER_ADDR"),
        ({"NODE_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "x"}, "MASTER_PORT=x: expected a number from 1 to"),
        ({"NODE_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "70000"}, "MASTER_PORT=70000: expected"),
    ],
)
def test_machines_that_are_half_described(project: Project, more: dict[str, str], said: str) -> None:
    status, _, err = project.call("train", NNODES="2", **more)
    assert status == 2 and err.startswith(f"error: {said}") and err.count("\n") == 1
    assert not (project.root / "logs").exists()


def test_what_schedulers_set_without_harm(project: Project) -> None:
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    assert project.processes(**alone) == 1


@pytest.mark.parametrize("python", ["nowhere/python", "no-such-python"])
def test_a_python_that_does_not_run(project: Project, python: str) -> None:
    status, _, err = project.call("train", PYTHON=python)
    assert status == 2 and err == f"error: {python} does not run: set PYTHON to another Python (README.md, Install)\n"


def test_a_python_is_named_from_where_the_launcher_is_called(project: Project) -> None:
    assert project.processes(PYTHON="./python") == 1


@pytest.mark.parametrize("launcher", ["train", "infer_val", "demo", "adapt"])
def test_help(project: Project, launcher: str) -> None:
    status, out, err = project.call(launcher, "--help")
    assert (status, err) == (0, "") and f"bash launch/{launcher}.sh" in out and "set -" not in out


# --- which snapshot


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", "{run}/epoch004_score0.412.pth"),  # the best, at a tie the earlier
        ("last", "{run}/last.pth"),
        ("epoch002_score0.300", "{run}/epoch002_score0.300.pth"),
        ("epoch002_score0.300.pth", "{run}/epoch002_score0.300.pth"),
        ("{run}/last", "{run}/last.pth"),
        ("mine", "bin/mine.pth"),  # where the launcher is called
        ("{root}/bin/mine.pth", "bin/mine.pth"),
    ],
)
def test_snapshots_by_name(project: Project, given: str, expected: str) -> None:
    (project.root / "bin/mine.pth").touch()
    snapshot = given.format(run=project.run, root=project.root)
    status, out, err = project.call("infer_val", SNAPSHOT=snapshot)
    assert (status, err) == (0, "")
    words = project.asked()
    assert words[words.index("--resume") + 1] == expected.format(run=project.run)
    assert words[0] == "infer_val.py" and {"--exp=v1", "--run=01_gta_resnet101"} <= set(words)


@pytest.mark.parametrize(("given", "expected"), [
    ("", "v1/01_gta_resnet101"), ("last", "v1/01_gta_resnet101"),
    ("snapshots/gta_vgg16/final_e184.pth", "gta_vgg16/final_e184"),
    ("bin/mine", "bin/mine"),
])  # fmt: skip
def test_masks_of_a_foreign_snapshot_are_not_the_run_s(project: Project, given: str, expected: str) -> None:
    (project.root / "snapshots/gta_vgg16").mkdir()
    (project.root / "snapshots/gta_vgg16/final_e184.pth").touch()
    (project.root / "bin/mine.pth").touch()
    assert project.call("infer_val", SNAPSHOT=given)[0] == 0
    words = project.asked()
    folder = words[words.index("--mask-output-dir") + 1]
    assert Path(folder).relative_to(project.root) == Path("masks", expected, "val_cityscapes")


@pytest.mark.parametrize("more", [{"SNAPSHOT": "nowhere"}, {"SNAPSHOT": "launch"}, {"EXP": "v2"}])
def test_no_snapshot(project: Project, more: dict[str, str]) -> None:
    (project.root / "bin/launch").mkdir()
    status, out, err = project.call("infer_val", **more)
    assert (status, out) == (2, "") and err.startswith("error: there is no snapshot ") and err.count("\n") == 1
    assert not (project.root / "masks").exists()


# --- how they end, and where what is said goes

TALKS = 'for i in 1 2 3; do echo "line $i"; echo "said $i" >&2; done; exit 3'


def log(project: Project) -> list[str]:
    path = project.root / "logs/cityscapes/v1/01_abn_gta_vgg16/train.out"
    return sorted(path.read_text().splitlines())


def test_the_screen_and_the_log_get_everything_and_the_status_is_handed_on(project: Project) -> None:
    status, out, err = project.call("train", STUB=TALKS)
    assert (status, out, err) == (3, "line 1\nline 2\nline 3\n", "said 1\nsaid 2\nsaid 3\n")
    assert log(project) == sorted((out + err).splitlines())


@pytest.mark.parametrize(
    ("redirections", "out", "err"),
    [
        ("| true", "", "said 1\nsaid 2\nsaid 3\n"), (">&-", "", "said 1\nsaid 2\nsaid 3\n"),
        ("2>&-", "line 1\nline 2\nline 3\n", ""), (">&- 2>&-", "", ""),
        (">/dev/full", "", "said 1\nsaid 2\nsaid 3\n"), (">/dev/full 2>/dev/full", "", ""),
    ],
)  # fmt: skip
def test_screens_that_are_closed_full_or_not_read(project: Project, redirections: str, out: str, err: str) -> None:
    line = f"set -o pipefail; bash '{project.root}/launch/train.sh' gta vgg16 base {redirections}"
    slow = "sleep 0.3; " + TALKS  # until the reader has gone
    done = subprocess.run(["bash", "-c", line], env=project.environment(STUB=slow), capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (3, out, err)
    end = time.monotonic() + 30
    while len(log(project)) < 6 and time.monotonic() < end:  # nobody waits for tee
        time.sleep(0.01)
    assert log(project) == ["line 1", "line 2", "line 3", "said 1", "said 2", "said 3"]


WAITS = """
trap 'echo interrupted >&2; kill $!; exit 143' TERM
sleep 60 & touch "$ASKED.ready"; wait
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("ends", ["exit 143", "exit 0"])
def test_a_signal_reaches_the_command_and_its_status_is_handed_on(
    project: Project, number: signal.Signals, status: int, ends: str
) -> None:
    """What ends in order, as a training that writes its last snapshot, has the status that it wants."""
    process = project.start("train", *LAUNCHERS["train"], STUB=WAITS.replace("exit 143", ends))
    while not (project.root / "asked.ready").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    assert process.communicate(timeout=30) == ("", "interrupted\n")
    assert process.returncode == (0 if ends == "exit 0" else status)


@pytest.mark.parametrize("launcher", ["demo", "adapt"])
def test_all_stages_are_one_command_s(launcher: str, project: Project) -> None:
    """Which takes the place of the launcher, so that signals reach it."""
    words = ["--seed", "3"] if launcher == "demo" else ["gta", "vgg16", "--dry-run", "VAL.SELECT", ""]
    assert project.call(launcher, *words) == (0, "", "")
    script, *given = project.asked()
    assert script.endswith("tools/adapt.py") and given == (["demo", *words] if launcher == "demo" else words)


def test_a_missing_weights_file_is_said_once_on_the_screen_and_in_the_log(project: Project) -> None:
    (project.root / "base.pth").touch()
    status, out, err = project.call("train", "gta", "vgg16", RESUME=str(project.root / "base.pth"))
    line = "warning: no data/cs_weights_vgg16_gta.data: target images are drawn uniformly"
    assert (status, out, err) == (0, "", f"{line}\n")
    assert (project.root / "logs/cityscapes/v1/01_gta_vgg16/train.out").read_text() == f"{line}\n"


def test_another_target(project: Project) -> None:
    shutil.copytree(ROOT / "configs/domains", project.root / "configs/domains")
    status, _, err = project.call("train", "synthia", "vgg16", "base", "--target", "acdc", "TRAIN.MAX_ITER", "3")
    assert status == 0 and err.startswith("note: DATASET.TARGET_MEAN")
    words = " ".join(project.asked())
    assert "--run=01_abn_synthia_acdc_vgg16 " in words and words.endswith("TRAIN.MAX_ITER 3")
    assert "TRAIN.TARGET train_acdc VAL.LISTS val_acdc,val_synthia" in words
    assert project.call("train", "synthia", "vgg16", "base", "--target", "cityscapes")[0] == 0
    assert "--run=01_abn_synthia_vgg16 " in " ".join(project.asked()) + " "
    for name in ("kitti", "gta", "acdc cityscapes", ""):
        status, _, err = project.call("train", "gta", "vgg16", "base", "--target", name)
        known = "acdc bdd100k camvid cityscapes dark_zurich idd mapillary"
        assert (status, err) == (2, f"error: --target '{name}': expected one of {known}\n")


# --- several processes, by the real torchrun

SEVERAL = """
import os, sys, time
sys.path.insert(0, {root!r})
from core.cli import UserError, run
def main():
    open({folder!r} + "/ready" + os.environ["RANK"], "w").close()
    if "mistake" in sys.argv:
        raise UserError("the list is empty")
    time.sleep(60)
run(main)
"""


@pytest.mark.parametrize(
    ("number", "status", "said"),
    [(signal.SIGINT, 130, "interrupted\n"), (signal.SIGTERM, 143, "interrupted\n"),
     (None, 2, "error: the list is empty\n")],
)  # fmt: skip
def test_what_several_processes_say_is_said_once(
    tmp_path: Path, number: signal.Signals | None, status: int, said: str
) -> None:
    """A signal to the launcher reaches them, although they are in sessions of their own; on any system."""
    # Guarded as a command is, without a command's imports.
    for folder in ("core", "tools"):
        (tmp_path / folder).mkdir()
    shutil.copy(ROOT / "core" / "cli.py", tmp_path / "core")
    script = tmp_path / "tools" / "several.py"
    script.write_text(SEVERAL.format(root=str(tmp_path), folder=str(tmp_path)))
    command = [sys.executable, "-m", "core.torchrun", "--standalone", "--nproc_per_node", "2", "--", str(script)]
    process = subprocess.Popen(command + ["mistake"] * (number is None), cwd=ROOT, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    if number is not None:
        while not all((tmp_path / f"ready{rank}").exists() for rank in (0, 1)):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
    assert process.communicate(timeout=120) == ("", said) and process.returncode == status


# --- the environment and the downloads

# python3 of the system: makes environments whose Python has a pip, unless BROKEN says that it cannot.
SYSTEM = """#!/bin/bash
[ "$1" != -c ] || exit "${OLD:-0}"
[ "$1 $2" = "-m venv" ] || exit 9
mkdir -p "$3/bin"
{
    echo '#!/bin/bash'
    echo "[ -e '$3/pip' ] || { echo 'No module named pip'; exit 1; }"
    echo 'if [ -e "$ASKED.offline" ] && [ "$3" = install ]; then echo "ERROR: no network"; exit 1; fi'
    echo 'echo "$@" >>"$ASKED"'
} >"$3/bin/python"
chmod +x "$3/bin/python"
[ -z "${BROKEN:-}" ] || { printf 'ensurepip is not available.\\n\\nInstall it.\\n'; exit 1; }
touch "$3/pip"
"""


@pytest.fixture
def fresh(project: Project) -> Project:
    """Without an environment; launch/test.sh is to make one."""
    for name in ("requirements.txt", "tests/requirements.txt"):
        project.program(name, "x\n")
    project.program("bin/python3", SYSTEM)
    return project


def make(project: Project, **more: str) -> tuple[int, str]:
    status, _, err = project.call("test", "-x", PYTHON="", **more)
    return status, err


ASKED = ["-m pip --version", "-m pip install --quiet --disable-pip-version-check -r requirements.txt -r "
         "tests/requirements.txt"]  # fmt: skip
TESTS = "-m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder -x"


@pytest.mark.parametrize("left", ["nothing", "a folder", "no pip", "interrupted"])
def test_what_an_interrupted_setup_has_left_is_completed(fresh: Project, left: str) -> None:
    venv = fresh.root / ".venv"
    if left != "nothing":
        (venv / "bin").mkdir(parents=True)
    if left in ("no pip", "interrupted"):
        subprocess.run([fresh.root / "bin/python3", "-m", "venv", venv], env=fresh.environment(), check=True)
    if left == "no pip":
        (venv / "pip").unlink()
    status, err = make(fresh)
    assert status == 0 and err.count("\n") == 1 and err.startswith("installing into ")
    assert fresh.asked() == [*ASKED, TESTS]
    assert make(fresh) == (0, "") and fresh.asked() == [*ASKED, TESTS, TESTS]


def test_environments_that_cannot_be_made(fresh: Project) -> None:
    status, err = make(fresh, OLD="1")
    assert status == 2 and err.splitlines()[1].startswith("error: python3 is not Python 3.10 or newer")
    status, err = make(fresh, BROKEN="1")
    assert status == 2 and err.count("\n") == 2
    assert err.splitlines()[1].startswith("error: python3 -m venv cannot make ")
    assert err.endswith("apt-get install python3-venv; else remove " + f"{fresh.root}/.venv): ensurepip is not "
                        "available. Install it.\n")
    assert make(fresh)[0] == 0  # once python3-venv is there


def test_requirements_that_cannot_be_installed(fresh: Project) -> None:
    (fresh.root / "asked.offline").touch()
    status, err = make(fresh)
    assert status == 2 and err.splitlines()[1:] == [
        "ERROR: no network", "error: pip could not install the requirements; run the same command to try again"]
    assert not list((fresh.root / ".venv").glob("installed-*"))


@pytest.mark.parametrize("kind", ["imagenet", "snapshots", "weights"])
def test_downloads_take_the_launchers_python_and_hand_on_their_name(project: Project, kind: str) -> None:
    for python in (project.root / "bin/python", project.root / ".venv/bin/python", project.root / "bin/python3"):
        shutil.move(project.program("new", PYTHON), project.program(str(python.relative_to(project.root)), ""))
        own = {"PYTHON": str(python) if python.name == "python" and python.parent.parent == project.root else ""}
        script = project.root / "tools" / f"download_{kind}.sh"
        done = subprocess.run(["bash", script, "--out", "x y"], env=project.environment(**own), cwd="/")
        assert done.returncode == 0
        assert project.asked() == [str(project.root / "tools/download.py"), kind, "--out", "x y"]
        (project.root / "asked").unlink()
        python.unlink()
