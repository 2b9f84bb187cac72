"""docs/own_data.md, followed to the letter: five classes, an unlabelled target, from the raw files to the report.

Its commands run as printed, one after the other, in an empty folder; the edits that it asks for are made. So that this
takes seconds, the network is small: by such edits, too, and where the page has no configuration to edit, by settings
that are appended.
"""

import json
import re
import shutil
from pathlib import Path

import chromium
import cv2
import numpy as np
import pytest
import torch
from shell import Shell
from test_adapt import in_process
from test_docs_commands import small
from test_domains import render
from test_report import data_of

import models
from core import checkpoint, config
from datasets import labels
from datasets.sampling import load_weights
from tools import adapt

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "own_data.md"
CLASSES = ["road", "building", "nature", "sky", "vehicle"]
SMALL = {
    "CROP_SIZE": "[32, 64]", "BATCH_SIZE": "2", "NUM_GROUPS": "1", "GROUP_SIZE": "2", "NUM_EPOCHS": "12",
    "ARCH": "stub", "INIT_MODEL": '""', "LR": "1.0e-3",
}  # fmt: skip


def blocks() -> list[str]:
    """The page's commands, in their order: its bash blocks, and the one with places to fill in."""
    found = re.findall(r"^```(?:bash)?\n((?:python|bash) .*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return [block.replace("SNAPSHOT", "snapshots/own/v1/01_own/last.pth").replace("FOLDER", "data/own/target/images")
            for block in found]


def write_data(root: Path) -> None:
    """Source images with raw labels, some of them with a palette; target images without labels."""
    rng = np.random.default_rng(0)
    for folder in ("source/images", "source/raw", "target/images"):
        (root / folder).mkdir(parents=True)
    for i in range(4):
        raw = rng.integers(0, 10, (5, 8), np.uint8).repeat(10, 0).repeat(10, 1)  # 0 and 9 are no class's
        cv2.imwrite(str(root / f"source/images/{i}.png"), cv2.applyColorMap(raw * 25, cv2.COLORMAP_JET))
        cv2.imwrite(str(root / f"source/raw/{i}.png"), raw)
    for i in range(3):
        noise = rng.integers(0, 256, (5 + i, 8, 3), np.uint8)
        cv2.imwrite(str(root / f"target/images/t{i}.jpg"), cv2.resize(noise, None, fx=9, fy=9))


def edit(path: Path, values: dict[str, str]) -> None:
    """Give keys of a YAML file other values."""
    text = path.read_text()
    for key, value in values.items():
        text, count = re.subn(rf"^( *{key}:) .*$", rf"\1 {value}", text, flags=re.MULTILINE)
        assert count == 1, f"{path} has no {key}"
    path.write_text(text)


def test_the_guide_to_the_letter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(adapt, "ROOT", tmp_path)
    monkeypatch.setattr(adapt, "execute", in_process)
    monkeypatch.chdir(tmp_path)
    shell, own = Shell(tmp_path, in_process), Path("configs/own.yaml")
    write_data(tmp_path / "data/own")
    propose, look, go, use, published, by_hand = blocks()
    shell(propose)
    check_proposal(capsys.readouterr().out)
    edit(own, SMALL)
    shutil.copy(ROOT / "configs/custom_classes.yaml", "configs/own_classes.yaml")
    for block in (look, go, use):
        shell(block)
    assert "\n0 errors, 0 warnings; 7 images in 2 lists" in capsys.readouterr().out
    check_labels()
    check_runs()
    check_results(tmp_path)

    for name in ("gta", "acdc"):
        render(tmp_path / "data", name)
    shell.run = lambda words: in_process(small(words))
    shell(published)
    shell(by_hand)  # goes on with the same run
    for run in ("01_abn_gta_acdc_resnet101", "01_gta_acdc_resnet101"):
        assert Path("snapshots/cityscapes/v1", run, "last.pth").is_file()
    assert Path("results/v1/01_gta_acdc_resnet101/report/index.html").is_file()


