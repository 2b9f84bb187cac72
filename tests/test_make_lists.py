"""tools/make_lists.py: the published lists from trees of empty files, since lists are made of names alone."""

import hashlib
import random
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from core.cli import UserError
from datasets import lists
from datasets.lists import Sample
from tools import make_lists

Made = dict[str, list[Sample]]
# Images of the published lists, and a sum that does not depend on their order: of the sorted numbers, or names.
PUBLISHED = {
    "val_game_1K": (1000, "ff16c5b79a093058f7e27a2831dca890"),
    "val_synthia": (400, "7e05e25e109838119cd317e87d16a62a"),
    "val2_cityscapes": (500, "65a05b03a556e0bca50d51767110a3f7"),
}
CITIES = ("aachen", "bochum", "bremen", "ulm")


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., tuple]:
    """Run the tool on tmp_path: (the lists that lie there afterwards, what it printed)."""

    def run(*args: object, root: Path = tmp_path, out: Path = tmp_path) -> tuple[Made, str]:
        monkeypatch.setattr(sys, "argv", ["tool", "--root", str(root), *map(str, args)])
        make_lists.main()
        return lists_in(out), capsys.readouterr().out

    return run


def lists_in(folder: Path) -> Made:
    return {path.stem: lists.read(str(path), str(folder)) for path in folder.glob("*.txt")}


def touch(root: Path, names: Iterable[str]) -> None:
    """Empty files."""
    for name in names:
        path = f"{root}/{name}"
        try:
            open(path, "x").close()
        except FileNotFoundError:
            Path(path).parent.mkdir(parents=True)
            open(path, "x").close()


def game(root: Path, numbers: Iterable[int], labels: bool = True) -> None:
    for folder in ("images", "labels_cs")[: 1 + labels]:
        touch(root / "game" / folder, (f"{i:05d}.png" for i in numbers))


def synthia(root: Path, numbers: Iterable[int]) -> None:
    for folder in ("RGB", "labels_cs"):
        touch(root / "synthia" / folder, (f"{i:07d}.png" for i in numbers))


def cityscapes(root: Path, split: str, names: Iterable[str], labels: bool = True) -> None:
    """Images CITY_SSSSSS_FFFFFF of a split, with labels unless told otherwise."""
    names = [f"{split}/{name.partition('_')[0]}/{name}" for name in names]
    touch(root / "cityscapes/leftImg8bit", (f"{name}_leftImg8bit.png" for name in names))
    if labels:
        touch(root / "cityscapes/gtFine2", (f"{name}_gtFine_labelIds.png" for name in names))


def invented(count: int, cities: tuple[str, ...] = ("edge", "mid", "west")) -> list[str]:
    return [f"{cities[i % len(cities)]}_{i:06d}_000018" for i in range(count)]  # frames of no published image


def numbers(samples: list[Sample]) -> list[int]:
    return sorted(int(Path(sample.image).stem) for sample in samples)


def assert_published(made: Made, name: str) -> None:
    count, expected = PUBLISHED[name]
    samples = made[name]
    assert len(samples) == len(set(samples)) == count
    if name == "val2_cityscapes":  # the sum of the published file, which is sorted
        assert hashlib.md5(lists.text(samples).encode()).hexdigest() == expected
    else:
        assert hashlib.md5(" ".join(map(str, numbers(samples))).encode()).hexdigest() == expected


def test_the_published_lists_of_gta(tmp_path: Path, make: Callable) -> None:
    game(tmp_path, range(1, 10_004))
    made, printed = make("--seed", 3)
    assert_published(made, "val_game_1K")
    assert numbers(made["train_game_9K"] + made["val_game_1K"]) == list(range(1, 10_001))
    assert made["train_game_9K"][1] == Sample("game/images/00003.png", "game/labels_cs/00003.png")
    assert re.search(r"val_game_1K.txt: 1000 images, as published\n", printed)


def test_the_published_lists_of_synthia(tmp_path: Path, make: Callable) -> None:
    synthia(tmp_path, range(9400))
    made, printed = make()
    assert_published(made, "val_synthia")
    assert numbers(made["train_synthia_9K"]) == list(range(9400))
    assert made["val_synthia"][0] == Sample("synthia/RGB/0000049.png", "synthia/labels_cs/0000049.png")
    assert re.search(r"val_synthia.txt: 400 images, as published\n", printed)


def test_the_published_lists_of_cityscapes(tmp_path: Path, make: Callable) -> None:
    held_out = make_lists.published("val2_cityscapes")
    cityscapes(tmp_path, "train", [*held_out, *invented(2475, CITIES)])
    cityscapes(tmp_path, "val", invented(500, ("lindau",)))
    cityscapes(tmp_path, "test", invented(1525, ("berlin",)), labels=False)
    made, printed = make()
    assert_published(made, "val2_cityscapes")
    assert {name: len(samples) for name, samples in made.items()} == {
        "train_cityscapes": 2975, "val2_cityscapes": 500, "val_cityscapes": 500, "test_cityscapes": 1525,
    }  # fmt: skip
    assert set(made["val2_cityscapes"]) < set(made["train_cityscapes"])
    assert made["val_cityscapes"][0] == Sample(
        "cityscapes/leftImg8bit/val/lindau/lindau_000000_000018_leftImg8bit.png",
        "cityscapes/gtFine2/val/lindau/lindau_000000_000018_gtFine_labelIds.png",
    )
    assert [name for name in made if made[name][0].label is None] == ["test_cityscapes"]
    assert "left out: train_game_9K, val_game_1K: no images" in printed


