"""datasets/labels.py and the YAML reader: the maps equal the published ones; wrong files are one line."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from core.cli import UserError
from core.files import read_yaml
from datasets import labels
from tools.domain import domains

GOLDEN = Path(__file__).parent / "golden"
FIVE = """
names: [road, building, plant, car, person]
colours: [[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12], [13, 14, 15]]
raw_ids: {7: 0, 8: 0, 11: 1, 21: 2, 26: 3, 24: 4}
ignore: [0, 1]
"""


@pytest.fixture(scope="module")
def published() -> dict:
    return json.loads((GOLDEN / "c11_id_mappers.json").read_text())


@pytest.mark.parametrize("dataset", ["cs", "gta", "synthia"])
def test_maps_are_the_published_ones(published: dict, dataset: str) -> None:
    expected = np.full(256, 255, np.uint8)
    for raw, train in published["MAP"][dataset].items():
        expected[int(raw)] = train
    assert np.array_equal(domains.load(dataset).classes.to_train(), expected)
    assert (expected != 255).sum() == 19


def test_names_and_colours_are_the_published_ones(published: dict) -> None:
    rows = published["category_labels"][:19]
    assert [row[2] for row in rows] == list(range(19))
    assert labels.CITYSCAPES.names == tuple(row[0] for row in rows)
    assert labels.CITYSCAPES.colours == tuple(tuple(row[7]) for row in rows)
    palette = labels.CITYSCAPES.palette()
    assert palette.shape == (256, 3) and palette.dtype == np.uint8
    assert not palette[19:].any() and palette[18].tolist() == [119, 11, 32]


def test_raw_and_train_ids_are_inverse() -> None:
    classes = labels.CITYSCAPES
    trains = np.arange(19)
    assert np.array_equal(classes.to_train()[classes.to_raw()[trains]], trains)
    assert not classes.to_raw()[19:].any()
    arrays = np.load(GOLDEN / "c12_convert.npz")
    assert np.array_equal(classes.to_raw()[arrays["in"]], arrays["out"])


def test_a_label_set_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "five.yaml"
    path.write_text(FIVE)
    classes = labels.load(str(path))
    assert classes.num_classes == 5 and classes.names[2] == "plant"
    assert classes.to_train()[[0, 7, 8, 11, 24, 99]].tolist() == [255, 0, 0, 1, 4, 255]
    assert classes.to_raw()[[0, 1, 4, 255]].tolist() == [7, 11, 24, 0]


def test_without_raw_ids_they_are_train_ids(tmp_path: Path) -> None:
    path = tmp_path / "two.yml"
    path.write_text("names: [a, b]\ncolours: [[0, 0, 0], [255, 255, 255]]\n")
    classes = labels.load(str(path))
    assert classes.to_train()[:3].tolist() == [0, 1, 255]
    assert classes.to_raw()[[0, 1, 255]].tolist() == [0, 1, 255]  # 0 is a class here and cannot mean "none"


def test_cityscapes_is_built_in() -> None:
    assert labels.load("cityscapes") is labels.CITYSCAPES


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("names:", "name:", "name"),
        ("names: [road, building, plant, car, person]", "names: road", "names"),
        ("[road, building", "[road, road", "different"),
        ("[road, building", "[road, ~", "list of class names"),
        ("[1, 2, 3], ", "", "colours"),
        ("[1, 2, 3]", "[1, 2, 300]", "colours"),
        ("[1, 2, 3]", "[1, 2, yes]", "`colours` holds yes, expected"),
        ("[1, 2, 3]", "[1, 2, 1:30]", "`colours` holds 1:30, expected"),
        ("[1, 2, 3]", "[1, 2, 0x3]", "`colours` holds 0x3, expected"),
        ("[1, 2, 3]", "[1, 2, 03]", "`colours` holds 03, expected"),
        ("[1, 2, 3]", "[1, 2, ~]", "`colours` holds nothing, expected"),
        ("7: 0", "1:30: 0", "`raw_ids` holds 1:30, expected"),
        ("7: 0", "0o7: 0", "`raw_ids` holds 0o7, expected"),
        ("7: 0", "7: [0]", "`raw_ids` maps 7 to .*0.*, which is not a class"),
        ("[0, 1]", "[0, 1_0]", "`ignore` holds 1_0, expected"),
        ("7: 0", "7: 5", "0 to 4"),
        ("7: 0", "7: -1", "`raw_ids` maps 7 to -1, which is not a class"),
        ("7: 0", "x: 0", "raw_ids"),
        ("7: 0", "256: 0", "raw_ids"),
        ("26: 3, ", "", "train ID 3"),
        ("[0, 1]", "[0, 7]", "raw ID 7"),
        ("[0, 1]", "7", "ignore"),
        ("7: 0, 8: 0", "7: 0, 7: 0", "twice"),
        ("names:", "\tnames:", ":2:"),
        ("[0, 1]", "&a [0, 1]\nmore: *a", ":6:"),
        ("[0, 1]", "!!python/object/apply:os.system ['touch hacked']", "tags"),
        ("[0, 1]", "[0, 1", "expected"),
    ],
)
def test_wrong_label_sets_are_one_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in FIVE
    path = tmp_path / "wrong.yaml"
    path.write_text(FIVE.replace(old, new, 1))
    with pytest.raises(UserError, match=said) as caught:
        labels.load(str(path))
    assert "wrong.yaml" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nowhere.yaml", "cityscape", ""])
def test_unknown_label_sets(name: str) -> None:
    with pytest.raises(UserError, match="nowhere.yaml|expected cityscapes"):
        labels.load(name)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 5000,
        b"a: {? {b: 1} : 2}",
        b"\xff\xfe\x00",
        b"a: \x07",
        b"%YAML 9.9\n---\na: 1",
        b"a: 1\n---\nb: 2",
        b"a: !!int x",
        b"x: &x [1]\ny: [*x, *x]",
        b"#" * 200_000,
    ],
)
def test_yaml_that_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match="odd.yaml"):
        read_yaml(path)


def test_yaml_that_is_read(tmp_path: Path) -> None:
    path = tmp_path / "plain.yaml"
    path.write_text("A: {b: 2.5e-4, c: [1, 'x', true], d: null}\n'é': yes\n", encoding="utf-8")
    assert read_yaml(path) == {"A": {"b": "2.5e-4", "c": ["1", "x", "true"], "d": None}, "é": "yes"}
    path.write_text("a: 2020-99-99\nb: 0b_\n1: 'null'\non: 1:30\n<<: x")
    assert read_yaml(path) == {"a": "2020-99-99", "b": "0b_", "1": "null", "on": "1:30", "<<": "x"}
    path.write_text("")
    assert read_yaml(path) is None


def test_mutated_yaml_ends_in_a_user_error_or_a_value(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "fuzz.yaml"
    start, refused = time.process_time(), 0
    for _ in range(200):
        content = np.frombuffer(FIVE.encode(), np.uint8).copy()
        places = rng.integers(0, content.size, rng.integers(1, 6))
        content[places] = rng.integers(0, 256, places.size)
        path.write_bytes(content.tobytes())
        try:
            labels.load(str(path))
        except UserError:
            refused += 1
    assert refused > 100
    assert time.process_time() - start < 30