def check_proposal(printed: str) -> None:
    """What was written before anybody has edited it."""
    cfg, _ = config.load("configs/own.yaml")
    assert cfg.DATASET.SOURCE_MEAN != cfg.DATASET.TARGET_MEAN != config.defaults().DATASET.TARGET_MEAN
    assert not cfg.DATASET.VAL_CROP and cfg.DATASET.CROP_SIZE == [32, 32] and cfg.TRAIN.BATCH_SIZE == 4
    proposed = labels.load("configs/own_classes.yaml")
    assert proposed.names == tuple(f"class_{raw}" for raw in range(10)) and len(set(proposed.colours)) == 10
    assert "4 images of 80x50 to 80x50 pixels" in printed and "3 images of 72x45 to 72x63" in printed


def check_labels() -> None:
    """The converted labels."""
    label = cv2.imread("data/own/source/raw_train_ids/0.png", cv2.IMREAD_UNCHANGED)
    raw = cv2.imread("data/own/source/raw/0.png", cv2.IMREAD_UNCHANGED)
    expected = {0: 255, 1: 0, 2: 0, 3: 1, 4: 1, 5: 2, 6: 3, 7: 4, 8: 4, 9: 255}
    assert np.array_equal(label, np.vectorize(expected.get)(raw))


def check_runs() -> None:
    """Five classes everywhere; no validation, said aloud; the last snapshot is the result."""
    for name in ("01_abn_own", "01_own"):
        folder, log = Path("snapshots/own/v1", name), Path("logs/own/v1", name)
        assert [p.name for p in sorted(folder.glob("*.pth"))] == ["last.pth"]
        said = (log / "log.txt").read_text()
        assert "no list to validate on" in said and "last.pth is the result" in said
        rows = [json.loads(line) for line in (log / "metrics.jsonl").read_text().splitlines()]
        of_sac = {"prior", "kept"} if name == "01_own" else set()
        assert {row["kind"] for row in rows} - {"warning"} == {"step"} | of_sac
        model = checkpoint.load(folder / "last.pth")["model"]
        assert model["backbone.conv2.bias"].shape == (5,)
    assert model["running_conf"].shape == (5,) and model["slow_net.conv2.bias"].shape == (5,)
    assert checkpoint.load("snapshots/own/v1/01_own/last.pth")["epoch"] == 12
    weights = load_weights("results/v1/01_own/weights.data")
    assert set(weights) == {"t0.png", "t1.png", "t2.png"}
    assert {c for row in weights.values() for c in row} <= set(range(5))


def check_results(folder: Path) -> None:
    """Masks and the report."""
    for i in range(3):
        mask = cv2.imread(f"masks/own/t{i}.png", cv2.IMREAD_UNCHANGED)
        assert mask.shape == (9 * (5 + i), 72) and mask.max() < 5
        assert Path(f"masks/own/vis/t{i}.png").is_file()
    assert cv2.imread("results/own_views.png") is not None
    page = folder / "results/v1/01_own/report/index.html"
    data = data_of(page)
    assert [c["name"] for c in data["classes"]] == CLASSES and data["images"] == []
    assert [run["name"] for run in data["runs"]] == ["01_abn_own", "01_own"] and len(data["runs"][1]["prior"]) == 5
    found = chromium.open_page(page, 'found.charts = document.querySelectorAll("figure.chart").length;')
    assert found["errors"] == found["console"] == [] and found["charts"] == 2 + 5


def test_a_labelled_list_of_the_target_chooses_snapshots(tmp_path: Path) -> None:
    """The example says how; its own lists stay what they are."""
    cfg, _ = config.load(str(ROOT / "configs/custom_example.yaml"), ["VAL.LISTS", "own_val"])
    assert cfg.VAL.LISTS == ["own_val"] and cfg.DATASET.ROOT == "data/own" and cfg.TRAIN.TARGET == "own_target"


def test_the_example_s_label_set() -> None:
    own = labels.load(str(ROOT / "configs/custom_classes.yaml"))
    assert list(own.names) == CLASSES and own.num_classes == 5
    assert own.to_train()[[0, 1, 2, 8, 9]].tolist() == [255, 0, 0, 4, 255]


@pytest.mark.parametrize("arch", sorted(set(models.NETWORKS) - {"stub", "plain"}))
def test_every_network_has_as_many_logits_as_classes(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.fcn.HIDDEN", 64)
    with torch.no_grad():
        assert models.build(arch, 5).eval()(torch.zeros(1, 3, 64, 64)).shape[1] == 5
