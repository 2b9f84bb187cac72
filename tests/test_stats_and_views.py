"""tools/dataset_stats.py and tools/show_views.py, on images that the tests write."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from core import visual
from core.cli import UserError
from datasets import lists
from datasets.lists import Sample
from datasets.target import TargetTraining, make_views
from datasets.transforms import whole
from datasets.views import apply_shared
from tools import dataset_stats, show_views

ROOT = Path(__file__).parents[1]
SIZES = ((40, 64), (48, 80), (33, 57))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images of different sizes with labels of two classes; the third class never occurs."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    samples = []
    for i, size in enumerate(SIZES):
        small = rng.integers(0, 256, (6, 10, 3), np.uint8)
        cv2.imwrite(str(root / f"{i}.png"), cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC))
        label = np.zeros(size, np.uint8)
        label[:10], label[10] = 1, 255
        cv2.imwrite(str(root / f"{i}_label.png"), label)
        samples.append(Sample(f"{i}.png", f"{i}_label.png"))
    lists.write(root / "source.txt", samples)
    lists.write(root / "target.txt", [Sample(s.image, None) for s in samples])
    (root / "classes.yaml").write_text("names: [a, b, c]\ncolours: [[1, 2, 3], [250, 0, 0], [7, 8, 9]]\n")
    (root / "cfg.yaml").write_text(json.dumps({
        "TRAIN": {"TASK": "source", "TARGET": "target", "BATCH_SIZE": 1, "NUM_GROUPS": 1, "GROUP_SIZE": 3},
        "DATASET": {"ROOT": str(root), "CLASSES": str(root / "classes.yaml"), "CROP_SIZE": [32, 64],
                    "RND_ZOOM": [0.5, 1.3], "TARGET_SCALE": [0.8, 1.2], "GUIDED_HFLIP": True, "RND_JITTER": 0.4},
    }))  # fmt: skip
    return root


Call = Callable[..., str]


def test_statistics_are_those_of_all_pixels(call: Call, tree: Path, tmp_path: Path) -> None:
    shown = call(dataset_stats, "--list", "source", "--root", tree, "--classes", tree / "classes.yaml",
                 "--json", tmp_path / "stats.json")  # fmt: skip
    result = json.loads((tmp_path / "stats.json").read_text())
    pixels = np.concatenate([cv2.imread(str(tree / f"{i}.png"))[..., ::-1].reshape(-1, 3) for i in range(3)]) / 255
    assert result["images"] == 3
    assert result["mean"] == pytest.approx(pixels.mean(0), abs=2e-6)
    assert result["std"] == pytest.approx(pixels.std(0), abs=2e-6)
    of_b, all_labelled = sum(10 * w for _, w in SIZES), sum((h - 1) * w for h, w in SIZES)
    assert result["classes"] == {"a": pytest.approx(1 - of_b / all_labelled), "b": of_b / all_labelled, "c": 0}
    assert result["ignored"] == pytest.approx(sum(w for _, w in SIZES) / sum(h * w for h, w in SIZES))
    assert f"SOURCE_MEAN: [{', '.join(f'{x:.3f}' for x in pixels.mean(0))}]" in shown
    assert "never occurs" in shown and f"{100 * of_b / all_labelled:.3f}%" in shown


def test_statistics_without_labels(call: Call, tree: Path, tmp_path: Path) -> None:
    shown = call(dataset_stats, "--list", "target", "--root", tree, "--json", tmp_path / "stats.json")
    assert "TARGET_STD: [" in shown and "no labels" in shown
    assert json.loads((tmp_path / "stats.json").read_text())["classes"] is None
    assert "SOURCE_STD: [" in call(dataset_stats, "--list", "target", "--root", tree, "--as", "SOURCE")


@pytest.mark.parametrize(
    "text, message",
    [
        ("0.png 0_label.png\n1.png\n", "1 of 2 lines have a label"),
        ("none.png\n", "none.png"),
        ("0.png 0.png\n", "not a train-ID label"),
        ("0.png high.png\n", "is not a train ID"),
    ],
)
def test_statistics_of_what_is_wrong(call: Call, tree: Path, text: str, message: str) -> None:
    (tree / "wrong.txt").write_text(text)
    cv2.imwrite(str(tree / "high.png"), np.full(SIZES[0], 3, np.uint8))
    with pytest.raises(UserError, match=message):
        call(dataset_stats, "--list", "wrong", "--root", tree, "--classes", tree / "classes.yaml")


# --- views


def sheet(call: Call, tree: Path, out: Path, *options: object) -> np.ndarray:
    call(show_views, "--cfg", tree / "cfg.yaml", "--out", out, "--width", 64, *options)
    return cv2.imread(str(out))[..., ::-1]


def test_a_sheet_shows_what_training_sees(call: Call, tree: Path, tmp_path: Path) -> None:
    """The pictures in the sheet are the views of the data set that trains, at the size of the crop."""
    picture = sheet(call, tree, tmp_path / "views.png", "--index", 1, "--count", 1, "--seed", 5)
    data = target_data(tree, seed=5)
    item = data[0, 1, 0, 3]
    gap, line = show_views.GAP, show_views.LINE
    row, column = 32 + line + gap, 64 + gap  # a picture with its caption and the gap after it

    def at(r: int, c: int) -> np.ndarray:
        return picture[gap + r * row : gap + r * row + 32, gap + c * column : gap + c * column + 64]

    for view in range(3):
        assert np.array_equal(at(0, 1 + view), item.clean[view].numpy())
        assert np.array_equal(at(1, 1 + view), item.noisy[view].numpy())
        striped = at(2, 1 + view)[..., 0] < 200
        assert np.array_equal(striped, item.padding[view].numpy())
    frame = whole(cv2.imread(str(tree / f"{int(item.index[0])}.png"))[..., ::-1].copy())
    top = gap + round(frame.size[0] * 64 / frame.size[1]) + line + gap  # below the image as it is
    reference = apply_shared(frame, data.draw(0, 1).shared).image
    assert np.array_equal(picture[top : top + 32, gap : gap + 64], reference)
    assert item.padding.any()  # else the stripes would not have been tested
    below = visual.legend(("a", "b", "c"), ((1, 2, 3), (250, 0, 0), (7, 8, 9)), picture.shape[1] - gap)
    assert np.array_equal(picture[-len(below) :, gap:], below)


def target_data(tree: Path, seed: int) -> TargetTraining:
    import datasets
    from core import config

    cfg, _ = config.load(str(tree / "cfg.yaml"))
    return datasets.Data(cfg, seed).iterations.target


def test_views_mapped_back_lie_on_the_reference_frame(tree: Path) -> None:
    """Where a view looks, mapping it back by A gives the reference frame; elsewhere black."""
    data, errors = target_data(tree, seed=0), []
    for index in range(6):
        draw = data.draw(0, index)
        frame = whole(cv2.imread(str(tree / "1.png"))[..., ::-1].copy())
        reference = apply_shared(frame, draw.shared).image.astype(int)
        item, _ = make_views(frame, draw, 0, 3)
        back = show_views.mapped_back(item)
        seen = torch.from_numpy(back).sum(3).numpy() > 0
        for view in range(3):
            inside = cv2.erode(seen[view].astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
            assert inside.sum() > 50
            errors.append(np.abs(back[view].astype(int) - reference)[inside].mean())
    assert max(errors) < 12 and min(errors) < 0.5  # 40 and more between unrelated pictures of this kind


def test_outlines_are_drawn_where_the_views_look(tree: Path) -> None:
    draw = target_data(tree, seed=0).draw(0, 0)
    item, _ = make_views(whole(np.zeros((64, 128, 3), np.uint8)), draw, 0, 2)
    picture = show_views.outlines(np.zeros((32, 64, 3), np.uint8), item)
    place = draw.views[1].window(32, 64)
    place = place.mirrored(64) if draw.views[1].flip < 0 else place
    middle = place.top + place.height // 2
    for x in (max(2, place.left), min(61, place.left + place.width - 1)):
        near = picture[middle, max(0, x - 3) : x + 4].astype(int)
        assert np.abs(near - show_views.COLOURS[1]).sum(1).min() < 60


def test_a_given_image_and_the_source(call: Call, tree: Path, tmp_path: Path) -> None:
    image = np.full((40, 80, 3), (200, 100, 50), np.uint8)
    cv2.imwrite(str(tmp_path / "red.png"), image[..., ::-1])
    with_image = sheet(call, tree, tmp_path / "a.jpg", "--image", tmp_path / "red.png")
    assert np.abs(with_image[10:30, 15:60].astype(int) - image[0, 0]).mean() < 3
    alone = sheet(call, tree, tmp_path / "b.png", "--image", tmp_path / "red.png", "--set", "TRAIN.TARGET_ONLY", "True")
    assert alone.shape[0] < with_image.shape[0]  # without the source's block
    twice = sheet(call, tree, tmp_path / "c.png", "--count", 2, "--set", "TRAIN.TARGET_ONLY", "True")
    assert twice.shape[0] > 1.9 * alone.shape[0]


@pytest.mark.parametrize(
    "options, message",
    [
        (("--out", "views.txt"), "--out views.txt"),
        (("--index", "-1"), "--index"),
        (("--image", "none.png"), "none.png"),
        (("--set", "TRAIN.TARGET", "none"), "no list 'none'"),
        (("--set", "TRAIN.GROUP_SIZE", "0"), "TRAIN.GROUP_SIZE"),
    ],
)
def test_mistakes(call: Call, tree: Path, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        call(show_views, "--cfg", tree / "cfg.yaml", "--out", tmp_path / "x.png", *options)
    assert not (tmp_path / "x.png").exists()


def test_a_sheet_replaces_nothing(call: Call, tree: Path, tmp_path: Path) -> None:
    """Least of all the very image that it shows, or one of the lists' images."""
    listed = next(tree / line.split()[0] for line in (tree / "target.txt").read_text().splitlines())
    alone = tmp_path / "street.png"
    alone.write_bytes(listed.read_bytes())
    for out, *options in ((alone, "--image", alone), (listed, "--image", alone), (listed,)):
        before = out.read_bytes()
        for force in ((), ("--force",)):
            with pytest.raises(UserError, match="--out"):
                sheet(call, tree, out, *options, *force)
        assert out.read_bytes() == before
    mine = tmp_path / "views.png"
    mine.write_bytes(b"mine")
    with pytest.raises(UserError, match="already exists; --force replaces it"):
        sheet(call, tree, mine, "--count", 1)
    assert sheet(call, tree, mine, "--count", 1, "--force").shape[2] == 3
