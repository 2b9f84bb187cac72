"""tools/estimate_memory.py: it counts what exists in the real step; the figures of docs/reproduction.md are its own."""

import re
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from core import config
from core.cli import UserError
from models import consistency
from tools import estimate_memory
from tools.estimate_memory import LiveBytes, estimate

ROOT = Path(__file__).parents[1]
MB = 1e6


def configuration(name: str, *pairs: str) -> config.CfgNode:
    small = ["MODEL.ARCH", "deeplabv2_resnet18", "DATASET.CROP_SIZE", "128,256", "TRAIN.BATCH_SIZE", "3",
             "TRAIN.NUM_GROUPS", "1"]
    return config.load(str(ROOT / "configs" / name), [*small, *pairs])[0]


def test_bytes_are_counted_while_they_exist() -> None:
    kept = torch.zeros(1000)
    with LiveBytes() as live:
        live.count([kept, kept[1:]])
        assert live.now == 4000  # one memory counts once
        x = kept + 1
        assert live.now == 8000 and x.sum() == 1000
        x.add_(1)
        x = x.view(10, 100)
        assert live.now == 8000
        x = x.double()
        assert live.now == 12_000 and live.peak == 16_000
        del x
        assert live.now == 4000 and live.peak == 16_000


@pytest.mark.parametrize("name", ["deeplabv2_resnet101_train.yaml", "deeplabv2_resnet101.yaml"])
def test_it_is_what_a_real_iteration_takes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = configuration(name)
    two, all_at_once = estimated = estimate(cfg, False, [2, 0])
    assert two < all_at_once
    monkeypatch.setattr(estimate_memory, "FakeTensorMode", lambda **_: nullcontext())
    monkeypatch.setattr(estimate_memory, "FakeCopyMode", lambda _: nullcontext())
    monkeypatch.setattr(estimate_memory, "copy", SimpleNamespace(deepcopy=lambda step: step))
    assert estimated == pytest.approx(estimate(cfg, False, [2, 0]), abs=0.1 * MB)


def test_it_moves_as_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = configuration("deeplabv2_resnet101_train.yaml")
    plain, largest = estimate(cfg, False, [0, 4])
    assert plain == largest  # 0 is all at once: 3 source images, 4 views
    assert estimate(cfg, True, [0])[0] < plain
    fuse_views = consistency.fuse_views

    def wasteful(m: torch.Tensor, *more: object) -> torch.Tensor:
        _ = torch.zeros(10**9)
        return fuse_views(m, *more)

    monkeypatch.setattr(consistency, "fuse_views", wasteful)
    assert estimate(cfg, False, [0])[0] > plain + 200 * MB


@pytest.mark.parametrize("pairs", [
    ["MODEL.ARCH", "fcn_vgg16_bn", "MODEL.CONF_POOL_ON", "False", "MODEL.NET_MOMENTUM_ITER", "1"],
    ["TRAIN.TARGET_ONLY", "True", "MODEL.CONF_POOL", "minentropy_pool", "MODEL.LOSS", "focal_ce_conf",
     "MODEL.OPT", "Adam"],
    ["MODEL.ARCH", "timm", "MODEL.ENCODER", "test_vit", "MODEL.OPT", "AdamW", "TRAIN.CHECKPOINT", "True"],
])
def test_every_setting_can_be_estimated(pairs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.fcn.HIDDEN", 16)
    if "timm" in pairs:
        pytest.importorskip("timm", reason="timm is not installed (requirements-encoders.txt)")
    bytes_, = estimate(configuration("deeplabv2_resnet101_train.yaml", *pairs), False, [0])
    assert 10 * MB < bytes_ - estimate_memory.CUDA < 1000 * MB


def test_the_page_has_the_numbers_of_now() -> None:
    """Of them the one that the page says to fit on a GPU with 11 GB."""
    page = (ROOT / "docs/reproduction.md").read_text()
    row = re.search(r"^deeplabv2_resnet101_train.yaml +float32 +(.*)$", page, re.MULTILINE)
    two = float(row[1].split()[1])
    cfg, _ = config.load(str(ROOT / "configs/deeplabv2_resnet101_train.yaml"))
    assert estimate(cfg, False, [2]) == [pytest.approx(two * 1e9, abs=100 * MB)]
    assert two < 11 and f"(float32 {two} GB" in page


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    asked = []
    monkeypatch.setattr(estimate_memory, "estimate", lambda cfg, *asked_for: asked.append(asked_for) or [2e9, 31.46e9])
    files = [str(ROOT / "configs" / name) for name in ("deeplabv2_resnet101_train.yaml", "fcn_vgg16.yaml")]

    def call(*words: str) -> str:
        monkeypatch.setattr("sys.argv", ["estimate_memory.py", *words])
        estimate_memory.main()
        return capsys.readouterr().out

    assert call("--cfg", files[0], "--micro-batches", "2", "0") == (
        "GB on one GPU, estimated       TRAIN.MICRO_BATCH     2   all\n"
        "deeplabv2_resnet101_train.yaml float32             2.0  31.5\n"
        "deeplabv2_resnet101_train.yaml bfloat16            2.0  31.5\n"
    )
    assert call("--cfg", *files, "--set", "TRAIN.PRECISION", "bfloat16").splitlines()[1:] == [
        "deeplabv2_resnet101_train.yaml bfloat16            2.0  31.5",
        "fcn_vgg16.yaml                 bfloat16            2.0  31.5",
    ]
    assert asked == [(False, [2, 0]), (True, [2, 0]), (True, [1, 2, 4, 0]), (True, [1, 2, 4, 0])]
    for words, message in [(["--cfg", "nowhere.yaml"], "nowhere"),
                           (["--cfg", *files, "--micro-batches", "-1"], "--micro-batches -1: expected")]:
        with pytest.raises(UserError, match=message):
            call(*words)
