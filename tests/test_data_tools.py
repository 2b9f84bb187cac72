"""tools/convert_train_ids, make_lists, compute_image_weights and evaluate, on files that the tests write."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from core import png
from core.cli import UserError
from core.files import atomic_write, sweep
from core.threads import parallel_map
from datasets import lists
from datasets.sampling import load_weights
from tools import compute_image_weights, convert_train_ids, download, evaluate, make_lists

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden"
TOOLS = [convert_train_ids, make_lists, compute_image_weights, evaluate, download]
Call = Callable[..., str]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Call:
    """Call a tool's main as the command line would; returns what it prints."""

    def run(tool: object, *args: object) -> str:
        monkeypatch.setattr(sys, "argv", ["tool", *map(str, args)])
        capsys.readouterr()
        tool.main()
        return capsys.readouterr().out

    return run


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
    assert f"{len(tree(out))} labels converted, 0 were there already" in printed


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
    assert "1 labels converted, 1 were there already" in call(convert_train_ids, *args)
    assert whole.stat().st_mtime_ns == stamp and (decoded(broken) == 255).all()
    assert "2 labels converted, 0 were" in call(convert_train_ids, *args, "--force")
    assert whole.stat().st_mtime_ns != stamp


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
    ],
)
def test_labels_that_are_not_what_they_claim(
    tmp_path: Path, call: Call, dataset: str, pixels: np.ndarray, said: str
) -> None:
    save(tmp_path / "in" / "a_labelIds.png", pixels)
    folders = ["--ann-data", tmp_path / "in", "--ann-out", tmp_path / "out"]
    with pytest.raises(UserError, match=f"a_labelIds.png .*{said}"):
        call(convert_train_ids, "--dataset", dataset, *folders)
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


# --- make_lists


def world(
    root: Path,
    game: int = 0,
    synthia: int = 0,
    cs: tuple[int, int, int] = (0, 0, 0),
    labels: bool = True,
    first_game: int = 1,
) -> None:
    """Empty files with the names of the published trees: lists are made of names alone."""

    def touch(*names: str) -> None:
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()

    for i in range(first_game, game + 1):
        touch(f"game/images/{i:05d}.png", *[f"game/labels_cs/{i:05d}.png"] * labels)
    for i in range(synthia):
        touch(f"synthia/RGB/{i:07d}.png", *[f"synthia/labels_cs/{i:07d}.png"] * labels)
    for split, count in zip(("train", "val", "test"), cs, strict=True):
        for i in range(count):
            name = f"{split}/city{i % 3}/city{i % 3}_{i:06d}_000019"
            touch(f"cityscapes/leftImg8bit/{name}_leftImg8bit.png")
            touch(*[f"cityscapes/gtFine2/{name}_gtFine_labelIds.png"] * (labels and split != "test"))


def lists_in(folder: Path) -> dict[str, list[lists.Sample]]:
    return {path.stem: lists.read(str(path), str(folder)) for path in folder.glob("*.txt")}


@pytest.mark.parametrize(
    ("part", "whole", "there", "drawn"),
    [(1000, 10_000, 10_000, 1000), (400, 9400, 9400, 400), (500, 2975, 2975, 500)]  # the published trees
    + [(1000, 10_000, 24, 2), (1000, 10_000, 2, 1), (500, 2975, 6, 1), (400, 9400, 20_000, 400)],
)
def test_draws(part: int, whole: int, there: int, drawn: int) -> None:
    samples = [lists.Sample(f"{i:05d}.png", None) for i in range(there)]
    expected = sorted(random.Random(5).sample(samples, drawn))  # the promise: the same on every machine
    assert make_lists.draw(samples, part, whole, 5) == expected


def test_lists_of_gta_take_its_first_ten_thousand(tmp_path: Path, call: Call) -> None:
    world(tmp_path, game=10_004, first_game=9_981)
    call(make_lists, "--root", tmp_path)
    made = lists_in(tmp_path)
    assert {name: len(samples) for name, samples in made.items()} == {"train_game_9K": 18, "val_game_1K": 2}
    game = sorted(made["train_game_9K"] + made["val_game_1K"])
    assert [sample.image for sample in game] == [f"game/images/{i:05d}.png" for i in range(9_981, 10_001)]
    assert [sample.label for sample in game] == [f"game/labels_cs/{i:05d}.png" for i in range(9_981, 10_001)]


