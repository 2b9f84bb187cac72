"""How much there is to read: the paper's own part, the trainer, what one iteration enters (`-n 0` prints it)."""

import sys
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
import small_tree
from runs import Run

from core import config
from core.run_folder import Run as Folder
from core.trainer import Trainer

ROOT = Path(__file__).parents[1]


def lines(*names: str) -> int:
    return sum(len((ROOT / name).read_text(encoding="utf-8").splitlines()) for name in names)


def test_the_paper_s_own_part_is_short() -> None:
    assert lines("models/consistency.py") <= 140
    assert lines("models/consistency.py", "models/sac.py", "core/steps.py") <= 460
    assert lines("core/trainer.py") <= 180


class Trace:
    """Which functions of the project are entered between two calls of a method."""

    def __init__(self) -> None:
        self.entered: set[CodeType] = set()

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(ROOT) and not path.is_relative_to(ROOT / "tests"):
            if not any(part.startswith(".") for part in path.relative_to(ROOT).parts):
                self.entered.add(frame.f_code)

    @property
    def files(self) -> list[str]:
        return sorted({str(Path(code.co_filename).relative_to(ROOT)) for code in self.entered})


def traced(trainer: Trainer, method: str, number: int) -> Trace:
    """What is entered from the `number`th call of a trainer's method to the next."""
    trace, original, calls = Trace(), getattr(trainer, method), 0

    def counted(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        sys.setprofile(trace if calls == number else None)
        return original(*args)

    setattr(trainer, method, counted)
    trainer.fit()
    sys.setprofile(None)
    assert calls > number
    return trace


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    small_tree.make(tmp_path / "data")
    run = Run(tmp_path / "run", tmp_path / "data", "TRAIN.MAX_ITER", "4", "MODEL.ARCH", "deeplabv2_resnet18",
              "TRAIN.SNAPSHOT_ITER", "100")
    cfg, _ = config.load(str(run.folder / "cfg.yaml"), run.changes)
    return Trainer(cfg, Folder("e", "r", "cityscapes", str(tmp_path / "s"), str(tmp_path / "l")), workers=0)


@pytest.mark.parametrize("read, files, functions", [(False, 15, 110), (True, 20, 150)])
def test_one_iteration_enters_few_files(
    read: bool, files: int, functions: int, trainer: Trainer, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """Loading in the same process included; every tenth iteration, or after two seconds, it is also read and logged."""
    monkeypatch.setattr("core.trainer.READ_SECONDS", 0.0 if read else 1e9)
    trace = traced(trainer, "fetch", 3)
    with capsys.disabled():
        print(f"\none SAC iteration{', with its logging,' if read else ''} enters {len(trace.files)} files and "
              f"{len(trace.entered)} functions: {', '.join(trace.files)}")
    assert len(trace.files) <= files and len(trace.entered) <= functions
