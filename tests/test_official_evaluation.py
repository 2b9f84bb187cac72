"""tools/evaluate.py against cityscapesscripts, the official judge, on masks that infer_val.py wrote."""

import json
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from datasets.labels import CITYSCAPES
from models import build

ROOT = Path(__file__).resolve().parents[1]
CITY = "frankfurt"


def command(monkeypatch: pytest.MonkeyPatch, script: str, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    runpy.run_path(str(ROOT / script), run_name="__main__")


def official(predictions: list[Path], truths: list[Path]) -> dict:
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as judge

    judge.args.evalInstLevelScore = False  # needs instance files
    judge.args.JSONOutput = False
    judge.args.quiet = True
    return judge.evaluateImgLists([str(p) for p in predictions], [str(t) for t in truths], judge.args)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images of Cityscapes' names with raw label IDs of every kind, void ones too; and a snapshot."""
    folder = tmp_path_factory.mktemp("official")
    rng = np.random.default_rng(3)
    for kind in ("leftImg8bit", "gtFine"):
        (folder / f"data/cityscapes/{kind}/val/{CITY}").mkdir(parents=True)
    for i in range(3):
        name = f"{CITY}_{i:06d}_000019"
        blocks = rng.integers(0, 34, (6, 10)).astype(np.uint8)
        blocks[:3] = rng.choice([7, 11, 23, 26], (3, 10))  # some classes are large, some do not occur
        image = rng.integers(0, 256, (90, 150, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"data/cityscapes/leftImg8bit/val/{CITY}/{name}_leftImg8bit.png"), image)
        label = blocks.repeat(15, 0).repeat(15, 1)
        cv2.imwrite(str(folder / f"data/cityscapes/gtFine/val/{CITY}/{name}_gtFine_labelIds.png"), label)
    torch.manual_seed(0)
    network = build("deeplabv2_resnet10", 19)
    model = {f"module.backbone.{k}": v for k, v in network.state_dict().items()}
    torch.save({"model": model, "opt": {}, "epoch": 0, "score": 0.0}, folder / "random.pth")
    return folder


def test_every_iou_equals_the_official_one(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, masks = tree / "data", tree / "masks"
    city = data / "cityscapes"
    command(monkeypatch, "tools/convert_train_ids.py", "--dataset", "cs", "--ann-data", str(city / "gtFine"),
            "--ann-out", str(city / "gtFine2"))
    command(monkeypatch, "tools/make_lists.py", "--root", str(data), "--out", str(data))
    command(monkeypatch, "infer_val.py", "--cfg", str(ROOT / "configs/demo_train.yaml"), "--resume",
            str(tree / "random.pth"), "--infer-list", "val_cityscapes", "--mask-output-dir", str(masks),
            "--workers", "0", "--set", "DATASET.ROOT", str(data), "TRAIN.PRECISION", "float32")
    command(monkeypatch, "tools/evaluate.py", "--predictions", str(masks), "--list", "val_cityscapes",
            "--root", str(data), "--json", str(tree / "ours.json"))
    ours = json.loads((tree / "ours.json").read_text())

    truths = sorted((city / "gtFine").rglob("*_labelIds.png"))
    theirs = official([masks / "cs" / truth.name for truth in truths], truths)
    assert len(truths) == ours["images"] == 3
    assert len({v for v in ours["iou"].values() if v}) > 3  # the masks are no single class
    for name in CITYSCAPES.names:
        score = theirs["classScores"][name]
        assert (ours["iou"][name] is None) == np.isnan(score), name
        if ours["iou"][name] is not None:
            assert ours["iou"][name] == pytest.approx(score, abs=1e-6), name
    assert ours["miou"] == pytest.approx(theirs["averageScoreClasses"], abs=1e-6)
