"""tools/convert_train_ids, make_lists, compute_image_weights and evaluate, on files that the tests write."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from core.cli import UserError
from core.files import atomic_write, sweep
from datasets import labels, lists
from datasets.sampling import load_weights
from tools import compute_image_weights, convert_train_ids, download, evaluate, make_lists
from tools.batch import png
from tools.batch.threads import parallel_map

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden"
TOOLS = [convert_train_ids, make_lists, compute_image_weights, evaluate, download]
Call = Callable[..., str]


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)
    return path


def tree(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def decoded(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


# --- convert_train_ids


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """The published label files, one folder a data set."""
    source = GOLDEN / "c11_png" / "in"
    for name in ("x_000000_000019_gtFine_labelIds.png", "y_000000_000019_gtFine_labelIds.png"):
        target = tmp_path / "cs" / "train" / name[0] / name
        target.parent.mkdir(parents=True)
        target.write_bytes((source / name).read_bytes())
    (tmp_path / "cs" / "train" / "x" / "x_000000_000019_gtFine_color.png").write_bytes(b"not a label")
    for dataset, names in {"gta": ["00001.png"], "synthia": ["0000001.png", "0000002.png"]}.items():
        (tmp_path / dataset).mkdir()
        for name in names:
            (tmp_path / dataset / name).write_bytes((source / name).read_bytes())
    return tmp_path


FILES = {"cs": "train/x/x_000000_000019_gtFine_labelIds.png", "gta": "00001.png", "synthia": "0000001.png"}
VOID = {"cs": "train/y/y_000000_000019_gtFine_labelIds.png", "gta": None, "synthia": "0000002.png"}


@pytest.mark.parametrize("dataset", FILES)
def test_converted_labels_are_the_published_ones(raw: Path, tmp_path: Path, call: Call, dataset: str) -> None:
    out, file, void = tmp_path / "out", FILES[dataset], VOID[dataset]
    printed = call(convert_train_ids, "--dataset", dataset, "--ann-data", raw / dataset, "--ann-out", out)
    assert tree(out) == sorted(name for name in (file, void) if name)
    expected = decoded(GOLDEN / "c11_png" / "out" / Path(file).name)
    assert np.array_equal(decoded(out / file), expected)
    assert np.array_equal(expected, np.load(GOLDEN / "c11_id_mappers.npz")[f"{dataset}/out"])
    assert Image.open(out / file).mode == "L"
    if void:  # quirk B14: the released code writes no file where nothing is mapped
        assert (decoded(out / void) == 255).all()
    assert f"{len(tree(out))} labels converted, 0 already existed" in printed


def test_grey_labels_of_gta_and_labels_of_ones_own(tmp_path: Path, call: Call) -> None:
    pixels = np.array([[7, 26], [0, 255]], np.uint8)
    save(tmp_path / "gta" / "00007.png", pixels)
    call(convert_train_ids, "--dataset", "gta", "--ann-data", tmp_path / "gta", "--ann-out", tmp_path / "a")
    assert decoded(tmp_path / "a" / "00007.png").tolist() == [[0, 13], [255, 255]]

    palette = Image.fromarray(pixels // 2).convert("P")
    palette.putpalette([9] * 768)  # the colours must not matter
    (tmp_path / "own" / "deep").mkdir(parents=True)
    palette.save(tmp_path / "own" / "deep" / "p.png")
    classes = tmp_path / "own.yaml"
    classes.write_text("names: [a, b]\ncolours: [[0, 0, 0], [1, 1, 1]]\nraw_ids: {3: 1, 13: 0}\n")
    folders = ["--ann-data", tmp_path / "own", "--ann-out", tmp_path / "b"]
    call(convert_train_ids, "--dataset", "own", "--classes", classes, *folders)
    assert decoded(tmp_path / "b" / "deep" / "p.png").tolist() == [[1, 0], [255, 255]]


def test_conversion_goes_on_where_it_stopped(raw: Path, tmp_path: Path, call: Call) -> None:
    args = ["--dataset", "synthia", "--ann-data", raw / "synthia", "--ann-out", tmp_path / "out"]
    call(convert_train_ids, *args)
    whole, broken = tmp_path / "out" / "0000001.png", tmp_path / "out" / "0000002.png"
    stamp = whole.stat().st_mtime_ns
    broken.write_bytes(broken.read_bytes()[:-20])
    assert "1 labels converted, 1 already existed" in call(convert_train_ids, *args)
    assert whole.stat().st_mtime_ns == stamp and (decoded(broken) == 255).all()
    assert "2 labels converted, 0 already existed" in call(convert_train_ids, *args, "--force")
    assert whole.stat().st_mtime_ns != stamp


@pytest.mark.parametrize("dataset", FILES)
def test_folders_below_are_kept(raw: Path, tmp_path: Path, call: Call, dataset: str) -> None:
    """As they are unpacked: each part of a data set in a folder of its own."""
    deep = tmp_path / "parts" / "one.two" / "deep"
    deep.parent.mkdir(parents=True)
    (raw / dataset).rename(deep)
    call(convert_train_ids, "--dataset", dataset, "--ann-data", tmp_path / "parts", "--ann-out", tmp_path / "out")
    assert f"one.two/deep/{FILES[dataset]}" in tree(tmp_path / "out")
    assert len(tree(tmp_path / "out")) == 1 + (VOID[dataset] is not None)


RED = {"synthia": lambda raw: np.dstack([np.zeros_like(raw), np.zeros_like(raw), raw]).astype(np.uint16)}  # BGR


def raw_label(folder: Path, dataset: str, name: str, ids: list[list[int]]) -> None:
    """A raw label of a data set, of 1 or more rows of ids."""
    pixels = np.array(ids, np.uint8)
    save(folder / f"{name}_labelIds.png", RED.get(dataset, lambda raw: raw)(pixels))


@pytest.fixture
def own(tmp_path: Path) -> list[str]:
    """Arguments for --dataset own, whose raw ids are 100 and 101."""
    path = tmp_path / "own.yaml"
    path.write_text("names: [a, b]\ncolours: [[0, 0, 0], [1, 1, 1]]\nraw_ids: {100: 0, 101: 1}\n")
    return ["--classes", str(path)]


# Ids that a data set maps, and ids that it does not.
MAPPED = {"cs": 7, "gta": 26, "synthia": 21, "own": 101}
UNMAPPED = {"cs": 0, "gta": 34, "synthia": 22, "own": 1}


@pytest.mark.parametrize("dataset", MAPPED)
def test_the_share_of_ignored_pixels_is_said(tmp_path: Path, call: Call, own: list[str], dataset: str) -> None:
    there, not_there = MAPPED[dataset], UNMAPPED[dataset]
    raw_label(tmp_path / "in", dataset, "a", [[not_there] * 4])  # ignored all over, and the first: written all the same
    raw_label(tmp_path / "in", dataset, "b", [[there, there, not_there, there]])
    args = ["--dataset", dataset, *(own if dataset == "own" else ()), "--ann-data", tmp_path / "in"]
    printed = call(convert_train_ids, *args, "--ann-out", tmp_path / "out")
    assert printed.endswith("62.5 % of the converted pixels are ignored (255)\n")
    assert decoded(tmp_path / "out" / "a_labelIds.png").tolist() == [[255] * 4]
    assert "are ignored" not in call(convert_train_ids, *args, "--ann-out", tmp_path / "out")  # nothing was converted


@pytest.mark.parametrize("dataset", MAPPED)
def test_labels_that_are_all_ignored_are_refused(tmp_path: Path, call: Call, own: list[str], dataset: str) -> None:
    for name in "abc":
        raw_label(tmp_path / "in", dataset, name, [[UNMAPPED[dataset]] * 5])
    extra = own if dataset == "own" else ()
    args = ["--dataset", dataset, *extra, "--ann-data", tmp_path / "in", "--ann-out", tmp_path / "out"]
    advice = r"does `raw_ids` of .*own.yaml name them\?" if dataset == "own" else r"is --dataset right\?"
    with pytest.raises(UserError, match=rf"every pixel of the 3 labels.*IDs are {UNMAPPED[dataset]}; {advice}"):
        call(convert_train_ids, *args)
    assert not (tmp_path / "out").exists()

    raw_label(tmp_path / "in", dataset, "b", [[MAPPED[dataset]]])
    call(convert_train_ids, *args)
    before = {name: (tmp_path / "out" / name).read_bytes() for name in tree(tmp_path / "out")}
    assert sum(name.endswith(".png") for name in before) == 3
    raw_label(tmp_path / "in", dataset, "b", [[UNMAPPED[dataset]]])
    with pytest.raises(UserError, match="nothing was written"):
        call(convert_train_ids, *args, "--force")
    assert before == {name: (tmp_path / "out" / name).read_bytes() for name in before}
    raw_label(tmp_path / "in", dataset, "d", [[UNMAPPED[dataset]]])  # one that comes later may be
    assert "1 labels converted, 3 already existed" in call(convert_train_ids, *args)


def test_a_single_label_may_be_ignored_all_over(raw: Path, tmp_path: Path, call: Call) -> None:
    (raw / "synthia" / "0000001.png").unlink()
    args = ["--dataset", "synthia", "--ann-data", raw / "synthia", "--ann-out", tmp_path / "out"]
    assert "100.0 % of the converted pixels are ignored" in call(convert_train_ids, *args)
    assert (decoded(tmp_path / "out" / "0000002.png") == 255).all()


CLASHES = [("A.png", "a.png"), ("stra\u00dfe.png", "STRASSE.png"), ("caf\u00e9.png", "cafe\u0301.png")]


@pytest.mark.parametrize("names", [*CLASHES, ("x/A.png", "X/a.png")])
def test_labels_whose_names_some_file_systems_take_for_one(tmp_path: Path, call: Call, names: tuple[str, str]) -> None:
    for name in names:
        save(tmp_path / "in" / name, grey(7))
    if len(tree(tmp_path / "in")) < 2:
        pytest.skip("this file system is one of them")
    with pytest.raises(UserError, match="and .* are the same file"):
        call(convert_train_ids, "--dataset", "gta", "--ann-data", tmp_path / "in", "--ann-out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_output_below_the_input_is_not_converted_again(raw: Path, call: Call) -> None:
    args = ["--dataset", "cs", "--ann-data", raw / "cs", "--ann-out"]
    for _ in range(2):
        call(convert_train_ids, *args, raw / "cs" / "converted")
    assert len(tree(raw / "cs" / "converted")) == 2
    with pytest.raises(UserError, match="overwritten"):
        call(convert_train_ids, *args, raw / "cs" / "train" / "..")


def sixteen(value: int) -> np.ndarray:
    return np.full((3, 5, 3), value, np.uint16)


def grey(value: int, *size: int) -> np.ndarray:
    return np.full(size or (3, 5), value, np.uint8)


@pytest.mark.parametrize(
    ("dataset", "pixels", "said"),
    [
        ("cs", np.dstack([grey(7)] * 3), "8-bit RGB"),
        ("cs", sixteen(7)[..., 0], "16-bit grey"),
        ("gta", np.dstack([grey(7)] * 3), "8-bit RGB"),
        ("gta", np.dstack([grey(7)] * 4), "8-bit RGBA"),
        ("gta", sixteen(7), "16-bit RGB"),
        ("synthia", grey(7), "8-bit grey"),
        ("synthia", np.dstack([grey(7)] * 3), "8-bit RGB"),
        ("synthia", sixteen(256), "class 256"),
        ("own", np.dstack([grey(7)] * 3), r"8-bit RGB PNG, expected a palette .*; is .*own.yaml right\?$"),
        ("own", sixteen(7)[..., 0], r"16-bit grey PNG, expected a palette .*; is .*own.yaml right\?$"),
    ],
)
def test_labels_that_are_not_what_they_claim(
    tmp_path: Path, call: Call, own: list[str], dataset: str, pixels: np.ndarray, said: str
) -> None:
    save(tmp_path / "in" / "a_labelIds.png", pixels)
    args = [*(own if dataset == "own" else ()), "--ann-data", tmp_path / "in", "--ann-out", tmp_path / "out"]
    with pytest.raises(UserError, match=f"a_labelIds.png .*{said}"):
        call(convert_train_ids, "--dataset", dataset, *args)
    assert not (tmp_path / "out").exists()


def flip(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("dataset", ["cs", "gta", "synthia"])
@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda whole: b"", "empty"),
        (lambda whole: b"text", "not a PNG"),
        (lambda whole: whole[:20], "not a PNG|truncated"),
        (lambda whole: whole[: len(whole) // 2], "truncated"),
        (lambda whole: whole[:-4], "truncated"),
        (lambda whole: flip(whole, 24), "damaged"),
        (lambda whole: flip(whole, len(whole) - 20), "damaged"),
    ],
)
def test_broken_labels(
    raw: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
    dataset: str,
    harm: Callable,
    said: str,
) -> None:
    path = raw / dataset / FILES[dataset]
    path.write_bytes(harm(path.read_bytes()))
    folders = ["--ann-data", str(raw / dataset), "--ann-out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["tool", "--dataset", dataset, *folders])
    with pytest.raises(UserError, match=f"{path.name}.*({said})"):
        convert_train_ids.main()
    assert capfd.readouterr().err == ""  # the decoders say nothing of their own
    assert path.name not in [Path(name).name for name in tree(tmp_path) if name.startswith("out")]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--dataset", "kitti", "--ann-data", ".", "--ann-out", "o"], "kitti"),
        (["--dataset", "cs", "--ann-data", "nowhere", "--ann-out", "o"], "nowhere"),
        (["--dataset", "cs", "--ann-data", ".", "--ann-out", "o"], "no .*labelIds.png below"),
        (["--dataset", "own", "--ann-data", ".", "--ann-out", "o"], "--classes"),
        (["--dataset", "cs", "--classes", "x.yaml", "--ann-data", ".", "--ann-out", "o"], "--classes"),
        (["--dataset", "cs"], "--ann-data"),
    ],
)
def test_wrong_arguments_of_convert(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call, args: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said):
        call(convert_train_ids, *args)


# --- compute_image_weights


def test_weights(tmp_path: Path, call: Call) -> None:
    rng = np.random.default_rng(0)
    names = [f"city_{i:06d}_000019_gtFine_labelIds.png" for i in range(4)]
    masks = {name: rng.integers(0, 9, (12, 20), np.uint8) for name in names}
    masks[names[3]][:] = 255  # a mask without any class has an entry, too
    masks[names[0]][3, 3] = 18
    for name, mask in masks.items():
        save(tmp_path / "masks" / name, mask)
        save(tmp_path / "masks" / "cs" / name, mask)  # as infer_val.py does: not to be counted again
    save(tmp_path / "masks" / "city_000000_000019_color.png", grey(1))
    (tmp_path / "masks" / f"._{names[0]}").write_bytes(b"what a Mac leaves beside a file")
    out = tmp_path / "new" / "w.data"
    args = ["--labels", tmp_path / "masks", "--out", out]
    printed = call(compute_image_weights, *args)
    weights = load_weights(out)
    assert weights.keys() == masks.keys() and weights[names[3]] == {}
    for c in range(19):
        total = sum(int((mask == c).sum()) for mask in masks.values())
        for name, mask in masks.items():
            own = int((mask == c).sum())
            assert weights[name].get(c) == (own / total if own else None)
    assert f"{sum(int((mask == 4).sum()) for mask in masks.values()):14}        3" in printed
    assert "weights of 4 masks" in printed
    with pytest.raises(UserError, match="--force"):
        call(compute_image_weights, *args)
    call(compute_image_weights, *args, "--force", "--ext", "*0_*labelIds.png")
    assert len(load_weights(out)) == 1


@pytest.mark.parametrize(
    ("file", "ext"), [("{}_leftImg8bit.png", "*.png"), ("{}_gtFine_labelIds.tif", "*.tif"), ("{}_leftImg8bit.bmp", "*")]
)
def test_weights_have_the_names_that_training_knows(tmp_path: Path, call: Call, file: str, ext: str) -> None:
    for city in "ab":
        save(tmp_path / "masks" / file.format(city), grey(3))
    out = tmp_path / "w.data"
    call(compute_image_weights, "--labels", tmp_path / "masks", "--ext", ext, "--out", out)
    assert load_weights(out) == {f"{city}_gtFine_labelIds.png": {3: 0.5} for city in "ab"}


@pytest.mark.parametrize("names", [("x_leftImg8bit.png", "x_gtFine_labelIds.png"), ("x.png", "x.tif"), *CLASHES])
def test_two_masks_of_one_image(tmp_path: Path, call: Call, names: tuple[str, str]) -> None:
    for name in names:
        save(tmp_path / "masks" / name, grey(3))
    if len(tree(tmp_path)) < 2:
        pytest.skip("this file system has one file of both names")
    with pytest.raises(UserError, match="both have"):
        call(compute_image_weights, "--labels", tmp_path / "masks", "--ext", "*", "--out", tmp_path / "w.data")
    assert not (tmp_path / "w.data").exists()


@pytest.mark.parametrize(
    ("pixels", "said"),
    [(grey(19), "holds 19"), (grey(254), "holds 254"), (grey(255), "no mask"), (sixteen(1), "x_lab")],
)
def test_masks_that_are_none(tmp_path: Path, call: Call, pixels: np.ndarray, said: str) -> None:
    save(tmp_path / "x_labelIds.png", pixels)
    with pytest.raises(UserError, match=said):
        call(compute_image_weights, "--labels", tmp_path, "--out", tmp_path / "w.data")
    assert not (tmp_path / "w.data").exists()


def test_masks_wherever_they_lie_and_whatever_their_case(tmp_path: Path) -> None:
    for name in ("a_labelIds.PNG", "b_LABELIDS.png", "c.png"):
        save(tmp_path / "disk" / name, grey(1))
    (tmp_path / "masks").symlink_to(tmp_path / "disk")
    (tmp_path / "masks/loop").symlink_to(tmp_path / "masks")
    found = compute_image_weights.find(tmp_path / "masks", "*labelIds.png")
    assert [path.name for path in found] == ["a_labelIds.PNG", "b_LABELIDS.png"]


def test_no_masks(tmp_path: Path, call: Call) -> None:
    for folder, said in ((tmp_path, "--ext"), (tmp_path / "nowhere", "no such folder")):
        with pytest.raises(UserError, match=said):
            call(compute_image_weights, "--labels", folder, "--out", tmp_path / "w.data")


# --- evaluate


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """Three labelled images and masks that are right but for some pixels; a list of them."""
    rng = np.random.default_rng(0)
    samples = []
    for i in range(3):
        label = rng.integers(0, 18, (20, 30), np.uint8)  # class 18 occurs nowhere
        label[:3] = 255
        noise = rng.integers(0, 18, label.shape, np.uint8)
        mask = np.where(rng.random(label.shape) < 0.3, noise, label)
        save(tmp_path / "gt" / f"{i}_gtFine_labelIds.png", label)
        save(tmp_path / "masks" / f"{i}_gtFine_labelIds.png", mask)
        samples.append(lists.Sample(f"images/{i}_leftImg8bit.png", f"gt/{i}_gtFine_labelIds.png"))
    lists.write(tmp_path / "val.txt", samples)
    return tmp_path


def evaluated(call: Call, scene: Path, *more: object) -> tuple[dict, str]:
    printed = call(evaluate, "--predictions", scene / "masks", "--list", "val", "--root", scene, "--json",
                   scene / "result.json", "--force", *more)
    return json.loads((scene / "result.json").read_text()), printed


def iou_by_hand(scene: Path, c: int) -> float | None:
    both = union = 0
    for i in range(3):
        label = decoded(scene / "gt" / f"{i}_gtFine_labelIds.png")
        mask = decoded(scene / "masks" / f"{i}_gtFine_labelIds.png")
        valid = label != 255
        both += int(((label == c) & (mask == c) & valid).sum())
        union += int((((label == c) | (mask == c)) & valid).sum())
    return both / union if union else None


def test_evaluation(scene: Path, call: Call) -> None:
    result, printed = evaluated(call, scene)
    assert list(result) == ["miou", "miou16", "miou13", "iou", "accuracy", "images"] and result["images"] == 3
    expected = [iou_by_hand(scene, c) for c in range(19)]
    assert list(result["iou"].values()) == expected and result["iou"]["bicycle"] is None
    for key, without in (("miou", ()), ("miou16", (9, 14, 16)), ("miou13", (3, 4, 5, 9, 14, 16))):
        values = [v for c, v in enumerate(expected) if v is not None and c not in without]
        assert result[key] == pytest.approx(sum(values) / len(values), abs=1e-12)
    assert f"{100 * result['iou']['road']:.2f}" in printed
    assert f"16 classes (SYNTHIA): {100 * result['miou16']:.2f}" in printed
    ignoring, _ = evaluated(call, scene, "--ignore", 9, 14, 16)
    assert ignoring == result | {"miou": result["miou16"]}


def test_evaluation_of_another_label_set(scene: Path, call: Call) -> None:
    names = [f"c{i}" for i in range(18)]
    (scene / "own.yaml").write_text(json.dumps({"names": names, "colours": [[i, i, i] for i in range(18)]}))
    result, _ = evaluated(call, scene, "--classes", scene / "own.yaml")
    assert result["miou16"] is None and result["miou13"] is None and list(result["iou"]) == names
    assert result["miou"] == evaluated(call, scene)[0]["miou"]
    labels.say_beside_masks(scene / "masks", labels.load(str(scene / "own.yaml")))
    assert list(evaluated(call, scene)[0]["iou"]) == names  # as infer_val.py has said
    call(compute_image_weights, "--labels", scene / "masks", "--out", scene / "own.data")


def test_evaluation_of_perfect_masks(scene: Path, call: Call) -> None:
    for i in range(3):
        save(scene / "masks" / f"{i}_gtFine_labelIds.png", decoded(scene / "gt" / f"{i}_gtFine_labelIds.png"))
    result, _ = evaluated(call, scene)
    assert result["miou"] == 1 and result["accuracy"] == 1


@pytest.mark.parametrize(
    ("value", "ignore", "said"),
    [
        (255, (), "no pixel in .* has a class$"),
        (255, (9, 14), r"no pixel in .* has a class, except those of --ignore \(9 14\)"),
        (4, (4,), r"no pixel in .* has a class, except those of --ignore \(4\)"),
        (4, range(19), "--ignore names all 19 classes"),
    ],
)
def test_evaluation_of_nothing(scene: Path, call: Call, value: int, ignore: Sequence[int], said: str) -> None:
    for i in range(3):
        for folder in ("gt", "masks"):
            save(scene / folder / f"{i}_gtFine_labelIds.png", grey(value, 20, 30))
    with pytest.raises(UserError, match=said):
        evaluated(call, scene, *(["--ignore", *ignore] if ignore else []))
    assert not (scene / "result.json").exists()


def remove_masks(scene: Path) -> None:
    for i in (1, 2):
        (scene / "masks" / f"{i}_gtFine_labelIds.png").unlink()


@pytest.mark.parametrize(
    ("harm", "args", "said"),
    [
        (remove_masks, [], "2 of 3 masks are missing, first: .*1_gtFine"),
        (lambda s: save(s / "masks" / "1_gtFine_labelIds.png", grey(1, 10, 15)), [], "15x10, its .* 30x20"),
        (lambda s: save(s / "masks" / "1_gtFine_labelIds.png", grey(26, 20, 30)), [], "masks/1_gtFine.*26"),
        (lambda s: save(s / "gt" / "1_gtFine_labelIds.png", grey(33, 20, 30)), [], "gt/1_gtFine.*33"),
        (lambda s: (s / "gt" / "0_gtFine_labelIds.png").unlink(), [], "gt/0_gtFine"),
        (lambda s: (s / "val.txt").write_text("images/0_leftImg8bit.png\n"), [], "val.txt:1: no label"),
        (lambda s: (s / "val.txt").write_text("a/x.png g.png\na/x.jpg g.png\n"), [], "mask x.png"),
        (lambda s: None, ["--list", "none"], "no list 'none'"),
        (lambda s: None, ["--ignore", "19"], "--ignore 19"),
        (lambda s: None, ["--ignore", "x"], "--ignore"),
        (lambda s: None, ["--predictions", "nowhere"], "nowhere"),
        (lambda s: None, ["--classes", "nowhere.yaml"], "nowhere.yaml"),
        (lambda s: None, ["--json", os.devnull + "/x"], "cannot write"),
    ],
)
def test_wrong_input_of_evaluate(scene: Path, call: Call, harm: Callable, args: list[str], said: str) -> None:
    harm(scene)
    with pytest.raises(UserError, match=said):
        evaluated(call, scene, *args)
    assert not (scene / "result.json").exists()


# --- as commands; files


def test_a_users_mistake_is_one_line_and_status_2(tmp_path: Path) -> None:
    save(tmp_path / "a_labelIds.png", grey(77))
    tool = ROOT / "tools" / "compute_image_weights.py"
    command = [sys.executable, tool, "--labels", ".", "--out", "w.data"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: a_labelIds.png holds 77") and done.stderr.count("\n") == 1


def test_writing_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    atomic_write(path, lambda file: file.write(b"one"))

    def half(file: object) -> None:
        file.write(b"tw")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="file: No space left on device; nothing was changed"):
        atomic_write(path, half)
    with pytest.raises(ZeroDivisionError):
        atomic_write(path, lambda file: 1 / 0)
    assert path.read_bytes() == b"one" and tree(tmp_path) == ["new/file"]
    for wrong in (path / "below", tmp_path / "new", Path("/proc/nowhere/file")):
        with pytest.raises(UserError, match="cannot write"):
            atomic_write(wrong, lambda file: file.write(b"two"))
    assert tree(tmp_path) == ["new/file"]


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    program = (
        "import os, signal, sys; from core.files import atomic_write\n"
        "def die(file):\n file.write(b'tw'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
        "atomic_write(sys.argv[1], die)"
    )
    assert subprocess.run([sys.executable, "-c", program, path], cwd=ROOT).returncode == -9
    assert path.read_bytes() == b"one"
    left = [tmp_path / name for name in tree(tmp_path) if name != "file"]
    assert len(left) == 1 and left[0].read_bytes() == b"tw"
    sweep(tmp_path)
    assert left[0].exists()  # its writer might be alive
    os.utime(left[0], (0, 0))
    sweep(tmp_path)
    assert tree(tmp_path) == ["file"]


def test_parallel_map_keeps_the_order_and_stops_at_errors() -> None:
    assert list(parallel_map(lambda x: x * x, range(100), workers=4)) == [x * x for x in range(100)]
    assert list(parallel_map(str, [])) == []
    done = []

    def work(x: int) -> int:
        done.append(x)
        if x == 3:
            raise UserError("the third")
        time.sleep(0.001)
        return x

    with pytest.raises(UserError, match="the third"):
        list(parallel_map(work, range(10_000), workers=2))
    assert len(done) < 10_000


def test_masks_are_small_and_read_back(tmp_path: Path) -> None:
    mask = np.zeros((64, 128), np.uint8)
    mask[20:40, 30:90] = 13
    png.write_mask(tmp_path / "new" / "m.png", mask)
    assert np.array_equal(decoded(tmp_path / "new" / "m.png"), mask)
    content = (tmp_path / "new" / "m.png").read_bytes()
    assert png.kind(content, "m.png") == (8, png.GREY) and len(content) < 1000
