"""tools/report.py: what it reads, what it counts, and its page in Chromium."""

import base64
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import chromium
import cv2
import numpy as np
import pytest

from core import config
from core.build import SOURCE_ONLY
from core.cli import UserError
from datasets import lists
from datasets.labels import CITYSCAPES
from datasets.lists import Sample
from tools import report
from tools.report_page import comparison, runs

ROOT = Path(__file__).parents[1]
LOG = """2026-01-02 03:04:05,678 INFO commit: abc123
2026-01-02 03:04:05,679 INFO device: cpu (x)
2026-01-02 03:04:05,679 INFO command: python train.py --cfg <b>&amp;"x".yaml
2026-01-02 03:04:06,000 INFO plan: 4 source images
2026-01-02 04:00:00,000 WARNING class 3 has vanished </script><script>throw 1</script>
2026-01-02 05:00:00,000 INFO commit: def456
no line of the log
"""
COUNT = 6  # images of the list


def write_run(folder: Path, steps: int, baseline: bool, scores: list[float], root: Path) -> Path:
    """A run's log folder."""
    cfg = config.defaults()
    cfg.MODEL.BASELINE, cfg.MODEL.ARCH, cfg.DATASET.ROOT = baseline, "deeplabv2_resnet18", str(root)
    cfg.VAL.IGNORE_CLASS = [16]
    rows = []
    for i in range(1, steps + 1):
        row = {"kind": "step", "epoch": 1, "iter": i, "loss_ce": 50 / i, "images_per_second": 3.5}
        rows.append(row if baseline else row | {"self_ce": 0.1, "kept": 0.5, "teacher_diff": 1.0})
        if not baseline and i % 10 == 0:
            rows.append({"kind": "prior", "epoch": 1, "iter": i, "class_prior": [i / 1000] * 19})
    for i, score in enumerate(scores):
        step, iou = (i + 1) * steps // len(scores), [None if c == 16 else score for c in range(19)]
        layers = [("val_cityscapes", "student")] + ([] if baseline else [("train_cityscapes", "teacher")])
        rows += [{"kind": "val", "epoch": i, "iter": step, "list": name, "layer": layer, "miou": score, "iou": iou}
                 for name, layer in layers]
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"kind": "st')
    (folder / "config.yaml").write_text(cfg.dump())
    (folder / "log.txt").write_text(LOG)
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, a labelled list, and masks: image i of the adapted network has i - 2 rows more right."""
    root = tmp_path_factory.mktemp("world")
    write_run(root / "logs/v1/base", 40, True, [0.1, 0.2], root)
    write_run(root / "logs/v1/sac", 1000, False, [0.3, float("nan"), 0.4], root)
    samples, rng = [], np.random.default_rng(0)
    (root / "images").mkdir()
    for i in range(COUNT):
        samples.append(Sample(f"images/{i}_leftImg8bit.png", f"images/{i}_label.png"))
        cv2.imwrite(str(root / samples[i].image), rng.integers(0, 256, (40, 80, 3), np.uint8))
        label = np.repeat(np.array([0, 10, 13, 255], np.uint8), 10)[:, None].repeat(80, 1)
        cv2.imwrite(str(root / str(samples[i].label)), label)
        for name, wrong in (("base", 2), ("sac", 4 - i)):
            mask = np.where(label == 255, 0, label).astype(np.uint8)
            mask[: max(0, wrong)] = 2
            (root / "masks" / name).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / "masks" / name / f"{i}_gtFine_labelIds.png"), mask)
    lists.write(root / "val_cityscapes.txt", samples)
    lists.write(root / "bare.txt", [Sample(s.image, None) for s in samples])
    return root


Call = Callable[..., tuple[Path, dict]]


@pytest.fixture
def call(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Call the tool; returns the page and the data in it."""

    def run(*options: object, masks: bool = True) -> tuple[Path, dict]:
        pairs = [f"{name}={world / 'masks' / folder}" for name, folder in (("baseline", "base"), ("adapted", "sac"))]
        fixed = [world / "logs/v1/base", world / "logs/v1/sac", "--out", tmp_path / "out", "--force"]
        arguments = [*fixed, *(["--masks", *pairs] if masks else []), *options]
        monkeypatch.setattr(sys, "argv", ["report.py", *map(str, arguments)])
        report.main()
        page = tmp_path / "out" / "index.html"
        return page, data_of(page)

    return run


