"""What a snapshot of a run says of it, whoever wrote it: checked once, and it leads nowhere but into its own folder."""

import copy
import math
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core import checkpoint, config, run_folder
from core.alarms import Alarms
from core.cli import UserError
from core.files import parse_yaml
from core.log import METRICS, Log
from core.run_folder import Run
from core.tensorboard import PREFIX

NAMES = ("road", "car")
EVENTS = f"{PREFIX}1700000000.host"


def entry() -> dict[str, Any]:
    """As a training writes it in the middle of its second epoch."""
    alarms = Alarms(NAMES)
    alarms.step(0.5, [True, False], [0.7, 0.3])
    alarms.validation("val", 0.4)
    return {
        "epoch": 1, "iteration": 3, "step": 11, "validated": True, "rng": torch.get_rng_state(),
        "seed": 0, "baseline": False, "per_epoch": 8, "config": config.defaults().dump(), "origin": {"torch": "2.6"},
        "classes": list(NAMES), "lists": {"source": "a" * 64, "target": "b" * 64}, "alarms": alarms.memory,
        "kept": [[0.4, 1, "epoch001_score0.400.pth"]],
        "skipped": {"source": ["a.png"], "target": []}, "log": {METRICS: 1000, EVENTS: 50},
    }  # fmt: skip


def use(run: dict[str, Any], folder: Path) -> None:
    """Everything that a run that goes on does with it, before the first iteration and in it."""
    best = checkpoint.Best(folder)
    best.kept = [tuple(kept) for kept in run["kept"]]
    assert 0 <= best.score <= 1
    best.tidy()
    alarms = Alarms(run["classes"])
    alarms.memory = copy.deepcopy(run["alarms"])
    alarms.step(0.001, [True] * len(run["classes"]), [0.5] * len(run["classes"]))
    alarms.validation("val", 0.1)
    torch.Generator().set_state(run["rng"])
    assert 0 <= run["iteration"] <= run["per_epoch"] and min(run[name] for name in ("epoch", "step", "seed")) >= 0
    assert all(isinstance(key, str) for keys in parse_yaml(run["config"], "").values() for key in keys.keys())
    assert all(isinstance(file, str) for files in run["skipped"].values() for file in files)


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_run_s_own_entry_passes(tmp_path: Path) -> None:
    run = entry()
    assert checkpoint.checked_run(run, "last.pth") is run
    torch.save(run, tmp_path / "x")
    use(checkpoint.checked_run(torch.load(tmp_path / "x", weights_only=True), "last.pth"), tmp_path)


@pytest.mark.parametrize("name", checkpoint.RUN)
def test_every_part_is_needed(name: str) -> None:
    run = entry()
    del run[name]
    assert "not written by a training run of this program" in refusal(lambda: checkpoint.checked_run(run, "last.pth"))


@pytest.mark.parametrize("saved", [None, [], "run", 1, {}, torch.zeros(1), {"epoch": 1}])
def test_what_is_no_entry(saved: Any) -> None:
    assert refusal(lambda: checkpoint.checked_run(saved, "last.pth")).startswith("last.pth was not written")


