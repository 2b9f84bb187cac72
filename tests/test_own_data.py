"""docs/own_data.md, followed to the letter: five classes, an unlabelled target, from the raw files to the report.

Its commands run one after the other, in an empty folder; the edits that it asks for are made. The stages of
launch/adapt.sh, which tests/test_adapt.py runs, are given by hand here. So that this takes seconds, the network is
small.
"""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import chromium
import cv2
import numpy as np
import pytest
import runs  # noqa: F401 (the stub)
import torch
from test_report import data_of

import models
from core import checkpoint, config
from datasets import labels
from datasets.sampling import load_weights

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "own_data.md"
CLASSES = ["road", "building", "nature", "sky", "vehicle"]
SMALL = {
    "CROP_SIZE": "[32, 64]", "BATCH_SIZE": "2", "NUM_GROUPS": "1", "GROUP_SIZE": "2", "NUM_EPOCHS": "8",
    "ARCH": "stub", "INIT_MODEL": '""', "LR": "1.0e-3",
}  # fmt: skip
INFER = "python infer_val.py --cfg configs/own.yaml --dataloader own --resume snapshots/own/v1"
TRAIN = "python train.py --cfg configs/own.yaml --dataloader own --exp v1 --run"
BY_HAND = (
    f"{TRAIN} baseline --set MODEL.BASELINE True TRAIN.NUM_EPOCHS 2",
    f"{INFER}/baseline/last.pth --infer-list own_target --mask-output-dir masks/own_baseline",
    "python tools/compute_image_weights.py --labels masks/own_baseline --ext '*.png' --out data/own/own_weights.data",
    f"{TRAIN} sac --resume snapshots/own/v1/baseline/last.pth --set DATASET.SAMPLE_WEIGHTS data/own/own_weights.data",
    f"{INFER}/sac/last.pth --images data/own/target/images --mask-output-dir masks/own --save ids vis",
    "python tools/report.py logs/own/v1/baseline logs/own/v1/sac --out results/own_report",
)


def commands() -> list[str]:
    """The lines of the page's bash blocks, in their order."""
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


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


def run(command: str, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture) -> str:
    """Run a line: our commands in this process, which saves the time of their imports; returns what it printed."""
    if not command.startswith("python "):
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", command], capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout
    _, script, *arguments = shlex.split(command)
    module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
    patch.setattr(sys, "argv", [script, *arguments])
    capture.readouterr()
    module.main()
    return capture.readouterr().out


def test_the_guide_to_the_letter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    write_data(tmp_path / "data/own")
    monkeypatch.chdir(tmp_path)
    lines, own = commands(), Path("configs/own.yaml")
    assert lines[-1] == "bash launch/adapt.sh configs/own.yaml" and len(lines) == 5
    printed = {}
    for line in (*lines[:-1], *BY_HAND):
        printed[line] = run(line, monkeypatch, capsys)
        if "new_domain" in line:
            check_proposal(printed[line])
            edit(own, SMALL)
            Path("configs/own_classes.yaml").write_bytes((ROOT / "configs/custom_classes.yaml").read_bytes())
    check_labels(printed)
    check_runs()
    check_results(tmp_path)


def check_proposal(printed: str) -> None:
    """What was written before anybody has edited it."""
    cfg, _ = config.load("configs/own.yaml")
    assert cfg.DATASET.SOURCE_MEAN != cfg.DATASET.TARGET_MEAN != config.defaults().DATASET.TARGET_MEAN
    assert not cfg.DATASET.VAL_CROP and cfg.DATASET.CROP_SIZE == [32, 32] and cfg.TRAIN.BATCH_SIZE == 4
    proposed = labels.load("configs/own_classes.yaml")
    assert proposed.names == tuple(f"class_{raw}" for raw in range(10)) and len(set(proposed.colours)) == 10
    assert "4 images of 80x50 to 80x50 pixels" in printed and "3 images of 72x45 to 72x63" in printed


def check_labels(printed: dict[str, str]) -> None:
    """What the tools said, and the converted labels."""
    (doctor,) = [text for line, text in printed.items() if "check_data" in line]
    assert doctor.endswith("0 errors, 0 warnings; 7 images of 2 lists\n")
    label = cv2.imread("data/own/source/raw_train_ids/0.png", cv2.IMREAD_UNCHANGED)
    raw = cv2.imread("data/own/source/raw/0.png", cv2.IMREAD_UNCHANGED)
    expected = {0: 255, 1: 0, 2: 0, 3: 1, 4: 1, 5: 2, 6: 3, 7: 4, 8: 4, 9: 255}
    assert np.array_equal(label, np.vectorize(expected.get)(raw))


def check_runs() -> None:
    """Five classes everywhere; no validation, said aloud; the last snapshot is the result."""
    for name in ("baseline", "sac"):
        folder, log = Path("snapshots/own/v1", name), Path("logs/own/v1", name)
        assert [p.name for p in sorted(folder.glob("*.pth"))] == ["last.pth"]
        said = (log / "log.txt").read_text()
        assert "no list to validate on" in said and "last.pth is the result" in said
        rows = [json.loads(line) for line in (log / "metrics.jsonl").read_text().splitlines()]
        assert {row["kind"] for row in rows} - {"warning"} == {"step"} | ({"prior"} if name == "sac" else set())
        model = checkpoint.load(folder / "last.pth")["model"]
        assert model["backbone.conv2.bias"].shape == (5,)
    assert model["running_conf"].shape == (5,) and model["slow_net.conv2.bias"].shape == (5,)
    assert checkpoint.load("snapshots/own/v1/sac/last.pth")["epoch"] == 8
    weights = load_weights("data/own/own_weights.data")
    assert set(weights) == {"t0.png", "t1.png", "t2.png"}
    assert {c for row in weights.values() for c in row} <= set(range(5))


def check_results(folder: Path) -> None:
    """Masks and the report."""
    for i in range(3):
        mask = cv2.imread(f"masks/own/t{i}.png", cv2.IMREAD_UNCHANGED)
        assert mask.shape == (9 * (5 + i), 72) and mask.max() < 5
        assert Path(f"masks/own/vis/t{i}.png").is_file()
    assert cv2.imread("results/own_views.png") is not None
    page = folder / "results/own_report/index.html"
    data = data_of(page)
    assert [c["name"] for c in data["classes"]] == CLASSES and data["images"] == []
    assert [run["name"] for run in data["runs"]] == ["baseline", "sac"] and len(data["runs"][1]["prior"]) == 5
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


def test_the_commands_are_those_that_exist() -> None:
    scripts = {line.split()[1] for line in commands() if line.startswith("python ")}
    assert scripts and all(os.path.isfile(ROOT / script) for script in scripts)
