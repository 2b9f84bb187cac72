"""tools/summarise_runs.py on written logs: mean, deviation, best, last and lowest over seeds."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run_of(folder: Path, scores: dict[str, list[float]], layer: str = "student", tail: str = "") -> str:
    folder.mkdir()
    entries = [{"kind": "step", "epoch": 1, "iter": 1, "loss_ce": 1.0}]
    for name, values in scores.items():
        val = {"kind": "val", "list": name, "layer": layer}
        entries += [{**val, "epoch": 2 * i, "iter": i, "miou": value} for i, value in enumerate(values, 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries) + tail)
    return str(folder)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / "summarise_runs.py"), *arguments], capture_output=True, text=True
    )


def test_over_three_seeds(tmp_path: Path) -> None:
    runs = [
        run_of(tmp_path / "a", {"val": [0.30, 0.50, 0.40], "val2": [0.2]}),
        run_of(tmp_path / "b", {"val": [0.60, 0.35, 0.38]}, tail='{"kind": "val", "epo'),  # cut off by a kill
        run_of(tmp_path / "c", {"val": [0.10, math.nan, 0.43]}),
    ]
    done = command(*runs, "--json", str(tmp_path / "out.json"))
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    best, last, lowest = (result["lists"]["val"][which] for which in ("best", "last", "lowest"))
    assert best["values"] == [0.5, 0.6, 0.43] and best["epochs"] == [4, 2, 6]
    assert last["values"] == [0.4, 0.38, 0.43] and last["epochs"] == [6, 6, 6]
    assert lowest["values"] == [0.3, 0.35, 0.1] and lowest["epochs"] == [2, 4, 2]
    assert best["mean"] == pytest.approx(0.51) and best["deviation"] == pytest.approx(math.sqrt(0.0073))
    assert (best["min"], best["max"]) == (0.43, 0.6)
    assert result["lists"]["val2"]["runs"] == 1 and result["lists"]["val2"]["last"]["deviation"] is None
    lines = done.stdout.splitlines()
    assert lines[1].split() == ["val", "best", "51.00", "8.54", "43.0", "60.0", "50.0", "60.0", "43.0"]
    assert lines[2].split()[:4] == ["val", "last", "40.33", "2.52"]
    assert lines[-1].split() == ["missing", "in", runs[1] + ",", runs[2]]
    again = command(*runs, "--json", str(tmp_path / "out.json"))
    assert again.returncode == 2 and "already exists; --force replaces it" in again.stderr


def test_one_list_and_one_layer(tmp_path: Path) -> None:
    path = run_of(tmp_path / "a", {"views": [0.3], "other": [0.9]}, layer="teacher")
    done = command(path + "/metrics.jsonl", "--layer", "teacher", "--list", "views")
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 4 and "30.00" in done.stdout


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "metrics.jsonl"),
        ("", "empty"),
        ('{"kind": "step"}\n', "none of the runs has validated the student"),
        ('not json\n{"kind": "step"}\n', "metrics.jsonl:1: not a line"),
        ('["a"]\n{"kind": "step"}\n', "metrics.jsonl:1: not a line"),
        ('{"kind": "val", "layer": "student"}\n{"kind": "step"}\n', "metrics.jsonl:1: not a line"),
    ],
)
def test_user_s_mistakes(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content)
    done = command(str(tmp_path))
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and message in done.stderr