WRONG = {
    "epoch": [-1, True, 1.0, "1", None, 2**60, torch.tensor(1)],
    "iteration": [-1, 9, 1.5],
    "step": [-3, math.nan, [1]],
    "validated": [0, 1, "True", None, torch.tensor(True)],
    "seed": [-1, 0.0, "0"],
    "baseline": [0, "False", None],
    "per_epoch": [-1, 8.0, False],
    "config": [None, {}, "", "just text", "A: [1]", "A: {b: ", "a: 1", "x: &a [1]\ny: *a", "- 1", "\x07"],
    "origin": [None, {"a": 1}, {1: "a"}, ["a"]],
    "classes": [None, ["road", 1], ("road", "car"), "roadcar"],
    "kept": [
        None, {}, [[0.4, 1]], [[0.4, 1, "epoch001_score0.400.pth", 1]], [(0.4, 1, "epoch001_score0.400.pth")],
        [[1, 1, "epoch001_score0.400.pth"]], [[0.4, 1.0, "epoch001_score0.400.pth"]], [[0.4, 1, b"x"]],
        [[math.nan, 1, "epoch001_score0.400.pth"]], [[math.inf, 1, "epoch001_score0.400.pth"]],
        [[0.4, -1, "epoch001_score0.400.pth"]], [[0.4, 1, "last.pth"]], [[0.4, 1, "../epoch001_score0.400.pth"]],
        [[0.4, 1, "/etc/passwd"]], [[0.4, 1, ""]], [[0.4, 1, "epoch001_score0.400.pth\n"]],
        [[0.4, i, f"epoch00{i}_score0.400.pth"] for i in range(4)],
    ],
    "log": [None, [], {METRICS: -1}, {METRICS: 1.0}, {METRICS: True}, {1: 1}, {METRICS: "1"}],
    "skipped": [None, [], {"source": "a.png"}, {"source": [1]}, {1: []}],
    "rng": [
        None, [1], b"x", torch.zeros(0, dtype=torch.uint8), torch.zeros(5056), torch.zeros(10, dtype=torch.uint8),
        torch.zeros(2, 5056, dtype=torch.uint8), torch.get_rng_state().to(torch.int16), torch.get_rng_state()[:-1],
    ],
    "lists": [None, [], {}, {"source": "a"}, {"source": "a", "target": None}],
    "alarms": [None, [], {}, {"said": []}, {**Alarms(["road"]).memory}],
}  # fmt: skip
INNER = {
    "said": [None, "x", [1]], "steps": [-1, 1.0, None], "seen": [None, [1], [1, 2, 3], [1.0, 2.0], [-1, 0]],
    "absent": [[0], ["a", "b"], {0: 1}], "few": [True, -1], "all": [None, 0.5],
    "entropy": [0, None, math.nan, math.inf, "x"], "first": [None, [], {"val": 1}, {1: 0.5}, {"val": None}],
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_parts_of_another_kind(name: str, value: Any) -> None:
    said = refusal(lambda: checkpoint.checked_run(entry() | {name: value}, "last.pth"))
    assert said.startswith(f"last.pth is damaged: its entry {name!r} is invalid") and "--run" in said


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in INNER.items() for value in values])
def test_what_the_alarms_remember_is_checked_inside(name: str, value: Any) -> None:
    run = entry()
    for damaged in ({**run["alarms"], name: value}, {k: v for k, v in run["alarms"].items() if k != name}):
        changed = run | {"alarms": damaged}
        assert "entry 'alarms'" in refusal(lambda changed=changed: checkpoint.checked_run(changed, "x"))


def test_a_validation_without_a_labelled_pixel_is_no_damage() -> None:
    run = entry()
    run["alarms"]["first"]["empty"] = math.nan
    checkpoint.checked_run(run, "last.pth")


odd = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.integers(), st.floats(), st.text(max_size=3),
    st.binary(max_size=3), st.lists(st.integers(-1, 1), max_size=3), st.lists(st.text(max_size=2), max_size=2),
    st.dictionaries(st.text(max_size=3) | st.integers(), st.integers() | st.text(max_size=2), max_size=2),
    st.sampled_from([torch.zeros(0), torch.zeros(5056, dtype=torch.uint8), torch.tensor(3), (), set()]),
)  # fmt: skip