@pytest.mark.parametrize(
    ("there", "held_out"),
    [
        (range(1, 21), [1, 6, 16, 18]),
        ([2, 6], [6]),
        (range(9_981, 10_005), [9985, 9989, 9993]),  # GTA5 goes on beyond 10000, the published lists do not
        ([*range(501, 520), 9990], [505, 513, 515, 517, 519]),
    ],
)
def test_incomplete_trees_keep_what_is_there_of_the_published_draw(
    tmp_path: Path, make: Callable, there: Iterable[int], held_out: list[int]
) -> None:
    game(tmp_path, there)
    made, printed = make("--seed", 5)
    assert numbers(made["val_game_1K"]) == held_out
    assert numbers(made["train_game_9K"]) == sorted({i for i in there if i <= 10_000} - set(held_out))
    assert f"val_game_1K.txt: {len(held_out)} images, those of the 1000 published images that are here" in printed


def test_the_other_data_sets_incomplete(tmp_path: Path, make: Callable) -> None:
    synthia(tmp_path, range(40, 140))
    cityscapes(tmp_path, "train", ["aachen_000000_000019", "aachen_000001_000019", "ulm_000002_000019"])
    made, printed = make()
    assert numbers(made["val_synthia"]) == [49, 59, 132, 138] and len(made["train_synthia_9K"]) == 100
    assert [Path(s.image).name[:20] for s in made["val2_cityscapes"]] == ["aachen_000000_000019"]
    assert "those of the 400 published images" in printed and "those of the 500 published images" in printed


def test_nothing_is_left_to_train_on(tmp_path: Path, make: Callable) -> None:
    game(tmp_path, [1, 6, 16])
    made, printed = make()
    assert list(made) == ["val_game_1K"] and len(made["val_game_1K"]) == 3
    assert "left out: train_game_9K: no images besides those of val_game_1K" in printed


@pytest.mark.parametrize("name", ["street1.png", "0x1.png", "1²3.png", "10001.png"])
def test_images_of_gta_that_have_no_number_up_to_ten_thousand(tmp_path: Path, make: Callable, name: str) -> None:
    touch(tmp_path / "game", [f"images/{name}", f"labels_cs/{name}"])
    with pytest.raises(UserError, match="nothing to list"):
        make()


@pytest.mark.parametrize(
    ("count", "whole", "there", "drawn"),
    [(1000, 10_000, 10_000, 1000), (400, 9400, 9400, 400), (500, 2975, 2975, 500)]  # whole trees
    + [(1000, 10_000, 24, 2), (1000, 10_000, 2, 1), (500, 2975, 6, 1), (400, 9400, 20_000, 400)],
)
def test_draws(count: int, whole: int, there: int, drawn: int) -> None:
    samples = [Sample(f"{i:05d}.png", None) for i in range(there)]
    expected = sorted(random.Random(5).sample(samples, drawn))  # the promise: the same on every machine
    assert make_lists.draw(samples, count, whole, 5) == expected


def test_lists_of_other_data_sets_are_drawn(tmp_path: Path, make: Callable) -> None:
    """None of the published images is there: numbers 63 to 82 of GTA5, names of SYNTHIA, cities of Cityscapes."""
    game(tmp_path, range(63, 83))
    touch(tmp_path / "synthia", (f"{folder}/s{i}.png" for folder in ("RGB", "labels_cs") for i in range(5)))
    for split, count in (("train", 12), ("val", 3), ("test", 2)):
        cityscapes(tmp_path, split, invented(count), labels=split != "test")
    made, printed = make("--out", tmp_path / "out", "--seed", 3, out=tmp_path / "out")
    assert {name: len(samples) for name, samples in made.items()} == {
        "train_game_9K": 18, "val_game_1K": 2, "train_synthia_9K": 5, "val_synthia": 1,
        "train_cityscapes": 12, "val2_cityscapes": 2, "val_cityscapes": 3, "test_cityscapes": 2,
    }  # fmt: skip
    assert all(samples == sorted(set(samples)) for samples in made.values())
    game_ = sorted(made["train_game_9K"] + made["val_game_1K"])
    assert made["val_game_1K"] == make_lists.draw(game_, 1000, 10_000, 3) and len(set(game_)) == 20
    assert set(made["val_synthia"]) < set(made["train_synthia_9K"])
    assert set(made["val2_cityscapes"]) < set(made["train_cityscapes"])
    for whole in (1000, 400, 500):
        assert f"drawn with --seed: none of the {whole} published images is here" in printed


def test_lists_without_labels(tmp_path: Path, make: Callable) -> None:
    game(tmp_path, range(1, 5), labels=False)
    for split in ("train", "val"):
        cityscapes(tmp_path, split, invented(4), labels=False)
    made, printed = make()
    assert list(made) == ["train_cityscapes"] and made["train_cityscapes"][0].label is None
    assert "left out: train_game_9K, val_game_1K: no train-ID labels" in printed
    assert "left out: test_cityscapes: no images" in printed


def test_lists_where_a_label_is_missing(tmp_path: Path, make: Callable) -> None:
    game(tmp_path, range(1, 5))
    (tmp_path / "game/labels_cs/00003.png").unlink()
    with pytest.raises(UserError, match="1 of 4 labels are missing.*00003"):
        make()
    assert not lists_in(tmp_path)


def test_other_lists_are_not_replaced(tmp_path: Path, make: Callable) -> None:
    game(tmp_path, range(63, 93))
    before, _ = make()
    assert "unchanged" in make()[1]
    with pytest.raises(UserError, match="train_game_9K.*--force"):
        make("--seed", 1)
    assert lists_in(tmp_path) == before
    assert make("--seed", 1, "--force")[0] != before


def test_lists_of_nothing(tmp_path: Path, make: Callable) -> None:
    with pytest.raises(UserError, match="nothing to list"):
        make()
    with pytest.raises(UserError, match="no such folder"):
        make(root=tmp_path / "nowhere")
