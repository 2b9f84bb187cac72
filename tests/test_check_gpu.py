"""tools/check_gpu.py: what its rows compare, what a failure is, and what it writes; a GPU or minutes are not needed."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import small_tree
import torch
from runs import Process, serve

from core import checkpoint
from tools import check_gpu
from tools.check_gpu import Check, Row
from tools.gpu_check import children
from tools.gpu_check.children import Children, Failed, Result


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread, here and in what is forked from here."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


ROWS = [Row("machine", "none", "", True), Row("waits", "not measured: no GPU"), Row("loader", "9 images/s", "", True)]


@pytest.mark.parametrize("last, status", [(Row("x", "0.2", "0.1", False), 1), (Row("x", "0.05", "0.1", True), 0)])
def test_the_report_and_the_status(
    last: Row, status: int, threads: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr(sys, "argv", ["tools/check_gpu.py", "--device", "cpu", "--out", str(tmp_path / "out")])
    monkeypatch.setattr(Check, "rows", lambda self: iter([*ROWS, last]))
    monkeypatch.setattr(Children, "call", lambda self, function, *args: None)
    ended = 0
    try:
        check_gpu.main()
    except SystemExit as end:
        ended = end.code
    assert ended == status
    rows = json.loads((tmp_path / "out" / "report.json").read_text())["rows"]
    assert [Row(**row) for row in rows] == [*ROWS, last]
    heading, *lines = (tmp_path / "out" / "report.md").read_text().splitlines()
    assert heading.startswith(f"# GPU check: {status} of 4 failed, ")
    word = "FAIL" if status else "pass"
    assert lines[-2:] == ["| loader | pass | 9 images/s |  |", f"| x | {word} | {last.found} | 0.1 |"]
    assert "x " in capsys.readouterr().out


def written(folder: Path, run: str, losses: list[float], weight: float) -> Result:
    """What a training leaves behind."""
    logs = folder / "logs" / "cityscapes" / "check" / run
    logs.mkdir(parents=True)
    entries = [{"kind": "step", "loss_ce": x, "images_per_second": time.monotonic()} for x in losses]
    (logs / "metrics.jsonl").write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    path = folder / "snapshots" / "cityscapes" / "check" / run / "last.pth"
    path.parent.mkdir(parents=True)
    model = {"a": torch.tensor([weight]), "b": torch.ones(2)}
    checkpoint.save(path, {"model": model, "opt": {}, "epoch": 0, "score": 0.0})
    return Result(folder, run)


def test_what_is_compared(tmp_path: Path) -> None:
    one, other = written(tmp_path, "one", [2.0, 4.0], 1.0), written(tmp_path, "other", [2.0, 4.1], 1 + 2**-23)
    short = written(tmp_path, "short", [2.0], 1.0)
    assert one.deviation(one) == 0 and one.different(one) == 0
    assert other.deviation(one) == pytest.approx(0.025) and other.different(one) == 2  # an entry and a tensor
    assert short.deviation(one) == 0
    with pytest.raises(Failed, match="2 iterations were logged, not 1"):
        one.deviation(short)
    with pytest.raises(ValueError):
        one.different(short)


def fail() -> None:
    raise RuntimeError("no kernel\nand more")


def hang() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("function, limit, said", [
    (fail, 60, "RuntimeError: no kernel"), (hang, 0.5, "took longer than 0.5 s"), (die, 60, "ended with status -9")])
def test_a_check_that_fails_is_a_row(
    function: Callable[[], None], limit: float, said: str, threads: None, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(children, "GRACE", 0.2)
    ours = Children(tmp_path, tmp_path, limit)
    assert check_gpu.attempt("x", lambda: Row("x", str(ours.call(function)))) == Row("x", said, "", False)


def test_a_check_gives_what_its_function_returns(threads: None, tmp_path: Path) -> None:
    assert Children(tmp_path, tmp_path, 60).call(os.path.basename, "a/b") == "b"


def test_trainings_are_compared(threads: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a rehearsal, but with the stub network and fewer iterations."""
    settings = ["stub" if word == "deeplabv2_resnet18" else word for word in children.SETTINGS]
    assert settings != children.SETTINGS
    monkeypatch.setattr(children, "SETTINGS", settings)
    # This process may have run other tests, after which torch trains in none that is forked from it.
    serve()
    monkeypatch.setattr(children.multiprocessing, "get_context", lambda kind: Process.context)
    ours = Children(tmp_path, tmp_path / "world", 120)
    small_tree.make(ours.world)
    check = Check("cpu", ours, tmp_path)
    check.iterations = 4
    rows = [check.precision("baseline", "float32"), check.precision("baseline", "bfloat16"), check.equal("continued")]
    assert all(row.passed for row in rows), rows
    assert rows[0].found.startswith("losses of 4 iterations differ by 0.0e+00")
    assert rows[1].found.startswith("losses of 2 iterations") and "0.0e+00" not in rows[1].found
    assert Result(tmp_path, "continued").steps[-1]["iter"] == 4
    log = tmp_path / "logs" / "cityscapes" / "check" / "continued" / "log.txt"
    assert "2 iterations in all" in log.read_text()