def test_lists_of_a_small_world(tmp_path: Path, call: Call) -> None:
    world(tmp_path, game=20, synthia=5, cs=(12, 3, 2))
    call(make_lists, "--root", tmp_path, "--out", tmp_path / "out", "--seed", 3)
    made = lists_in(tmp_path / "out")
    assert {name: len(samples) for name, samples in made.items()} == {
        "train_game_9K": 18, "val_game_1K": 2, "train_synthia_9K": 5, "val_synthia": 1,
        "train_cityscapes": 12, "val2_cityscapes": 2, "val_cityscapes": 3, "test_cityscapes": 2,
    }  # fmt: skip
    assert all(samples == sorted(set(samples)) for samples in made.values())
    assert not set(made["train_game_9K"]) & set(made["val_game_1K"])
    assert set(made["val_synthia"]) < set(made["train_synthia_9K"])
    assert set(made["val2_cityscapes"]) < set(made["train_cityscapes"])
    assert made["val_cityscapes"][0] == lists.Sample(
        "cityscapes/leftImg8bit/val/city0/city0_000000_000019_leftImg8bit.png",
        "cityscapes/gtFine2/val/city0/city0_000000_000019_gtFine_labelIds.png",
    )
    assert [name for name in made if made[name][0].label is None] == ["test_cityscapes"]


def test_lists_without_labels(tmp_path: Path, call: Call) -> None:
    world(tmp_path, game=4, cs=(6, 2, 0), labels=False)
    printed = call(make_lists, "--root", tmp_path)
    made = lists_in(tmp_path)
    assert list(made) == ["train_cityscapes"] and made["train_cityscapes"][0].label is None
    assert "left out: train_game_9K, val_game_1K: no labels as train ids" in printed
    assert "left out: test_cityscapes: no images" in printed


def test_lists_where_a_label_is_missing(tmp_path: Path, call: Call) -> None:
    world(tmp_path, game=4)
    (tmp_path / "game/labels_cs/00003.png").unlink()
    with pytest.raises(UserError, match="1 of 4 labels are missing.*00003"):
        call(make_lists, "--root", tmp_path)
    assert not lists_in(tmp_path)


def test_other_lists_are_not_replaced(tmp_path: Path, call: Call) -> None:
    world(tmp_path, game=30)
    call(make_lists, "--root", tmp_path)
    before = lists_in(tmp_path)
    assert "unchanged" in call(make_lists, "--root", tmp_path)
    with pytest.raises(UserError, match="train_game_9K.*--force"):
        call(make_lists, "--root", tmp_path, "--seed", 1)
    assert lists_in(tmp_path) == before
    call(make_lists, "--root", tmp_path, "--seed", 1, "--force")
    assert lists_in(tmp_path) != before


def test_lists_of_nothing(tmp_path: Path, call: Call) -> None:
    with pytest.raises(UserError, match="nothing to make a list of"):
        call(make_lists, "--root", tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        call(make_lists, "--root", tmp_path / "nowhere")


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
    ("pixels", "said"),
    [(grey(19), "holds 19"), (grey(254), "holds 254"), (grey(255), "no mask"), (sixteen(1), "x_lab")],
)
def test_masks_that_are_none(tmp_path: Path, call: Call, pixels: np.ndarray, said: str) -> None:
    save(tmp_path / "x_labelIds.png", pixels)
    with pytest.raises(UserError, match=said):
        call(compute_image_weights, "--labels", tmp_path, "--out", tmp_path / "w.data")
    assert not (tmp_path / "w.data").exists()


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


def test_evaluation_of_perfect_masks_and_of_nothing(scene: Path, call: Call) -> None:
    for i in range(3):
        save(scene / "masks" / f"{i}_gtFine_labelIds.png", decoded(scene / "gt" / f"{i}_gtFine_labelIds.png"))
    result, _ = evaluated(call, scene)
    assert result["miou"] == 1 and result["accuracy"] == 1
    for i in range(3):
        save(scene / "gt" / f"{i}_gtFine_labelIds.png", grey(255, 20, 30))
    result, printed = evaluated(call, scene)
    assert result["miou"] is None and result["accuracy"] is None and "classes: -" in printed


def remove_masks(scene: Path) -> None:
    for i in (1, 2):
        (scene / "masks" / f"{i}_gtFine_labelIds.png").unlink()


@pytest.mark.parametrize(
    ("harm", "args", "said"),
    [
        (remove_masks, [], "2 of 3 predictions are missing, first: .*1_gtFine"),
        (lambda s: save(s / "masks" / "1_gtFine_labelIds.png", grey(1, 10, 15)), [], "15x10, its .* 30x20"),
        (lambda s: save(s / "masks" / "1_gtFine_labelIds.png", grey(26, 20, 30)), [], "masks/1_gtFine.*26"),
        (lambda s: save(s / "gt" / "1_gtFine_labelIds.png", grey(33, 20, 30)), [], "gt/1_gtFine.*33"),
        (lambda s: (s / "gt" / "0_gtFine_labelIds.png").unlink(), [], "gt/0_gtFine"),
        (lambda s: (s / "val.txt").write_text("images/0_leftImg8bit.png\n"), [], "val.txt:1: no label"),
        (lambda s: (s / "val.txt").write_text("a/x.png g.png\nb/x.png g.png\n"), [], "mask x.png"),
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


@pytest.mark.parametrize("tool", TOOLS)
def test_help_has_an_example(tool: object, call: Call, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="0"):
        call(tool, "--help")
    assert "examples:" in capsys.readouterr().out


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