def data_of(page: Path) -> dict:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert match
    return json.loads(match[1], parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def points(curve: dict) -> list[list[float]]:
    return curve["points"]


def test_the_page_is_one_small_file_without_network(call: Call) -> None:
    page, _ = call()
    text = page.read_text()
    assert [p.name for p in page.parent.iterdir()] == ["index.html"] and page.stat().st_size < 10_000_000
    assert "default-src 'none'" in text and "DATA*/" not in text
    assert set(re.findall(r"https?://[^\"' ]+", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<link|<iframe|@import|url\(|fetch\(|import\(|XMLHttpRequest", text)


def test_curves(call: Call) -> None:
    _, data = call()
    base, sac = data["runs"]
    assert [(run["name"], run["kind"]) for run in data["runs"]] == [("base", "Baseline"), ("sac", "SAC")]
    assert points(base["losses"][0]) == [[i, pytest.approx(50 / i, rel=1e-4)] for i in range(1, 41)]
    assert points(base["losses"][1]) == points(base["kept"][0]) == base["prior"] == []
    # 1000 iterations in groups of 4: the mean of each.
    loss = points(sac["losses"][0])
    assert len(loss) == 250 and loss[1] == [6.5, pytest.approx(np.mean([50 / i for i in (5, 6, 7, 8)]), rel=1e-4)]
    assert {y for _, y in points(sac["kept"][0])} == {0.5} and sac["iterations"] == 1000
    assert len(sac["prior"]) == 19 and points(sac["prior"][3])[-1] == [1000, 1.0]
    # What is not a number is left out of a curve.
    assert sac["student"] == [{"name": "val_cityscapes", "points": [[333, 0.3], [1000, 0.4]]}]
    assert sac["teacher"][0]["name"] == "teacher"


def test_provenance(call: Call) -> None:
    _, data = call()
    origin = dict(data["runs"][1]["origin"])
    assert origin["commit"] == "def456" and origin["command"] == 'python train.py --cfg <b>&amp;"x".yaml'
    assert (origin["started"], origin["last entry"]) == ("2026-01-02 03:04:05", "2026-01-02 05:00:00")
    assert data["runs"][1]["warnings"] == ["class 3 has vanished </script><script>throw 1</script>"]
    changed = dict(data["runs"][0]["changed"])
    assert changed["MODEL.BASELINE"] == "True" and "MODEL.LR" not in changed


def test_scores(call: Call) -> None:
    _, data = call()
    before, after = data["scores"]["results"]
    assert (before["name"], after["name"]) == ("baseline", "adapted") and data["ignore"] == [16]
    # The label's first ten rows are road, of which 2 are taken for building; 4, 3, 2, 1, 0, 0 in the other masks.
    assert before["confusion"][0][0] == COUNT * 8 * 80 and before["confusion"][0][2] == COUNT * 2 * 80
    assert before["iou"][0] == pytest.approx(0.8) and before["iou"][10] == 1 and before["iou"][3] is None
    assert before["miou"] == pytest.approx((0.8 + 0 + 1 + 1) / 4)
    assert after["iou"][0] == pytest.approx(50 / 60) and "6 images of val_cityscapes" in data["scores"]["source"]


def test_images_that_gained_and_lost_most(call: Call) -> None:
    _, data = call("--images", 2)
    shown = [(i["name"][0], i["group"]) for i in data["images"]]
    assert shown == [("4", "gained"), ("5", "gained"), ("0", "lost"), ("1", "lost")]
    # Over the label's classes alone: road 8 of 10 rows, sky, car; not building, which it does not have.
    assert data["images"][0]["scores"] == [pytest.approx((0.8 + 1 + 1) / 3), 1]
    assert list(data["images"][0]["pictures"]) == ["input", "truth", "baseline", "adapted", "change"]
    assert call("--images", 0)[1]["images"] == []


def test_extremes_share_no_image_and_leave_out_what_has_no_score() -> None:
    scores = [[0.1, 0.5], [0.5, 0.1], [0.2, float("nan")], [0.3, 0.3]]
    assert comparison.extremes(scores, 5) == {0: "gained", 3: "gained", 1: "lost"}
    assert comparison.extremes([[0.1], [0.2], [0.3]], 1) == {0: "", 1: ""}
    assert comparison.extremes([[0.5, 0.4], [0.5, 0.3]], 5) == {1: "lost", 0: "lost"}  # nothing has gained


def decoded(address: str) -> np.ndarray:
    content = base64.b64decode(address.partition(",")[2])
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)


def test_pictures_have_the_label_sets_colours(call: Call, world: Path) -> None:
    _, data = call("--images", 1)
    pictures = {kind: decoded(address) for kind, address in data["images"][0]["pictures"].items()}
    assert {p.shape for p in pictures.values()} == {(40, 80, 3)}
    palette = CITYSCAPES.palette()
    assert [tuple(pictures["truth"][y, 5]) for y in (0, 15, 25)] == [tuple(palette[c]) for c in (0, 10, 13)]
    assert tuple(pictures["baseline"][0, 0]) == tuple(palette[2])
    image = cv2.imread(str(world / "images/4_leftImg8bit.png"))[..., ::-1]
    assert np.abs(pictures["input"].astype(int).mean() - image.mean()) < 2
    assert tuple(pictures["change"][0, 0]) == tuple(comparison.CHANGES[comparison.BETTER])
    assert tuple(pictures["change"][39, 0]) == tuple(comparison.CHANGES[comparison.UNLABELLED])


def test_changes() -> None:
    label, before, after = np.array([[1, 1, 1, 1, 255]]), np.array([[1, 0, 1, 0, 1]]), np.array([[1, 1, 0, 2, 1]])
    kinds = comparison.change(label, before, after)[0].tolist()
    c = comparison
    assert kinds == [c.SAME, c.BETTER, c.WORSE, c.BOTH_WRONG, c.UNLABELLED]


def test_pictures_are_made_smaller_where_the_page_would_be_too_large(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = call()[0].stat().st_size
    monkeypatch.setattr(report, "WIDTHS", (80, 20))
    monkeypatch.setattr(report, "LIMIT", full - 1)
    page, data = call()
    assert page.stat().st_size < full and decoded(data["images"][0]["pictures"]["truth"]).shape == (10, 20, 3)
    monkeypatch.setattr(report, "LIMIT", 1000)
    with pytest.raises(UserError, match="fewer --images"):
        call()


def test_without_masks_the_last_validation_is_shown(call: Call) -> None:
    _, data = call(masks=False)
    before, after = data["scores"]["results"]
    assert (before["miou"], after["miou"]) == (pytest.approx(0.2), pytest.approx(0.4)) and data["images"] == []
    assert after["iou"][16] is None and "last validation" in data["scores"]["source"]


def test_masks_are_found_where_the_launcher_puts_them(
    call: Call, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("base", "sac"):
        (tmp_path / "masks/v1" / name).mkdir(parents=True)
        (tmp_path / "masks/v1" / name / "val_cityscapes").symlink_to(world / "masks" / name)
    monkeypatch.chdir(tmp_path)
    _, data = call(masks=False)
    assert [r["name"] for r in data["scores"]["results"]] == ["base", "sac"] and len(data["images"]) == COUNT


def test_a_baseline_without_batchnorm_is_called_source_only(world: Path, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", 1, True, [], world)
    assert runs.read(folder)["kind"] == "Baseline"
    (folder / "log.txt").write_text(f"{LOG}2026-01-02 06:00:00,000 INFO {SOURCE_ONLY}\n")
    assert runs.read(folder)["kind"] == "Source only"


def test_a_folder_above_several_runs(world: Path, tmp_path: Path) -> None:
    assert [folder.name for folder in runs.find([world / "logs"])] == ["base", "sac"]
    assert runs.find([world / "logs/v1/sac", world / "logs"])[0].name == "sac"
    # Not a validation, not a warning, not even a configuration of this version: shown all the same.
    odd = write_run(tmp_path / "odd", 1, True, [], world)
    (odd / "log.txt").unlink()
    (odd / "config.yaml").write_text("NEW: {KEY: 1}\nMODEL: {ARCH: fcn_vgg16_bn, GONE: 2}\n")
    read = runs.read(odd)
    assert (read["network"], read["student"], read["origin"]) == ("fcn_vgg16_bn", [], [])


@pytest.mark.parametrize(
    "options, message",
    [
        (("--masks", "baseline"), "expected NAME=FOLDER"),
        (("--masks", "baseline={}/nowhere"), "no such folder"),
        (("--masks", "truth={}/masks/base"), "names must be distinct"),
        (("--masks", "a={}/masks/base", "a={}/masks/sac"), "names must be distinct"),
        (("--masks", "a={}/images"), "6 of 6 masks"),
        (("--list", "bare"), "no label"),
        (("--list", "none"), "no list"),
        (("--images", "-1"), "--images"),
        (("--out", "{}/val_cityscapes.txt"), "is a file"),
        (("--classes", "none.yaml"), "none.yaml"),
    ],
)
def test_mistakes(call: Call, world: Path, options: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as error:
        call(*(option.format(world) for option in options))
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_a_foreign_page_is_not_replaced(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "site" / "index.html"
    page.parent.mkdir()
    page.write_bytes(b"mine")
    words = ["report.py", str(world / "logs/v1/base"), "--out", str(page.parent)]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(UserError, match="index.html already exists; --force replaces it"):
        report.main()
    assert page.read_bytes() == b"mine"
    monkeypatch.setattr(sys, "argv", [*words, "--force"])
    report.main()
    assert data_of(page)["runs"]


@pytest.mark.parametrize("masks", [True, False])
def test_nothing_to_average(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, masks: bool) -> None:
    """Only class 16 occurs, which VAL.IGNORE_CLASS leaves out: in the labels, or in the last validation."""
    folder = write_run(tmp_path / "run", 3, True, [0.5], world)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()[:-1]]
    rows[-1]["iou"] = [None] * 16 + [0.5, None, None]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cv2.imwrite(str(tmp_path / "trains.png"), np.full((4, 6), 16, np.uint8))
    lists.write(tmp_path / "only.txt", [Sample("trains.png", "trains.png")])
    given = ["--list", tmp_path / "only.txt", "--root", tmp_path, "--masks", f"a={tmp_path}"] if masks else []
    monkeypatch.setattr(sys, "argv", ["report.py", *map(str, [folder, "--out", tmp_path / "out", *given])])
    with pytest.raises(UserError, match=r"has no mIoU on .*VAL.IGNORE_CLASS \[16\]"):
        report.main()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"no json\n", b"[1]\n", b'{"iter": 1}\n', b"\xff\xfe\n"])
def test_damaged_metrics(world: Path, tmp_path: Path, content: bytes) -> None:
    folder = write_run(tmp_path / "run", 3, True, [], world)
    (folder / "metrics.jsonl").write_bytes(content)
    with pytest.raises(UserError, match="metrics.jsonl"):
        runs.read(folder)
    with pytest.raises(UserError, match="no metrics.jsonl"):
        runs.find([world / "images"])


SCRIPT = """
const $ = (selector) => document.querySelector(selector), all = (selector) => [...document.querySelectorAll(selector)];
const edge = () => [$("#over").style.clipPath, $("#divider").style.left];
const move = (value) => { $("#slider").value = value; $("#slider").dispatchEvent(new Event("input")); return edge(); };
found.start = edge();
found.moved = [move(20), move(100)];
const choose = (id, kind) => { $(id).value = kind; $(id).dispatchEvent(new Event("change")); };
choose("#left", "input"); choose("#right", "change");
found.sources = [$("#over").src.slice(0, 15), $("#under").src.slice(0, 14), $("#under").alt];
found.drawn = [$("#over").naturalWidth, $("#under").naturalWidth, all(".strip img").every((i) => i.naturalWidth > 0)];
const before = $("#caption").textContent;
all(".strip button").at(-1).click();
found.captions = [before, $("#caption").textContent];
found.titles = all("#strips h3").map((h) => h.textContent);
found.tiles = all(".tile").map((tile) => tile.textContent);
found.classes = all(".iou tbody tr").map((row) => [...row.cells].map((cell) => cell.textContent));
all("#confusion button").at(-1).click();
found.matrix = [all(".matrix td").length, $(".matrix td.hit").title];
found.charts = all("figure.chart figcaption").map((caption) => caption.textContent);
found.paths = all("path.curve").every((path) => !path.getAttribute("d").includes("NaN"));
const chart = $("#runs svg"), box = chart.getBoundingClientRect();
chart.dispatchEvent(new PointerEvent("pointermove", { clientX: box.left + box.width / 2, clientY: box.top + 20 }));
found.tip = [$("#runs .tip").hidden, $("#runs .tip").textContent];
found.text = document.body.innerText;
found.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
"""


def test_in_chromium(call: Call) -> None:
    found = chromium.open_page(call()[0], SCRIPT)
    assert found["errors"] == found["console"] == []
    assert found["start"] == ["inset(0px 50% 0px 0px)", "50%"]
    assert found["moved"] == [["inset(0px 80% 0px 0px)", "20%"], ["inset(0px 0% 0px 0px)", "100%"]]
    assert found["sources"] == ["data:image/jpeg", "data:image/png", "change: 4_leftImg8bit.png"]
    assert found["drawn"][2] and found["captions"][0] != found["captions"][1]
    assert found["captions"] == ["4_leftImg8bit.png · 93.3 → 100.0 % mIoU", "2_leftImg8bit.png · 93.3 → 93.3 % mIoU"]
    assert found["titles"] == ["Gained most", "Lost most"]
    assert found["tiles"] == ["70.0 % mIoUbaseline", "70.8 % mIoUadapted", "+0.8 pointsadapted against baseline"]
    assert found["classes"][0][:4] == ["road", "80.0", "83.3", "+3.3"] and len(found["classes"]) == 20
    assert found["classes"][16][:4] == ["train (not in the mean)", "–", "–", "–"]
    assert found["classes"][19][:4] == ["Mean", "70.0", "70.8", "+0.8"]
    assert found["matrix"] == [19 * 19 + 1, "road predicted as road: +3.3 %"]
    assert found["charts"].count("Losses") == 2 and "Class prior χ" in found["charts"] and found["paths"]
    assert not found["tip"][0] and "iteration" in found["tip"][1]
    # Text from files stays text.
    assert "</script><script>throw 1</script>" in found["text"] and '<b>&amp;"x".yaml' in found["text"]
    assert found["overflow"] <= 0


def test_in_chromium_on_a_telephone_in_the_dark_without_masks(call: Call) -> None:
    script = """
    const seen = (id) => !document.getElementById(id).hidden;
    found.sections = ["classes", "images", "confusion", "training"].filter(seen);
    found.overflow = document.documentElement.scrollWidth - innerWidth;
    const rgb = getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number);
    found.dark = Math.max(...rgb) < 60;
    """
    options = ("--window-size=500,900", "--blink-settings=preferredColorScheme=0")
    found = chromium.open_page(call(masks=False)[0], script, *options)
    assert found["errors"] == found["console"] == []
    assert found["sections"] == ["classes", "training"] and found["overflow"] <= 0 and found["dark"]


def test_screenshot(call: Call, tmp_path: Path) -> None:
    picture = tmp_path / "report.png"
    chromium.screenshot(call()[0], picture)
    pixels = cv2.imread(str(picture))
    assert pixels.shape == (1400, 1280, 3) and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100


@pytest.mark.parametrize("name", ["report.png", "report_pseudo_labels.png"])
def test_the_screenshots_in_the_documents(name: str) -> None:
    picture = ROOT / "docs/images" / name
    assert picture.stat().st_size < 200_000 and cv2.imread(str(picture)).shape[1] >= 1000
