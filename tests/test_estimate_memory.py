"""tools/estimate_memory.py: the numbers of docs/reproduction.md, and that they move as they must."""

import re
from pathlib import Path

import pytest

from core import config
from core.cli import UserError
from tools import estimate_memory

ROOT = Path(__file__).parents[1]


def test_the_page_has_the_numbers_of_now() -> None:
    cfg, _ = config.load(str(ROOT / "configs/deeplabv2_resnet101_train.yaml"))
    page = (ROOT / "docs/reproduction.md").read_text()
    rows = dict(re.findall(r"^\| (float32|bfloat16) \| (.*) \|$", page, re.MULTILINE))
    for precision, row in rows.items():
        first, second = (float(cell) for cell in row.split(" | ")[:2])
        now = [estimate_memory.estimate(cfg, 19, m, precision == "bfloat16") / 1e9 for m in (1, 2)]
        assert now == pytest.approx([first, second], abs=0.15)
        assert now[1] < 11  # what the page says of GPUs of 11 GB
    assert len(rows) == 2


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    words = ["--cfg", str(ROOT / "configs/fcn_vgg16_train.yaml"), "--micro-batches", "1", "2", "--set",
             "TRAIN.PRECISION", "float32", "DATASET.CROP_SIZE", "64,96"]
    monkeypatch.setattr("models.fcn.HIDDEN", 16)
    monkeypatch.setattr("sys.argv", ["estimate_memory.py", *words])
    estimate_memory.main()
    numbers = re.findall(r"float32 +TRAIN.MICRO_BATCH (\d): +([\d.]+)", capsys.readouterr().out)
    assert [n for n, _ in numbers] == ["1", "2"] and all(float(size) > 1 for _, size in numbers)
    monkeypatch.setattr("sys.argv", ["estimate_memory.py", "--cfg", "nowhere.yaml"])
    with pytest.raises(UserError, match="nowhere"):
        estimate_memory.main()
