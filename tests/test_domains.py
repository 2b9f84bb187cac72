"""configs/domains: each published layout, rendered small, becomes train IDs and lists that check_data.py has no errors
for; a user's own domains likewise; what a file may say."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from PIL import Image

from core.cli import UserError
from datasets import labels, lists
from datasets.labels import CITYSCAPES
from tools import check_data, convert_train_ids, make_lists
from tools.domain import domains
from tools.domain.domains import Pattern

Call = Callable[..., str]
SIZE = (32, 64)


# --- labels as the data sets encode them


def grey(path: Path, raw: np.ndarray) -> None:
    cv2.imwrite(str(path), raw)


def palette(path: Path, raw: np.ndarray) -> None:
    image = Image.fromarray(raw).convert("P")
    image.putpalette([(7 * i) % 256 for i in range(768)])  # the colours must not matter
    image.save(path)


def red16(path: Path, raw: np.ndarray) -> None:
    instances = np.arange(raw.size, dtype=np.uint16).reshape(raw.shape)
    cv2.imwrite(str(path), np.dstack([instances, instances, raw.astype(np.uint16)]))  # OpenCV: BGR


ENCODE = {"raw_ids": grey, "train_ids": grey, "palette": palette, "red16": red16}


class Layout(NamedTuple):
    """Files of a published archive, without the root: of images, and of the label of each that has one."""

    files: dict[str, str]
    raw: Sequence  # raw IDs, or colours, that stand for ...
    train: Sequence[int]  # ... these train IDs
    lists: dict[str, tuple[int, bool]]  # images, whether with labels
    beside: Sequence[str] = ()  # of the archive, but neither images nor labels of ours


LABEL_IDS = ([7, 8, 11, 26, 33, 0, 9, 34], [0, 1, 2, 13, 18, 255, 255, 255])
TRAIN_IDS = (list(range(19)) + [255], list(range(19)) + [255])
LAYOUTS = {
    "cityscapes": Layout(
        {f"cityscapes/leftImg8bit/{s}/{c}/{c}_00000{i}_000019_leftImg8bit.png":
         f"cityscapes/gtFine/{s}/{c}/{c}_00000{i}_000019_gtFine_labelIds.png" if s != "test" else ""
         for s, c in (("train", "aachen"), ("train", "ulm"), ("val", "lindau"), ("test", "bonn")) for i in range(2)},
        *LABEL_IDS,
        {"train_cityscapes": (4, True), "val2_cityscapes": (1, True), "val_cityscapes": (2, True),
         "test_cityscapes": (2, False)},
        ["cityscapes/gtFine/train/ulm/ulm_000000_000019_gtFine_color.png"]),
    "gta": Layout({f"game/images/{i:05d}.png": f"game/labels/{i:05d}.png" for i in range(4, 8)}, *LABEL_IDS,
                  {"train_game_9K": (3, True), "val_game_1K": (1, True)}),
    "synthia": Layout({f"synthia/RGB/{i:07d}.png": f"synthia/GT/LABELS/{i:07d}.png" for i in range(48, 51)},
                      [3, 4, 2, 1, 21, 22, 0, 13], [0, 1, 2, 10, 3, 255, 255, 255],
                      {"train_synthia_9K": (3, True), "val_synthia": (1, True)},
                      ["synthia/GT/COLOR/0000048.png"]),
    "acdc": Layout(
        {f"acdc/rgb_anon/{c}/{s}/GOPR0{c[0]}{i}/GOPR0{c[0]}{i}_frame_000001_rgb_anon.png":
         f"acdc/gt/{c}/{s}/GOPR0{c[0]}{i}/GOPR0{c[0]}{i}_frame_000001_gt_labelIds.png" if s != "test" else ""
         for c in ("fog", "night") for i, s in enumerate(("train", "val", "test"))},
        *LABEL_IDS, {"train_acdc": (2, True), "val_acdc": (2, True), "test_acdc": (2, False)},
        ["acdc/rgb_anon/fog/train_ref/GOPR0f0/GOPR0f0_frame_000001_rgb_ref_anon.png",
         "acdc/gt/fog/train/GOPR0f0/GOPR0f0_frame_000001_gt_invIds.png"]),
    "dark_zurich": Layout(
        {f"dark_zurich/rgb_anon/{s}/{t}/GOPR03/GOPR03_frame_000{i}_rgb_anon.png":
         f"dark_zurich/gt/{s}/{t}/GOPR03/GOPR03_frame_000{i}_gt_labelIds.png" if s == "val" else ""
         for s, t in (("train", "day"), ("train", "night"), ("val", "night"), ("test", "night")) for i in (159, 160)},
        *LABEL_IDS, {"train_dark_zurich": (2, False), "val_dark_zurich": (2, True), "test_dark_zurich": (2, False)}),
    "bdd100k": Layout(
        {f"bdd100k/images/10k/{s}/{i}a-{i}b.jpg":
         f"bdd100k/labels/sem_seg/masks/{s}/{i}a-{i}b.png" if s != "test" else ""
         for s in ("train", "val", "test") for i in range(2)},
        *TRAIN_IDS, {"train_bdd100k": (2, True), "val_bdd100k": (2, True), "test_bdd100k": (2, False)},
        ["bdd100k/labels/sem_seg/colormaps/train/0a-0b.png"]),
    "mapillary": Layout(
        {f"mapillary/{s}/images/_{i}x-.jpg": f"mapillary/{s}/v1.2/labels/_{i}x-.png" if s != "testing" else ""
         for s in ("training", "validation", "testing") for i in range(2)},
        [13, 24, 2, 15, 17, 20, 55, 65, 64], [0, 0, 1, 1, 2, 12, 13, 255, 255],
        {"train_mapillary": (2, True), "val_mapillary": (2, True), "test_mapillary": (2, False)},
        ["mapillary/training/v1.2/instances/_0x-.png", "mapillary/training/v2.0/labels/_0x-.png"]),
    "idd": Layout(
        {f"idd/leftImg8bit/{s}/{d}/{f}_leftImg8bit.{e}":
         f"idd/gtFine/{s}/{d}/{f}_gtFine_labelcsTrainIds.png" if s != "test" else ""
         for s in ("train", "val", "test") for d, f, e in ((119, "656260", "png"), (556, "frame1025", "jpg"))},
        *TRAIN_IDS, {"train_idd": (2, True), "val_idd": (2, True), "test_idd": (2, False)},
        ["idd/gtFine/train/119/656260_gtFine_polygons.json"]),
    "camvid": Layout(
        {f"camvid/701_StillsRaw_full/{n}.png": f"camvid/LabeledApproved_full/{n}_L.png"
         for n in ("0001TP_006690", "0016E5_00390", "Seq05VD_f00000", "Seq05VD_f00030")},
        [(128, 64, 128), (0, 0, 192), (128, 0, 0), (64, 0, 128), (64, 128, 192), (0, 0, 0), (0, 128, 192), (1, 2, 3)],
        [0, 1, 2, 13, 13, 255, 255, 255], {"train_camvid": (2, True), "val_camvid": (2, True)}),
}  # fmt: skip


def put_image(path: Path, rng: np.random.Generator, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), rng.integers(0, 256, (*size, 3), np.uint8))


def put_label(path: Path, raw: Sequence, encoding: str, rng: np.random.Generator) -> np.ndarray:
    """A label in which every raw value occurs; returns the positions in `raw`, uint8 [H,W]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    index = rng.permutation(np.arange(SIZE[0] * SIZE[1]) % len(raw)).reshape(SIZE)
    if encoding == "rgb":
        cv2.imwrite(str(path), np.array(raw, np.uint8)[index][..., ::-1])
    else:
        ENCODE[encoding](path, np.array(raw, np.uint8)[index])
    return index


