"""tools/check_data.py: a clean tree has no errors; each thing that can be wrong is found, named and explained."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import small_tree
from PIL import Image

from core.cli import UserError
from datasets import lists, sampling
from datasets.lists import Sample
from tools import check_data

ROOT = Path(__file__).parents[1]
GAME, TARGET = "game/images/00001.png", "city/t0_leftImg8bit.png"


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with the published names: GTA5, a target of four images, three lists to validate on."""
    root, rng = tmp_path_factory.mktemp("clean") / "data", np.random.default_rng(0)

    def put(image: str, label: str) -> Sample:
        for path, pixels in ((image, rng.integers(0, 256, (40, 64, 3), np.uint8)), (label, whole_set())):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / path), pixels)
        return Sample(image, label)

    def whole_set() -> np.ndarray:
        return np.append(np.arange(19), 255).astype(np.uint8).repeat(2)[None, :64].repeat(40, 0)[:, np.arange(64) % 40]

    game = [put(f"game/images/{i:05}.png", f"game/labels_cs/{i:05}.png") for i in range(5)]
    target = [put(f"city/t{i}_leftImg8bit.png", f"city/t{i}_label.png") for i in range(4)]
    val = [put(f"city/v{i}_leftImg8bit.png", f"city/v{i}_label.png") for i in range(2)]
    (root / "game/labels").mkdir()
    for i in range(5):
        Image.fromarray(whole_set()).convert("P").save(root / f"game/labels/{i:05}.png")
    for name, samples in {
        "train_game_9K": game[:4], "val_game_1K": game[4:], "train_cityscapes": target, "val_cityscapes": val,
        "val2_cityscapes": target[2:],
    }.items():  # fmt: skip
        lists.write(root / f"{name}.txt", samples)
    weights = {lists.mask_name(s.image): {c: 0.25 for c in range(19)} for s in target}
    sampling.save_weights(weights, root / "weights.data")
    (root / "cfg.yaml").write_text(
        "TRAIN: {TASK: train_game_9K, BATCH_SIZE: 1, NUM_GROUPS: 1}\nDATASET: {CROP_SIZE: [40, 64]}\n")
    return root


