"""What people look at while training: panels with headings, legends and the true aspect; curves with names."""

from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from core import visual
from core.optim import FOUR, build_optimiser, group_names
from core.validation import Validation
from datasets import labels, lists
from datasets.labels import IGNORE, LabelSet
from datasets.lists import Sample
from tools import summarise_rows


@pytest.mark.parametrize("size", [(20, 30), (40, 30), (20, 300), (256, 256)])
def test_panels_keep_the_aspect(size: tuple[int, int]) -> None:
    """A 1:2 picture fits into its place, whatever that one's sides, and touches two of its edges."""
    red = np.full((16, 32, 3), (255, 0, 0), np.uint8)
    sheet = visual.panel([[red, red], [red, red]], size, gap=4)
    height, width = (sheet.shape[0] - 4) // 2, (sheet.shape[1] - 4) // 2
    assert width == 2 * height and height <= size[0] and width <= size[1]
    assert height == size[0] or width == size[1]
    assert (sheet[:height, :width] == red[0, 0]).all() and (sheet[height : height + 4] == 255).all()


def test_headings_stand_above_their_columns() -> None:
    black = np.zeros((32, 64, 3), np.uint8)
    sheet = visual.panel([[black, black]], (32, 64), headings=["input", ""])
    top = sheet[: visual.HEADING]
    assert sheet.shape[0] == visual.HEADING + 32 and (top[:, :64] < 128).any() and (top[:, 68:] == 255).all()
    assert visual.panel([[black]], (256, 512), headings=["input"]).shape[0] == 2 * visual.HEADING + 256


def test_an_overlay_explains_the_classes_that_it_has() -> None:
    image, label = np.full((40, 200, 3), 100, np.uint8), np.full((40, 200), 2, np.uint8)
    label[:5], label[5:10] = 13, IGNORE
    palette, names = labels.CITYSCAPES.palette(), labels.CITYSCAPES.names
    drawn = visual.explained(image, label, palette, names)
    assert np.array_equal(drawn[:40], visual.overlay(image, label, palette))
    below = {tuple(map(int, pixel)) for pixel in drawn[40:].reshape(-1, 3)}
    assert {tuple(palette[2]), tuple(palette[13])} <= below and tuple(palette[0]) not in below
    wide = visual.legend(names, palette[: len(names)], 2048)
    assert wide.shape[0] % (2 * visual.HEADING) == 0  # twice as large letters


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.old, self.norm, self.new = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)

    def new_modules(self) -> list[nn.Module]:
        return [self.new]


def test_groups_have_names_that_the_schedule_does_not_change() -> None:
    def named(name: str) -> dict[str, float]:
        optimiser = build_optimiser(Layers(), name, 0.5, 0.9, False, 0.1)
        before = group_names(optimiser)
        found = {n: group["lr"] for n, group in zip(before, optimiser.param_groups, strict=True)}
        for group in optimiser.param_groups:
            group["lr"] *= 0.3
        assert group_names(optimiser) == before
        return found

    assert named("SGD") == named("Adam") == dict(zip(FOUR, (0.5, 1.0, 5.0, 10.0), strict=True))
    assert named("AdamW") == {"pretrained_x1_with_decay": 0.5, "pretrained_x1_no_decay": 0.5, "new_with_decay": 5.0,
                              "new_no_decay": 5.0}


class Kept:
    """A log that keeps what it is given."""

    active = True

    def __init__(self) -> None:
        self.rows, self.pictures = [], {}

    def record(self, row: dict) -> None:
        self.rows.append(row)

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        self.pictures[name] = image

    def scalars(self, *_: object) -> None: ...
    say = scalars


@pytest.mark.parametrize("labelled", [True, False])
def test_what_is_kept_of_each_class_needs_no_labels(labelled: bool) -> None:
    """Padding does not count, and what the target's labels say is measured, where they are there, beside it."""
    own = LabelSet("own", ("a", "b", "c"), ((1, 0, 0), (0, 2, 0), (0, 0, 3)), {})
    guess = torch.tensor([[[0, 0, 0, 1, 1, 0]]], dtype=torch.uint8)
    label = torch.tensor([[[0, 255, 0, 255, 255, 0]]], dtype=torch.uint8)
    padding = torch.tensor([[[False] * 5 + [True]]])
    truth = torch.tensor([[[0, 1, 1, 1, 1, 1]]], dtype=torch.uint8)
    pseudo = SimpleNamespace(guess=guess, label=label.masked_fill(padding, IGNORE), confidence=torch.ones(1, 1, 6))
    logits = torch.zeros(1, 3, 1, 6)
    step = SimpleNamespace(
        network=nn.Identity(), student=None, label=lambda views, learn: pseudo, teach=lambda clean: logits,
        compute=SimpleNamespace(logits=lambda network, image: logits))
    views = SimpleNamespace(clean=None, noisy=torch.zeros(1, 3, 1, 6), padding=padding)
    batch = SimpleNamespace(index=torch.zeros(1), padding=padding, noisy=torch.zeros(1, 1, 6, 3, dtype=torch.uint8))
    data = SimpleNamespace(target_list="t", target_labelled=labelled,
                           target_views=lambda epoch: [(batch, truth) if labelled else batch])
    inputs = SimpleNamespace(device="cpu", views=lambda *_: views)
    log = Kept()
    Validation(data, own, (), inputs, log, (20, 240), lambda error: 0).target(step, {"epoch": 3, "iter": 9})
    (kept,) = [row for row in log.rows if row["kind"] == "kept"]
    assert kept == {"kind": "kept", "epoch": 3, "iter": 9, "list": "t", "kept": [pytest.approx(2 / 3), 0.0, None]}
    precision = {row["layer"]: row["precision"] for row in log.rows if row["kind"] == "val"}
    assert precision.keys() == ({"teacher", "fused", "pseudo"} if labelled else set())
    assert not labelled or (precision["fused"][0], precision["pseudo"][0]) == (pytest.approx(1 / 3), 0.5)
    ((name, picture),) = log.pictures.items()
    legend = visual.legend([*own.names, "no label"], [*own.colours, (0, 0, 0)], picture.shape[1])
    assert name.startswith("t/input_label") and np.array_equal(picture[-len(legend) :], legend)


def test_the_table_s_picture_has_headings_and_a_legend(tmp_path: Path) -> None:
    image, label = np.full((20, 400, 3), 90, np.uint8), np.full((20, 400), 2, np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    for name, mask in (("label", label), ("base/a", label * 5), ("sac/a", label)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / f"{name}.png"), mask)
    lists.write(tmp_path / "val.txt", [Sample("a.png", "label.png")])
    masks = {"baseline": tmp_path / "base", "sac": tmp_path / "sac"}
    args = Namespace(list=str(tmp_path / "val.txt"), root=tmp_path, classes="cityscapes", masks=masks,
                     titles={"baseline": "ABN", "sac": "SAC"})
    sheet = summarise_rows.picture(args)
    height = round(20 * summarise_rows.WIDTH / 400)  # the aspect stays
    below = visual.legend(["building", "sky"], [labels.CITYSCAPES.colours[c] for c in (2, 10)], sheet.shape[1])
    assert sheet.shape == (visual.HEADING + height + len(below), 4 * summarise_rows.WIDTH + 3 * 4, 3)
    assert np.array_equal(sheet[-len(below) :], below) and (sheet[: visual.HEADING] < 128).any()