def render(root: Path, name: str) -> dict[str, np.ndarray]:
    """A data set as it unpacks, some images of each kind; returns the train IDs of every image with a label."""
    layout, domain, rng = LAYOUTS[name], domains.load(name), np.random.default_rng(0)
    expected = {}
    for image, label in layout.files.items():
        put_image(root / image, rng)
        if label:
            index = put_label(root / label, layout.raw, domain.labels.encoding, rng)
            expected[image] = np.array(layout.train, np.uint8)[index]
    for other in layout.beside:
        put_image(root / other, rng) if other.endswith("png") else (root / other).write_text("{}")
    return expected


def made_lists(root: Path) -> dict[str, list[lists.Sample]]:
    return {path.stem: lists.read(str(path), str(root)) for path in root.glob("*.txt")}


def test_there_is_a_layout_of_each() -> None:
    assert sorted(LAYOUTS) == domains.names()


@pytest.mark.parametrize("name", LAYOUTS)
def test_published_layouts(tmp_path: Path, call: Call, name: str) -> None:
    expected = render(tmp_path, name)
    printed = call(convert_train_ids, "--dataset", name, "--root", tmp_path)
    ready = domains.load(name).labels.encoding == "train_ids"
    assert ("already train IDs" if ready else f"{len(expected)} labels converted, 0 already existed") in printed
    assert "licence of" in call(make_lists, "--dataset", name, "--root", tmp_path)
    made = made_lists(tmp_path)
    assert {key: (len(samples), samples[0].label is not None) for key, samples in made.items()} == LAYOUTS[name].lists
    for sample in {sample for samples in made.values() for sample in samples if sample.label}:
        label = cv2.imread(str(tmp_path / sample.label), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(label, expected[sample.image]), sample
    labelled = next(key for key, samples in made.items() if samples[0].label)
    target = next(key for key in made if key.startswith("train"))
    (tmp_path / "run.yaml").write_text("MODEL: {INIT_MODEL: '', BASELINE: True}")
    pairs = ["DATASET.ROOT", tmp_path, "TRAIN.TASK", labelled, "TRAIN.TARGET", target, "DATASET.CROP_SIZE", "32,64",
             "VAL.LISTS", labelled, "TRAIN.BATCH_SIZE", 1, "TRAIN.NUM_GROUPS", 1]  # fmt: skip
    assert "\n0 errors, " in "\n" + call(check_data, "--cfg", tmp_path / "run.yaml", "--set", *pairs)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_missing_label_folder_is_one_line(tmp_path: Path, call: Call, name: str) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(UserError, match=f"(no such folder|no label ).*unpack the labels of {name} there"):
        call(convert_train_ids, "--dataset", name, "--root", tmp_path / "data")
    with pytest.raises(UserError, match="nothing to list; no images"):
        call(make_lists, "--dataset", name, "--root", tmp_path / "data")


def test_without_labels_a_target_is_listed_all_the_same(tmp_path: Path, call: Call) -> None:
    for image in LAYOUTS["acdc"].files:
        put_image(tmp_path / image, np.random.default_rng(0))
    printed = call(make_lists, "--dataset", "acdc", "--root", tmp_path)
    assert "left out: val_acdc: no train-ID labels (make them with tools/convert_train_ids.py --dataset acdc" in printed
    assert {name: samples[0].label for name, samples in made_lists(tmp_path).items()} == {
        "train_acdc": None, "test_acdc": None}  # fmt: skip


def test_classes_are_those_of_cityscapes() -> None:
    for name in domains.names():
        domain = domains.load(name)
        assert domain.classes.names == CITYSCAPES.names and domain.licence
        trains = {*domain.classes.raw_to_train.values(), *domain.classes.colour_to_train.values()} - {255}
        assert len(trains) > 10 and trains <= set(range(19))
        assert (domain.mean is None) == (domain.std is None) == (name not in make_lists.PUBLISHED)


# --- a user's own


OWN_CLASSES = """
names: [road, "no road"]
colours: [[1, 2, 3], [4, 5, 6]]
raw_colours:
  255 0 0: road
  0 0 255: 1
  0 255 0: 0
"""
OWN = """
root: {root}
images: "src/{{day/}}pic-{{name}}.{{ending}}"
labels: {{files: "ann/{{day/}}{{name}}_lab.png", train_ids: "ids/{{day/}}{{name}}.png", encoding: rgb}}
classes: {root}/classes.yaml
lists: {{mine: {{}}}}
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Images of several sizes and kinds in nested folders, labels as colours in another tree; returns the domain."""
    rng = np.random.default_rng(0)
    for image, label in {"pic-a.jpg": "a", "mon/pic-b.PNG": "mon/b", "tue/x/pic-c.d.webp": "tue/x/c.d"}.items():
        put_image(tmp_path / "src" / image, rng)
        put_label(tmp_path / f"ann/{label}_lab.png", [(255, 0, 0), (0, 0, 255), (0, 255, 0), (9, 9, 9)], "rgb", rng)
    (tmp_path / "src/notes.txt").write_text("no image")
    put_image(tmp_path / "src/other.png", rng)  # of another name
    (tmp_path / "classes.yaml").write_text(OWN_CLASSES)
    (tmp_path / "own.yaml").write_text(OWN.format(root=tmp_path))
    return tmp_path / "own.yaml"


def test_own_domain(tmp_path: Path, own: Path, call: Call) -> None:
    assert "3 labels converted" in call(convert_train_ids, "--dataset", own)
    call(make_lists, "--dataset", own)
    assert made_lists(tmp_path)["mine"] == [
        lists.Sample("src/mon/pic-b.PNG", "ids/mon/b.png"), lists.Sample("src/pic-a.jpg", "ids/a.png"),
        lists.Sample("src/tue/x/pic-c.d.webp", "ids/tue/x/c.d.png")]  # fmt: skip
    for label in ("mon/b", "a", "tue/x/c.d"):
        raw = cv2.imread(str(tmp_path / f"ann/{label}_lab.png"))[..., ::-1].reshape(-1, 3)
        found = cv2.imread(str(tmp_path / f"ids/{label}.png"), cv2.IMREAD_UNCHANGED).ravel()
        expected = {(255, 0, 0): 0, (0, 255, 0): 0, (0, 0, 255): 1, (9, 9, 9): 255}
        assert found.tolist() == [expected[tuple(pixel)] for pixel in raw.tolist()]


def test_own_labels_follow_their_file(tmp_path: Path, own: Path, call: Call) -> None:
    """Another map makes other labels, if --force asks for it; a file that is as it was makes none."""
    call(convert_train_ids, "--dataset", own)
    assert "0 labels converted, 3 already existed" in call(convert_train_ids, "--dataset", own)
    before = (tmp_path / "ids/a.png").read_bytes()
    (tmp_path / "classes.yaml").write_text(OWN_CLASSES.replace("0 255 0: 0", "0 255 0: 1"))
    with pytest.raises(UserError, match="ids holds files made differently .raw_colours .*--force"):
        call(convert_train_ids, "--dataset", own)
    assert before == (tmp_path / "ids/a.png").read_bytes()
    assert "3 labels converted" in call(convert_train_ids, "--dataset", own, "--force")
    assert before != (tmp_path / "ids/a.png").read_bytes()


def test_colours_with_dataset_own(tmp_path: Path, own: Path, call: Call) -> None:
    folders = ["--ann-data", tmp_path / "ann", "--ann-out", tmp_path / "out"]
    call(convert_train_ids, "--dataset", "own", "--classes", tmp_path / "classes.yaml", *folders)
    call(convert_train_ids, "--dataset", own)
    assert (tmp_path / "out/mon/b_lab.png").read_bytes() == (tmp_path / "ids/mon/b.png").read_bytes()


def test_colours_that_nothing_names(tmp_path: Path, own: Path, call: Call) -> None:
    (tmp_path / "classes.yaml").write_text(OWN_CLASSES.replace("255", "254"))
    with pytest.raises(UserError, match="their colours are 0 0 255, 0 255 0, 9 9 9, 255 0 0; does `raw_colours` of "):
        call(convert_train_ids, "--dataset", own)


# --- what a file may say


@pytest.mark.parametrize("text, path, expected", [
    ("a/{x}.png", "a/b.png", {"x": "b"}),
    ("a/{x}.png", "a/b/c.png", None),
    ("a/{x/}{y}.png", "a/b/c/d.png", {"x": "b/c/", "y": "d"}),
    ("a/{x/}{y}.png", "a/d.PNG", {"x": "", "y": "d"}),
    ("{y}.{z}", "a.b.c", {"y": "a.b", "z": "c"}),
    ("{x}/{x}_1.png", "ulm/ulm_1.png", {"x": "ulm"}),
    ("{x}/{x}_1.png", "ulm/bonn_1.png", None),
    ("a+b/{x}", "aab/c", None),
])  # fmt: skip
def test_patterns(text: str, path: str, expected: dict | None) -> None:
    pattern = Pattern(text)
    assert pattern.match(path) == expected
    assert expected is None or pattern.fill(expected).lower() == path.lower()


@pytest.mark.parametrize("old, new, said", [
    ("images:", "image:", "unknown key 'image'"),
    ("src/{day/}", "/src/{day/}", "is not a relative path"),
    ("src/{day/}", "src/../{day/}", "is not a relative path"),
    ("{ending}", "{ending", "is not a relative path"),
    ("encoding: rgb", "encoding: red", "encoding 'red'; expected raw_ids"),
    ("ids/{day/}{name}", "ids/{night/}{name}", "{night} does not occur in `images`"),
    ("ids/{day/}{name}", "ids/{name}", "the same placeholders"),
    ("{mine: {}}", "{mine: {size: 3}}", "list mine: unknown key 'size'"),
    ("{mine: {}}", "{mine: {labels: some}}", "labels: 'some'; expected required"),
    ("{mine: {}}", "{mine: {where: {split: a}}}", "{split} does not occur"),
    ("{mine: {}}", "[mine]", "`lists` must be"),
    ("{mine: {}}", "{mine: {where: 3}}", "list mine: where must be"),
    ("{mine: {}}", "{mine: {images: many}}", "list mine: images must be"),
    ("{files", "[{files", "own.yaml"),
    ("{mine: {}}", "{mine: 3}", "list mine: expected the keys"),
    ("lists:", "mean: [a, b, c]\nlists:", "mean must be three numbers, not a"),
    ("lists:", "raw_ids: {300: road}\nlists:", "holds 300, expected numbers from 0 to 255"),
    ("lists:", "raw_colours: {1 2: road}\nlists:", "not '1 2'"),
    ("lists:", "raw_colours: {1 2 3: rode}\nlists:", "maps 1 2 3 to rode"),
])  # fmt: skip
def test_wrong_files_are_one_line(own: Path, old: str, new: str, said: str) -> None:
    text = own.read_text()
    assert old in text
    own.write_text(text.replace(old, new))
    with pytest.raises(UserError) as error:
        domains.load(str(own))
    assert said in str(error.value) and str(own) in str(error.value)


@pytest.mark.parametrize("text, said", [
    (OWN_CLASSES.replace("255 0 0", "256 0 0"), "not '256 0 0'"),
    (OWN_CLASSES.replace("0 0 255: 1", "0 0 255: 2"), "train IDs are 0 to 1"),
    (OWN_CLASSES.replace("0 0 255: 1", "0 0 255: 0"), "no raw colour is mapped to train ID 1"),
    (OWN_CLASSES + "raw_ids: {1: 0, 2: 1}", "expected only one of them"),
    ("names: [a, b]\ncolours: [[0, 0, 0], [1, 1, 1]]\nraw_colours: 3", "must be {red green blue"),
])  # fmt: skip
def test_wrong_colours_of_a_label_set(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError, match=said):
        labels.load(str(tmp_path / "c.yaml"))


@pytest.mark.parametrize("name", ["kitti", "", "configs/kitti", "nowhere.yaml"])
def test_there_is_no_such_domain(name: str) -> None:
    with pytest.raises(UserError, match="unknown data set|cannot read"):
        domains.load(name)


@pytest.mark.parametrize("args, said", [
    (["--dataset", "kitti"], "unknown data set 'kitti': expected acdc, "),
    (["--dataset", "own", "--classes", "c.yaml"], "belong together; --dataset own needs both"),
    (["--dataset", "acdc", "--ann-data", "x"], "belong together"),
])  # fmt: skip
def test_wrong_arguments(call: Call, args: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        call(convert_train_ids, *args)
