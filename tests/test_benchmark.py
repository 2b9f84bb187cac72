"""tools/benchmark.py runs every part and says what it found; how fast anything is, is not tested."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import small_tree
import torch

from tools.benchmarks.measure import Row, in_turns, line

ROOT = Path(__file__).parents[1]
ROWS = [
    "decode", "source", "source_baseline", "target", "step", "step_float32", "refine", "refine_all", "infer", "weights",
    "evaluate", "confusion", "convert_cs", "convert_gta", "convert_synthia", "growth_100", "growth_1000",
]  # fmt: skip


def benchmark(*words: object) -> subprocess.CompletedProcess:
    line = [sys.executable, "tools/benchmark.py", *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, env=environment)


def test_every_part(tmp_path):
    done = benchmark("all", "--quick", "--json", tmp_path / "rows.json")
    assert done.returncode == 0, done.stderr
    heading, *lines = done.stdout.splitlines()
    assert heading.split() == ["part", "time", "floor", "ratio", "at", "most", "what"]
    assert [text.split()[0] for text in lines] == ROWS
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert list(rows) == ROWS
    for row in rows.values():
        assert row["seconds"] > 0 and row["floor_seconds"] > 0 and "floor: " in row["what"]
        assert row["ratio"] == pytest.approx(row["seconds"] / row["floor_seconds"])
    goals = {name: row["goal"] for name, row in rows.items() if row["goal"]}
    assert goals == {
        "source": 1.4, "source_baseline": 1.4, "target": 2.0, "step": 1.1, "step_float32": pytest.approx(1 / 2.3),
        "refine": 2.0, "infer": 1.1, "weights": 1.5, "evaluate": 1.5, "confusion": 1.5, "convert_cs": 1.3,
        "convert_gta": 1.3, "convert_synthia": 1.3,
    }  # fmt: skip
    assert {"MB", "weights_s", "draw_us_epoch_0", "draw_us_epoch_1000"} <= set(rows["growth_1000"])


def test_images_of_ones_own(tmp_path):
    small_tree.make(tmp_path)
    done = benchmark("decode", "target", "source", "--quick", "--data", tmp_path)
    assert done.returncode == 0, done.stderr
    assert [text.split()[0] for text in done.stdout.splitlines()[1:]] == [
        "decode", "target", "source", "source_baseline"]


@pytest.mark.parametrize("words, told", [
    (["nothing"], "invalid choice: 'nothing'"),
    (["decode", "--runs", "0"], "--runs 0: expected 1 or more"),
    (["gpu"], "gpu: there is no CUDA device"),
    (["decode", "--data", "nowhere"], "no list 'train_game_9K'"),
])
def test_mistakes_are_one_line(words, told):
    done = benchmark(*words)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and told in done.stderr


def test_medians_are_of_rounds():
    calls = []
    times = in_turns(lambda: calls.append("a"), lambda: calls.append("b"), runs=3)
    assert calls == ["a", "b"] * 4 and len(times) == 2  # the first round does not count
    row = Row("name", "what", 0.5, 0.25, 2.0, {"images": 3})
    assert line(row).split()[:6] == ["name", "500.00", "ms", "250.00", "ms", "2.00"] and line(row).endswith("; images 3")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu(tmp_path):
    done = subprocess.run([sys.executable, "tools/benchmark.py", "gpu", "--quick"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "gpu_step_compiled" in done.stdout and "gpu_loader_8" in done.stdout