def places(value: Any, path: tuple = ()) -> list[tuple]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [p for key, part in inner for p in places(part, (*path, key))]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.data())
def test_whatever_is_damaged_it_is_refused_or_usable(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    """Parts replaced, left out, added, at any depth: no other end than a UserError, or an entry that works."""
    run = copy.deepcopy(entry())
    for _ in range(data.draw(st.integers(1, 3))):
        *way, last = data.draw(st.sampled_from(places(run)))
        holder: Any = run
        for key in way:
            holder = holder[key]
        change = data.draw(st.sampled_from(["replace", "remove", "add"]))
        if change == "remove":
            del holder[last]
        elif change == "replace" or not isinstance(holder[last], (dict, list)):
            holder[last] = data.draw(odd)
        elif isinstance(holder[last], dict):
            holder[last][data.draw(st.text(max_size=3))] = data.draw(odd)
        else:
            holder[last].append(data.draw(odd))
    try:
        checked = checkpoint.checked_run(run, "last.pth")
    except UserError as error:
        assert str(error).startswith("last.pth ")
    else:
        use(checked, tmp_path_factory.getbasetemp())


# --- names in somebody else's run folder


FOREIGN = ["../victim", "{}/victim", "./victim", "sub/../../victim", "..", ".", "", "victim\0", "link"]


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_bytes(b"precious")
    return path


@pytest.mark.parametrize("name", FOREIGN)
def test_the_log_is_cut_in_its_own_folder_alone(tmp_path: Path, victim: Path, name: str) -> None:
    logs = tmp_path / "logs"
    (logs / "sub").mkdir(parents=True)
    (logs / METRICS).write_bytes(b"0123456789")
    (logs / "link").symlink_to(victim)
    (logs / "notes.txt").write_bytes(b"mine")
    log = Log(logs)
    log.begin(1, {METRICS: 4, name.format(tmp_path): 2, "notes.txt": 1})
    log.close()
    assert victim.read_bytes() == b"precious" and (logs / "notes.txt").read_bytes() == b"mine"
    assert (logs / METRICS).read_bytes() == b"0123"


@pytest.mark.parametrize("name", [METRICS, "log.txt", EVENTS])
@pytest.mark.parametrize("kind", ["link", "pipe"])
@pytest.mark.parametrize("position", [None, {METRICS: 1, EVENTS: 1}])
def test_a_log_that_leads_elsewhere(
    tmp_path: Path, victim: Path, name: str, kind: str, position: dict[str, int] | None
) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    path = logs / name
    path.symlink_to(victim) if kind == "link" else os.mkfifo(path)
    log = Log(logs)
    assert str(path) in refusal(lambda: log.begin(1, position))
    assert victim.read_bytes() == b"precious" and path.is_symlink() == (kind == "link")


@pytest.mark.parametrize("name", [*FOREIGN, "last.pth", "epoch001_score0.400.pth/../../victim", "notes.txt"])
def test_only_a_run_s_own_snapshots_are_tidied(tmp_path: Path, victim: Path, name: str) -> None:
    folder = tmp_path / "snapshots"
    (folder / "sub").mkdir(parents=True)
    (folder / "link").symlink_to(victim)
    for own in ("last.pth", "notes.txt", "epoch001_score0.400.pth", "epoch002_score0.500.pth", "epoch003_score0.1.pth"):
        (folder / own).write_bytes(b"mine")
    (folder / ".written").write_text(f"epoch001_score0.400.pth\nepoch002_score0.500.pth\n{name.format(tmp_path)}\n")
    best = checkpoint.Best(folder)
    best.kept = [(0.5, 2, "epoch002_score0.500.pth")]
    best.tidy()
    assert victim.read_bytes() == b"precious"
    assert sorted(p.name for p in folder.iterdir()) == [
        ".written", "epoch002_score0.500.pth", "epoch003_score0.1.pth", "last.pth", "link", "notes.txt", "sub"]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\0", b"x" * 100_000, b"\n\n \n"])
def test_a_damaged_list_of_what_is_written(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".written").write_bytes(content)
    checkpoint.Best(tmp_path).tidy()
    assert os.listdir(tmp_path) == [".written"]


def test_the_list_of_what_is_written_leads_nowhere(tmp_path: Path, victim: Path) -> None:
    folder = tmp_path / "snapshots"
    folder.mkdir()
    (folder / ".written").symlink_to(victim)
    best = checkpoint.Best(folder)
    best.tidy()
    state = {"model": {"w": torch.ones(1)}}
    assert "symbolic link" in refusal(lambda: best.offer(0.5, 1, state))
    best.begin(None)
    assert best.offer(0.5, 1, state)
    assert victim.read_bytes() == b"precious"
    assert (folder / ".written").read_text() == "epoch001_score0.500.pth\n"


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_the_lock_follows_no_link(tmp_path: Path, victim: Path, kind: str) -> None:
    folder = Run("e", "r", snapshot_dir=str(tmp_path / "snapshots"))
    folder.snapshots.mkdir(parents=True)
    lock = folder.snapshots / ".lock"
    {"link": lambda: lock.symlink_to(victim), "pipe": lambda: os.mkfifo(lock), "folder": lock.mkdir}[kind]()
    assert str(folder.snapshots) in refusal(folder.lock)
    assert victim.read_bytes() == b"precious"


def test_the_lock_s_file_is_left_as_it_is(tmp_path: Path) -> None:
    folder = Run("e", "r", snapshot_dir=str(tmp_path))
    folder.snapshots.mkdir(parents=True)
    (folder.snapshots / ".lock").write_bytes(b"mine")
    folder.lock().close()
    assert (folder.snapshots / ".lock").read_bytes() == b"mine"


def test_windows_has_a_lock_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked: list[tuple[int, int]] = []

    def locking(number: int, mode: int, size: int) -> None:
        if locked:
            raise PermissionError
        locked.append((mode, size))

    monkeypatch.setattr(run_folder, "fcntl", None)
    monkeypatch.setattr(run_folder, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK=2), raising=False)
    folder = Run("e", "r", snapshot_dir=str(tmp_path))
    folder.lock()
    assert locked == [(2, 1)]
    assert "another run is writing" in refusal(folder.lock)


