"""The report of several seeds, its pseudo labels and what made its masks; the page at three widths, light and dark."""

import json
import sys
from pathlib import Path

import chromium
import cv2
import numpy as np
import pytest
from test_report import data_of, write_run

from core import checkpoint
from core.cli import UserError
from core.files import sha256
from core.outputs import MADE_BY
from datasets import lists
from datasets.lists import Sample
from tools import report
from tools.report_page import makers, runs, series

EPOCHS = {"base": 0, "sac": 2}  # before the run


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A baseline and SAC with two seeds each, and masks of two images by all of them."""
    root = tmp_path_factory.mktemp("seeds")
    (root / "images").mkdir()
    samples = [Sample(f"images/{i}.png", f"images/{i}_label.png") for i in range(2)]
    lists.write(root / "val_cityscapes.txt", samples)
    for sample in samples:
        cv2.imwrite(str(root / sample.image), np.full((20, 40, 3), 90, np.uint8))
        cv2.imwrite(str(root / str(sample.label)), np.zeros((20, 40), np.uint8))
    for name, seed in (("base", 0), ("base", 1), ("sac", 0), ("sac", 1)):
        scores = [0.1 * (seed + 1), 0.2 + 0.2 * seed + 0.3 * (name == "sac")]
        folder = write_run(root / f"logs/x/v1/{name}_seed{seed}", 10, name == "base", scores, root)
        shift_epochs(folder / "metrics.jsonl", EPOCHS[name], name == "sac")
        masks = root / f"masks/{name}{seed}"
        masks.mkdir(parents=True)
        for i in range(2):
            mask = np.zeros((20, 40), np.uint8)
            mask[: 10 - 5 * seed - 5 * (name == "sac")] = 1  # seed 0 is half right, seed 1 of SAC wholly
            cv2.imwrite(str(masks / f"{i}.png"), mask)
    return root


def shift_epochs(path: Path, start: int, sac: bool) -> None:
    """Count epochs on from the baseline's; SAC has measured its pseudo labels."""
    rows = [json.loads(line) for line in path.read_text().splitlines()[:-1]]
    for row in rows:
        if row["kind"] == "val":
            row["epoch"] += start + 1
    if sac:
        half, third = [0.5] * 18 + [None], [0.3] * 18 + [None]
        fixed = {"kind": "val", "epoch": 4, "iter": 10, "list": "train_cityscapes", "miou": 0.2, "iou": half}
        rows += [fixed | {"layer": "fused", "precision": third}, fixed | {"layer": "pseudo", "precision": half},
                 {"kind": "kept", "epoch": 4, "iter": 10, "list": "train_cityscapes", "kept": [0.25] * 19}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def page(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    masks = [f"{name}={world}/masks/{kind}0,{world}/masks/{kind}1" for name, kind in (("ABN", "base"), ("SAC", "sac"))]
    arguments = [world / "logs", "--out", tmp_path / "out", "--masks", *masks]
    monkeypatch.setattr(sys, "argv", ["report.py", *map(str, arguments)])
    report.main()
    return tmp_path / "out/index.html"


def test_seeds_are_one_curve_with_a_band(page: Path) -> None:
    base, sac = data_of(page)["progress"]["curves"]
    assert (base["name"], sac["name"]) == ("base", "sac")
    assert base["points"] == [[1, pytest.approx(0.15)], [2, pytest.approx(0.3)]]
    assert base["band"] == [[1, 0.1, 0.2], [2, 0.2, 0.4]]
    assert [epoch for epoch, _ in sac["points"]] == [3, 4]  # where the baseline's count ends


def test_seeds_are_one_result_with_a_deviation(page: Path) -> None:
    data = data_of(page)
    before, after = data["scores"]["results"]
    # Road: 10 and 15 of 20 rows are right, then 15 and 20; sidewalk is predicted, and occurs nowhere.
    assert before["iou"][0] == pytest.approx(0.625) and before["spread"]["iou"][0] == pytest.approx(0.25 / 2**0.5)
    assert before["runs"] == [pytest.approx(0.25), pytest.approx(0.375)]
    assert after["iou"][0] == pytest.approx(0.875) and after["miou"] == pytest.approx((0.375 + 1) / 2)
    assert before["confusion"][0][:2] == [2 * 2 * 40 * 12.5, 2 * 2 * 40 * 7.5]
    # Of several seeds the first one's pictures are shown.
    assert data["images"][0]["scores"] == [pytest.approx(0.5), pytest.approx(0.75)]
    assert list(data["images"][0]["pictures"]) == ["input", "truth", "ABN", "SAC", "change"]


def test_pseudo_labels(page: Path, world: Path) -> None:
    (found,) = data_of(page)["why"]
    assert (found["name"], found["runs"], found["list"], found["epoch"]) == ("sac", 2, "train_cityscapes", 4)
    assert [found[layer][0] for layer in ("kept", "fused", "pseudo")] == [0.25, 0.3, 0.5] and found["fused"][18] is None
    # Without target labels the share that is kept is known all the same; an older log has neither.
    rows = {"val": [], "kept": [{"epoch": 1, "list": "t", "kept": [0.5]}]}
    assert runs.why(rows) == {"epoch": 1, "list": "t", "kept": [0.5], "fused": None, "pseudo": None}
    assert series.why([{"title": "a", "why": runs.why({"val": [], "kept": []})}]) == []


@pytest.mark.parametrize(
    "names, titles",
    [
        (["sac_seed0", "sac_seed1"], ["sac", "sac"]), (["seed0", "seed1"], ["SAC", "SAC"]),
        (["01_gta_resnet101"] * 2, ["01_gta_resnet101"] * 2), (["run_1", "run_2"], ["run", "run"]),
    ],
)
def test_titles_of_seeds(tmp_path: Path, names: list[str], titles: list[str]) -> None:
    read = [runs.read(write_run(tmp_path / str(i) / name, 1, False, [], tmp_path)) for i, name in enumerate(names)]
    assert series.titles(read) == titles
    read[1]["cfg"].MODEL.LR = 1.0  # another experiment
    apart = series.titles(read)
    assert apart[0] == names[0] and apart[0] != apart[1]


def test_the_snapshot_behind_masks(world: Path, tmp_path: Path) -> None:
    log, snapshot = tmp_path / "logs/x/v1/sac", tmp_path / "snapshots/x/v1/sac/last.pth"
    log.mkdir(parents=True)
    checkpoint.save(snapshot, {"model": {}, "opt": {}, "epoch": 7, "score": 0.5})
    known, foreign = tmp_path / "known", tmp_path / "foreign"
    for folder, digest in ((known, sha256(snapshot)), (foreign, "0" * 64)):
        folder.mkdir()
        record = {"snapshot": digest, "weights": "student", "scales": [1.0], "flip": False, "window": [64, 64]}
        (folder / MADE_BY).write_text(json.dumps(record))
    found = makers.describe([known, foreign, tmp_path], [log])
    assert found[known] == {"snapshot": "sac/last.pth, epoch 7", "sha256": sha256(snapshot), "weights": "student",
                            "window": "[64, 64]"}
    assert "not among" in found[foreign]["snapshot"] and "there is no made_by.json" in found[tmp_path]["snapshot"]


def test_a_seed_without_masks(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [world / "logs", "--out", tmp_path / "out", "--masks", f"a={world}/masks/base0,{world}/nowhere"]
    monkeypatch.setattr(sys, "argv", ["report.py", *map(str, arguments)])
    with pytest.raises(UserError, match="there is no such folder"):
        report.main()


SCRIPT = """
const text = (selector) => document.querySelector(selector).textContent;
found.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
found.tile = text(".tile");
found.note = text("#classes .note");
found.road = [...document.querySelector(".iou tbody tr").cells].map((cell) => cell.textContent);
found.why = [...document.querySelector("#why tbody tr").cells].map((cell) => cell.textContent);
found.bands = document.querySelectorAll("#progress .band").length;
found.axes = [...document.querySelectorAll("#progress text")].map((node) => node.textContent);
const charts = [...document.querySelectorAll("#runs svg[role=img]")];
found.titled = charts.every((svg) => svg.textContent.includes("iteration"));
found.clipped = [...document.querySelectorAll("svg[role=img] text")].filter((node) => {
  const [own, whole] = [node.getBoundingClientRect(), node.closest("figure").getBoundingClientRect()];
  return own.left < whole.left || own.right > whole.right;
}).map((node) => node.textContent);
const rgb = getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number);
found.dark = Math.max(...rgb) < 60;
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [500, 820, 1280])
def test_in_chromium(page: Path, width: int, dark: bool) -> None:
    options = [f"--window-size={width},1200", *(["--blink-settings=preferredColorScheme=0"] if dark else [])]
    found = chromium.open_page(page, SCRIPT, *options)
    assert found["errors"] == found["console"] == found["clipped"] == [] and found["overflow"] <= 0
    assert found["dark"] == dark
    assert found["tile"] == "31.3 ± 8.8 % mIoUABN, mean of 2 runs"
    assert "ABN: 25.0, 37.5 (mean ± standard deviation)" in found["note"] and "no made_by.json" in found["note"]
    assert found["road"][:4] == ["road", "62.5 ± 17.7", "87.5 ± 17.7", "+25.0"]
    assert found["why"][:5] == ["road", "25.0", "30.0", "50.0", "+20.0"]
    assert found["bands"] == 2 and {"epoch", "mIoU"} <= set(found["axes"]) and found["titled"]