@pytest.fixture
def tree(clean: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    shutil.copytree(clean, tmp_path / "data")
    return tmp_path / "data"


Check = Callable[..., tuple[int, list[str], list[str]]]


@pytest.fixture
def check(tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Check:
    """Call the tool; returns the exit status, the errors and the warnings."""

    def call(*pairs: object, options: tuple[str, ...] = ()) -> tuple[int, list[str], list[str]]:
        arguments = ["--cfg", tree / "cfg.yaml", *options, "--set", "DATASET.ROOT", tree, *pairs]
        monkeypatch.setattr(sys, "argv", ["check_data.py", *map(str, arguments)])
        status = 0
        try:
            check_data.main()
        except SystemExit as end:
            status = end.code
        out = capsys.readouterr().out.splitlines()
        kinds = [[line.partition(": ")[2] for line in out if line.startswith(kind)] for kind in ("error", "warning")]
        return status, *kinds

    return call


def test_clean(check: Check, tree: Path) -> None:
    status, errors, warnings = check("DATASET.SAMPLE_WEIGHTS", tree / "weights.data")
    assert (status, errors) == (0, [])
    # A small world has small lists, and the list that chooses snapshots is a part of the training list.
    assert len(warnings) == 6 and sum("the published list has" in w for w in warnings) == 5
    assert any(w.startswith("list val2_cityscapes, which selects snapshots, shares 2 of its 2") for w in warnings)


def test_the_tree_of_other_tests_is_clean(tmp_path: Path, check: Check) -> None:
    small_tree.make(tmp_path / "small")
    status, errors, _ = check("DATASET.ROOT", tmp_path / "small")
    assert (status, errors) == (0, [])


def write(path: Path, pixels: np.ndarray) -> None:
    assert cv2.imwrite(str(path), pixels)


def grey(value: int, size: tuple[int, int] = (40, 64)) -> np.ndarray:
    return np.full(size, value, np.uint8)


def mixed(*values: int) -> np.ndarray:
    label = grey(3)
    label[0, : len(values)] = values
    return label


def palette(path: Path) -> None:
    Image.fromarray(grey(7)).convert("P").save(path)


DAMAGE = {  # file, what is done to it, words of the error
    "missing image": (GAME, Path.unlink, ["No such file"]),
    "empty image": (GAME, lambda p: p.write_bytes(b""), ["empty"]),
    "truncated image": (GAME, lambda p: p.write_bytes(p.read_bytes()[:-40]), ["truncated"]),
    "no image": (GAME, lambda p: p.write_text("html"), ["not an image"]),
    "tiny image": (GAME, lambda p: write(p, grey(1, (1, 1))), ["1x1 pixels"]),
    "image of another size": (GAME, lambda p: write(p, grey(1, (50, 64))), ["64x40", "its image", "64x50"]),
    "missing target image": (TARGET, Path.unlink, ["No such file"]),
    "missing label": ("game/labels_cs/00001.png", Path.unlink, ["No such file"]),
    "empty label": ("game/labels_cs/00001.png", lambda p: p.write_bytes(b""), ["empty"]),
    "truncated label": ("game/labels_cs/00001.png", lambda p: p.write_bytes(p.read_bytes()[:-40]), ["truncated"]),
    "damaged label": ("game/labels_cs/00001.png", lambda p: p.write_bytes(p.read_bytes()[:50] + b"x" +
                      p.read_bytes()[51:]), ["damaged"]),
    "raw label ids": ("game/labels_cs/00001.png", lambda p: write(p, mixed(7, 26, 33)),
                      ["raw label IDs (26, 33)", "convert_train_ids"]),
    "other values": ("game/labels_cs/00001.png", lambda p: write(p, mixed(7, 77, 200)),
                     ["77, 200", "not train IDs", "DATASET.CLASSES"]),
    "palette label": ("game/labels_cs/00001.png", palette, ["palette PNG", "--dataset gta"]),
    "16-bit label": ("game/labels_cs/00001.png", lambda p: write(p, np.zeros((40, 64, 3), np.uint16)),
                     ["16-bit RGB", "--dataset synthia"]),
    "colour label": ("game/labels_cs/00001.png", lambda p: write(p, np.zeros((40, 64, 3), np.uint8)), ["one channel"]),
    "validation label": ("city/v1_label.png", lambda p: write(p, mixed(19)), ["raw label IDs (19)"]),
    "one of the target's labels": ("city/t1_label.png", Path.unlink, ["No such file"]),
    "raw label not as published": ("game/labels/00001.png", lambda p: write(p, np.zeros((9, 9, 3), np.uint16)),
                                   ["16-bit RGB", "a palette or"]),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_found(check: Check, tree: Path, case: str) -> None:
    name, damage, words = DAMAGE[case]
    damage(tree / name)
    status, errors, _ = check()
    assert status == 1 and len(errors) == 1, errors
    assert str(tree / name) in errors[0] and all(word in errors[0] for word in words), errors
    assert ";" in errors[0]  # what to do


def test_synthia_s_raw_labels_must_have_16_bits(check: Check, tree: Path) -> None:
    for folder in ("synthia/labels_cs", "synthia/GT/LABELS"):
        (tree / folder).mkdir(parents=True)
        write(tree / folder / "1.png", mixed(*range(19)))
    lists.write(tree / "own.txt", [Sample(GAME, "synthia/labels_cs/1.png")])
    status, errors, _ = check("TRAIN.TASK", "own")
    assert status == 1 and "GT/LABELS/1.png: 8-bit grey" in errors[0] and "16-bit RGB" in errors[0]
    write(tree / "synthia/GT/LABELS/1.png", np.zeros((40, 64, 3), np.uint16))
    assert check("TRAIN.TASK", "own")[:2] == (0, [])


def test_without_its_labels_the_target_is_only_warned_about(check: Check, tree: Path) -> None:
    for i in range(4):
        (tree / f"city/t{i}_label.png").unlink()
    (tree / "val2_cityscapes.txt").unlink()
    status, errors, warnings = check()
    assert (status, errors) == (0, []) and any("t0_label.png does not exist" in w for w in warnings)
    lists.write(tree / "train_cityscapes.txt", [Sample(f"city/t{i}_leftImg8bit.png", None) for i in range(4)])
    assert check()[:2] == (0, [])


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("train_game_9K", None, "no list 'train_game_9K'"),
        ("train_cityscapes", None, "no list 'train_cityscapes'"),
        ("train_game_9K", f"{GAME}\n", "no label"),
        ("train_game_9K", "# nothing\n", "lists nothing"),
        ("train_game_9K", "a b c\n", ":1: expected"),
        ("val_cityscapes", f"{TARGET}\n", "no label"),
        ("train_cityscapes", f"{TARGET} city/t0_label.png\ncity/t1_leftImg8bit.png\n", "1 of 2 lines have no label"),
        ("train_cityscapes", f"{TARGET}\n{TARGET}\n", "1 images are listed more than once"),
        ("train_cityscapes", f"{TARGET}\ngame/images/../x/t0_leftImg8bit.png\n", ":2: a path with '..'"),
        ("train_cityscapes", f"{TARGET}\n./{TARGET}\n", "both have the mask t0_gtFine_labelIds.png"),
    ],
)
def test_lists(check: Check, tree: Path, name: str, text: str | None, words: str) -> None:
    if text is None:
        (tree / f"{name}.txt").unlink()
    else:
        (tree / f"{name}.txt").write_text(text)
    status, errors, _ = check("DATASET.SAMPLE_WEIGHTS", "''")
    assert status == 1 and any(words in error for error in errors), errors


def test_counts(check: Check, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that is nearly whole has holes; a small one is another world."""
    monkeypatch.setitem(check_data.EXPECTED, "train_game_9K", 5)
    status, errors, _ = check()
    assert status == 1 and errors[0].startswith("list train_game_9K: 4 images, but the published list has 5; check")
    monkeypatch.setitem(check_data.EXPECTED, "train_game_9K", 4)
    status, errors, warnings = check()
    assert status == 0 and not any("list train_game_9K" in line for line in warnings)


def test_lists_to_validate_on(check: Check, tree: Path) -> None:
    (tree / "val_cityscapes.txt").unlink()
    status, _, warnings = check()
    assert status == 0 and any(w.startswith("list val_cityscapes does not exist") for w in warnings)
    status, errors, _ = check("VAL.LISTS", "mine,val_game_1K")
    assert status == 1 and errors == ["list mine does not exist, so validation skips it; tools/make_lists.py "
                                        "writes the published lists"]  # fmt: skip
    status, errors, _ = check("VAL.SELECT", "mine")
    assert status == 1 and "VAL.SELECT = mine" in errors[0]


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda w: w.pop("t0_gtFine_labelIds.png"), "1 images of the list have none"),
        (lambda w: w.update({"other.png": {}}), "for other images"),
        (lambda w: w["t0_gtFine_labelIds.png"].update({0: 0.9}), "add up to"),
        (lambda w: w["t0_gtFine_labelIds.png"].update({19: 0.5}), "class 19"),
    ],
)
def test_weights(check: Check, tree: Path, change: Callable[[dict], object], words: str) -> None:
    weights = sampling.load_weights(tree / "weights.data")
    change(weights)
    sampling.save_weights(weights, tree / "weights.data")
    status, errors, _ = check("DATASET.SAMPLE_WEIGHTS", tree / "weights.data")
    assert status == 1 and len(errors) == 1 and words in errors[0] and str(tree / "weights.data") in errors[0]


def test_no_weights(check: Check, tree: Path) -> None:
    status, errors, _ = check("DATASET.SAMPLE_WEIGHTS", tree / "none.data")
    assert status == 1 and errors == [f"weights file {tree / 'none.data'} does not exist; make it with "
                                        "tools/compute_image_weights.py"]  # fmt: skip


def test_classes_without_a_pixel(check: Check, tree: Path) -> None:
    for i in range(4):
        write(tree / f"game/labels_cs/{i:05}.png", mixed(*range(17)))
    _, _, warnings = check("VAL.IGNORE_CLASS", "17")
    assert any("no pixel of bicycle;" in w for w in warnings)


def test_own_label_set(check: Check, tree: Path) -> None:
    (tree / "own.yaml").write_text("names: [a, b]\ncolours: [[1, 2, 3], [4, 5, 6]]\nraw_ids: {3: 0, 18: 1}\n")
    for path in tree.glob("*/*label*/*.png"):
        write(path, mixed(0, 1, 255)) if "labels_cs" in str(path) else None
    for path in tree.glob("city/*_label.png"):
        write(path, grey(1))
    write(tree / "game/labels_cs/00002.png", grey(18))
    status, errors, _ = check("DATASET.CLASSES", tree / "own.yaml")
    assert status == 1 and sum("raw label IDs" in f for f in errors) == len(errors) == 5
    words = "00002.png: raw label IDs (18) instead of train IDs (0 to 1 and 255)"
    assert any(words in error for error in errors)


def test_labels_that_are_older_than_their_label_set(check: Check, tree: Path) -> None:
    content = "names: [a, b]\ncolours: [[1, 2, 3], [4, 5, 6]]\nraw_ids: {3: 0, 18: 1}\n"
    (tree / "own.yaml").write_text(content)
    os.utime(tree / "own.yaml", (0, 0))
    assert not any("has changed since" in w for w in check("DATASET.CLASSES", tree / "own.yaml")[2])
    os.utime(tree / "own.yaml", (99, 99))
    os.utime(tree / "game/labels_cs/00002.png", (9, 9))
    (warning,) = [w for w in check("DATASET.CLASSES", tree / "own.yaml")[2] if "has changed since 1 labels" in w]
    assert "00002.png; run tools/convert_train_ids.py again" in warning


def test_many_errors_are_counted(check: Check, tree: Path, capsys: pytest.CaptureFixture) -> None:
    for path in tree.glob("city/*.png"):
        path.unlink()
    status, errors, _ = check(options=("--limit", "3"))
    assert status == 1 and len(errors) == 3


def turn(tree: Path, orientation: int, label: bool) -> None:
    """Store the source's images as a phone does that is held so; and their labels in the same way, without EXIF."""
    way = {6: Image.Transpose.ROTATE_90, 3: Image.Transpose.ROTATE_180}[orientation]
    tags = Image.Exif()
    tags[0x0112] = orientation
    for i in range(4):
        path = tree / f"game/images/{i:05}.png"
        Image.open(path).transpose(way).save(path, exif=tags)
        if label:
            path = tree / f"game/labels_cs/{i:05}.png"
            Image.open(path).transpose(way).save(path)


def test_labels_belong_to_upright_images(check: Check, tree: Path) -> None:
    turn(tree, 6, label=False)
    assert check()[:2] == (0, [])


def test_labels_of_lying_images(check: Check, tree: Path) -> None:
    turn(tree, 6, label=True)
    status, errors, _ = check()
    assert status == 1 and len(errors) == 4 and all("40x64, but its image" in error for error in errors)


def sparse(path: Path) -> None:
    label = grey(255)
    label[0, :25] = np.arange(25) % 19
    write(path, label)


@pytest.mark.parametrize("damage, words", [
    (lambda p: write(p, grey(255)), "every pixel is ignored (255)"),
    (lambda p: write(p, grey(8)), "all labelled pixels are vegetation"),
    (lambda p: write(p, np.where(np.arange(64) < 30, grey(8), 255).astype(np.uint8)), "all labelled pixels are veget"),
    (sparse, "only 0.98 % of the pixels are labelled"),
])  # fmt: skip
def test_labels_that_teach_nothing(check: Check, tree: Path, damage: Callable[[Path], object], words: str) -> None:
    for i in range(4):
        damage(tree / f"game/labels_cs/{i:05}.png")
    status, errors, warnings = check()
    assert status == 1 and len(errors) == 1 and errors[0].startswith("list train_game_9K: "), errors
    assert words in errors[0] and "convert_train_ids.py" in errors[0]
    assert not any("no pixel of" in warning for warning in warnings)
    damage(tree / "game/labels_cs/00004.png")  # in a list that only measures it may be so
    write(tree / "game/labels_cs/00000.png", mixed(*range(19)))
    assert check()[:2] == (0, [])


@pytest.mark.parametrize("lines, pairs", [
    (["city/v0_leftImg8bit.png"], ("VAL.LISTS", "mine")),
    (["city/v0_leftImg8bit.png city/v0_label.png", "city/v1_leftImg8bit.png"], ("VAL.LISTS", "mine")),
    (["city/t0_leftImg8bit.png"], ("VAL.LISTS", "mine", "TRAIN.TARGET", "mine")),
    (["city/t0_leftImg8bit.png"], ("VAL.LISTS", "val_cityscapes,mine", "TRAIN.TARGET", "mine")),
])  # fmt: skip
def test_validation_needs_labels(check: Check, tree: Path, lines: list[str], pairs: tuple[str, ...]) -> None:
    (tree / "mine.txt").write_text("\n".join(lines))
    status, errors, _ = check(*pairs)
    assert status == 1 and len(errors) == 1 and f"mine.txt:{len(lines)}: no label" in errors[0], errors


def test_a_validated_target_needs_its_labels_on_the_disk(check: Check, tree: Path) -> None:
    for i in range(4):
        (tree / f"city/t{i}_label.png").unlink()
    (tree / "val2_cityscapes.txt").unlink()
    status, errors, _ = check("VAL.LISTS", "train_cityscapes")
    assert status == 1 and len(errors) == 4


@pytest.mark.parametrize("pairs, words", [
    (("TRAIN.BATCH_SIZE", "5"), "list train_game_9K has 4 images, fewer than one batch"),
    (("TRAIN.NUM_GROUPS", "9"), "list train_game_9K has 4 images, fewer than one batch"),
    (("MODEL.BASELINE", "True", "MODEL.INIT_MODEL", "none.pth"), "file of ImageNet weights none.pth does not exist"),
    (("MODEL.BASELINE", "True", "MODEL.INIT_MODEL", __file__), "is damaged, or was not written by torch.save"),
])  # fmt: skip
def test_what_train_py_would_refuse(check: Check, pairs: tuple[str, ...], words: str) -> None:
    status, errors, _ = check(*pairs)
    assert status == 1 and len(errors) == 1 and words in errors[0], errors


def test_adaptation_starts_from_a_snapshot(check: Check) -> None:
    status, errors, warnings = check("MODEL.INIT_MODEL", "none.pth")
    assert (status, errors) == (0, [])
    assert any("file of ImageNet weights none.pth does not exist" in w for w in warnings)


@pytest.mark.parametrize("crop, count", [("40,64", 0), ("32,32", 0), ("41,64", 4), ("40,65", 4), ("64,40", 4)])
def test_crops_that_are_larger_than_the_images(check: Check, tree: Path, crop: str, count: int) -> None:
    write(tree / "city/v0_leftImg8bit.png", np.zeros((33, 33, 3), np.uint8))  # of a list that only measures
    write(tree / "city/v0_label.png", grey(3, (33, 33)))
    warnings = [w for w in check("DATASET.CROP_SIZE", crop)[2] if "CROP_SIZE" in w]
    assert len(warnings) == (2 if count else 0)
    height, width = crop.split(",")
    assert all(f"{count} of 4 images are smaller than DATASET.CROP_SIZE ({width}x{height})" in w for w in warnings)


def test_images_of_one_colour(check: Check, tree: Path) -> None:
    write(tree / GAME, np.full((40, 64, 3), (1, 2, 3), np.uint8))
    almost = np.full((40, 64, 3), (1, 2, 3), np.uint8)
    almost[39, 63] = 4
    write(tree / "game/images/00002.png", almost)
    (blank,) = [w for w in check()[2] if "are a single colour" in w]
    assert f"list train_game_9K: 1 of 4 images are a single colour, first {tree / GAME}" in blank


@pytest.mark.parametrize(
    "pairs, message",
    [
        (("DATASET.ROOT", "/nowhere"), "no such folder"),
        (("MODEL.LR", "-1"), "MODEL.LR"),
        (("DATASET.CLASSES", "none.yaml"), "none.yaml"),
        (("VAL.IGNORE_CLASS", "19"), "VAL.IGNORE_CLASS"),
    ],
)
def test_what_cannot_run(check: Check, pairs: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(*pairs)


def test_a_limit_below_0(check: Check) -> None:
    with pytest.raises(UserError, match="--limit -1: expected 0 or more"):
        check(options=("--limit", "-1"))


def test_exit_status_and_help() -> None:
    script = str(ROOT / "tools/check_data.py")
    code = f"""
import sys
sys.argv = [{script!r}, "--cfg", "none.yaml"]
import runpy
try:
    runpy.run_path({script!r}, run_name="__main__")
except SystemExit as end:
    print(end.code)
sys.argv = [{script!r}, "--help"]
runpy.run_path({script!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.startswith("2\n") and "examples:" in done.stdout
    assert done.stderr.count("\n") == 1 and "none.yaml" in done.stderr