def test_the_best_three_stay(tmp_path: Path) -> None:
    best = checkpoint.Best(tmp_path)
    for epoch, score in enumerate((0.1, 0.4, 0.2, 0.3, math.nan, 0.05), 1):
        best.offer(score, epoch, {"model": {}})
        best.tidy()
    assert sorted(p.name for p in tmp_path.glob("epoch*")) == [
        "epoch002_score0.400.pth", "epoch003_score0.200.pth", "epoch004_score0.300.pth"]
    assert best.score == 0.4


def test_a_killed_writer_s_half_of_a_snapshot_is_gone_with_the_next(tmp_path: Path) -> None:
    (tmp_path / f".{'a' * 16}.part").write_bytes(bytes(1000))
    checkpoint.save(tmp_path / "last.pth", {"model": {}})
    assert os.listdir(tmp_path) == ["last.pth"]


@pytest.mark.parametrize("state", [
    {"exp_avg": 1.0, "exp_avg_sq": torch.zeros(2), "step": 1},
    {"exp_avg": torch.zeros(2), "exp_avg_sq": None, "step": 1},
    {"exp_avg": torch.zeros(2), "exp_avg_sq": torch.zeros(3), "step": 1},
    {"exp_avg": torch.zeros(2), "exp_avg_sq": torch.full((2,), math.nan), "step": 1},
    {"exp_avg": torch.zeros(2), "exp_avg_sq": torch.zeros(2), "step": -1},
    {"exp_avg": torch.zeros(2), "exp_avg_sq": torch.zeros(2), "step": torch.zeros(3)},
    {"exp_avg": torch.zeros(2), "exp_avg_sq": torch.zeros(2), "step": "x"},
    {"exp_avg": torch.zeros(2), "exp_avg_sq": torch.zeros(2), "step": math.nan},
])  # fmt: skip
def test_a_damaged_state_of_adam(state: dict[str, Any]) -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    optimiser = torch.optim.Adam([weight])
    saved = {"state": {0: state}, "param_groups": [{"params": [0]}]}
    assert "last.pth" in refusal(lambda: checkpoint.carry_momentum(optimiser, saved, "last.pth"))
    good = {"exp_avg": torch.ones(2), "exp_avg_sq": torch.ones(2), "step": torch.tensor(3.0)}
    assert checkpoint.carry_momentum(optimiser, {**saved, "state": {0: good}}, "last.pth")
    assert not checkpoint.carry_momentum(optimiser, {**saved, "state": {0: {"momentum_buffer": None}}}, "last.pth")
    weight.grad = torch.ones(2)
    optimiser.step()
