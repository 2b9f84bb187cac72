"""The data sets: what an item is, what it depends on, and what is said about a file that cannot be used."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from core.cli import UserError
from datasets.images import read_label
from datasets.lists import Sample
from datasets.noise import add_noise
from datasets.source import Augmentation, Images, SourceBatch, SourceTraining, UnlabelledTraining, Validation
from datasets.target import TargetBatch, TargetTraining, TargetViewsLabelled, ViewPolicy, collate_views

SIZE = (48, 80)
NUMBER = 5
SAMPLES = [Sample(f"images/{i}.png", f"labels/{i}.png") for i in range(NUMBER)]
TABLES = np.tile(np.arange(1, NUMBER + 1) / NUMBER, (3, 1))
VIEWS = ViewPolicy((32, 48), 4, (1.0, 1.1), (0.5, 1.2), True, True, True, 0.4, 0.2)
AUGMENTATION = Augmentation((32, 48), (0.5, 1.5), hflip=True, blur=True, jitter=0.5)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for sample in SAMPLES:
        write(root / sample.image, rng.integers(0, 256, (*SIZE, 3), np.uint8))
        write(root / sample.label, rng.integers(0, 3, SIZE, np.uint8))
    return root


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def assert_same(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> None:
    for field, other in zip(ours, theirs, strict=True):
        assert torch.equal(field, other)


def differ(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> bool:
    return not torch.equal(ours[0], theirs[0])


class Keyed(Dataset):
    """A data set asked for listed keys, for the loader."""

    def __init__(self, data: Dataset, keys: list) -> None:
        self.data, self.keys = data, keys

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, i: int) -> object:
        return self.data[self.keys[i]]


def loaded(data: Dataset, keys: list, workers: int) -> Iterator:
    return iter(DataLoader(Keyed(data, keys), batch_size=None, num_workers=workers))


# What an item is


def test_source_batch(root):
    data = SourceTraining(SAMPLES, root, AUGMENTATION, num_classes=3)
    assert len(data) == NUMBER
    batch = default_collate([data[0, i] for i in (3, 1)])
    assert isinstance(batch, SourceBatch)
    assert batch.image.shape == (2, 32, 48, 3) and batch.image.dtype == torch.uint8
    assert batch.label.shape == (2, 32, 48) and batch.label.dtype == torch.uint8
    assert batch.padding.shape == (2, 32, 48) and batch.padding.dtype == torch.bool
    assert batch.index.tolist() == [3, 1] and batch.index.dtype == torch.int64
    assert (batch.label[batch.padding] == 255).all()


def test_target_batch(root):
    data = TargetTraining(SAMPLES, root, TABLES, VIEWS)
    assert len(data) == NUMBER
    batch = collate_views([data[0, 1, 0, 4], data[0, 2, 0, 3]])
    assert isinstance(batch, TargetBatch)
    assert batch.noisy.shape == batch.clean.shape == (7, 32, 48, 3)
    assert batch.noisy.dtype == batch.clean.dtype == torch.uint8
    assert batch.padding.shape == (7, 32, 48) and batch.padding.dtype == torch.bool
    assert batch.A.shape == batch.A_inv.shape == (7, 2, 3) and batch.A.dtype == torch.float32
    positions = [data.draw(0, 1).position] * 4 + [data.draw(0, 2).position] * 3
    assert batch.index.tolist() == positions and batch.index.dtype == torch.int64
    noise = data.draw(0, 1).noise + data.draw(0, 2).noise[:3]
    for clean, noisy, drawn in zip(batch.clean.numpy(), batch.noisy.numpy(), noise, strict=True):
        expected = np.empty_like(clean)
        add_noise(clean, drawn, expected)
        np.testing.assert_array_equal(noisy, expected)
    assert not torch.equal(batch.noisy, batch.clean)


def test_without_augmentation_the_image_itself(root):
    sample = SAMPLES[2]
    image, label = (np.asarray(Image.open(root / path)) for path in sample)
    source = SourceTraining(SAMPLES, root, Augmentation(SIZE))[0, 2]
    tables = np.tile((np.arange(NUMBER) >= 2).astype(float), (3, 1))
    target, view_labels = TargetViewsLabelled(TargetTraining(SAMPLES, root, tables, ViewPolicy(SIZE, 2)))[0, 7, 0, 2]
    for pixels in (
        source.image,
        target.clean[0],
        target.clean[1],
        target.noisy[1],
        Images(SAMPLES, root)[2][0],
    ):
        np.testing.assert_array_equal(pixels, image)
    for ids in (source.label, view_labels[0], Validation(SAMPLES, root, crop_size=SIZE)[2].label):
        np.testing.assert_array_equal(ids, label)
    assert not source.padding.any() and target.index.tolist() == [2, 2]


def test_images_have_their_own_sizes(tmp_path):
    samples = []
    for i, size in enumerate(((5, 9), (1, 1))):
        write(tmp_path / f"{i}.png", np.full((*size, 3), i + 1, np.uint8))
        samples.append(Sample(f"{i}.png", None))
    data = Images(samples, tmp_path)
    assert [(tuple(image.shape), i) for image, i in (data[0], data[1])] == [((5, 9, 3), 0), ((1, 1, 3), 1)]


def test_validation_crop_and_resize(root):
    centre = Validation(SAMPLES, root, crop_size=(20, 30), crop=True)[1]
    whole = Images(SAMPLES, root)[1][0]
    assert torch.equal(centre.image, whole[14:34, 25:55])
    larger = Validation(SAMPLES, root, crop_size=(60, 90), crop=True, num_classes=3)[1]
    assert torch.equal(larger.image[6:54, 5:85], whole)
    assert larger.padding.sum() == 60 * 90 - 48 * 80 and (larger.label[larger.padding] == 255).all()
    resized = Validation(SAMPLES, root, crop_size=(24, 40), crop=False)[1]
    assert torch.equal(resized.label, torch.from_numpy(read_label(root / SAMPLES[1].label))[1::2, 1::2])
    assert resized.index == 1 and not resized.padding.any()


def test_game_images_get_one_size(tmp_path):
    sample = Sample("game/images/00001.png", "game/labels_cs/00001.png")
    write(tmp_path / sample.image, np.zeros((11, 20, 3), np.uint8))
    write(tmp_path / sample.label, np.zeros((11, 20), np.uint8))
    for data, key, crop in ((partial(SourceTraining, augmentation=Augmentation((12, 24))), (0, 0), {}),
                            (Validation, 0, {"crop_size": (12, 24)})):
        # At its own size the image has less than the crop; at the common one it has all of it.
        assert data([sample], tmp_path, game_size=None, **crop)[key].padding.sum() == 12 * 24 - 11 * 20
        assert not data([sample], tmp_path, game_size=(24, 48), **crop)[key].padding.any()
    assert UnlabelledTraining([sample], tmp_path, Augmentation((12, 24)))[0, 0].padding.any()


def test_without_random_crop_all_of_the_image(root):
    item = SourceTraining(SAMPLES, root, Augmentation((24, 40), random_crop=False))[0, 1]
    assert torch.equal(item.image, Validation(SAMPLES, root, crop_size=(24, 40), crop=False)[1].image)


def test_labels_of_the_views_are_those_of_their_pixels(tmp_path):
    # The image's red channel is the label, in areas so large that most pixels show it.
    coarse = np.random.default_rng(0).integers(0, 3, (3, 4), np.uint8)
    label = coarse.repeat(32, 0).repeat(32, 1)
    write(tmp_path / "i.png", np.stack([label * 100] * 3, -1))
    write(tmp_path / "l.png", label)
    data = TargetViewsLabelled(TargetTraining([Sample("i.png", "l.png")], tmp_path, np.ones((3, 1)), VIEWS))
    for index in range(6):
        item, labels = data[0, index, 0, 4]
        assert torch.equal(labels == 255, item.padding)
        shown = (item.clean[..., 0].float() / 100).round()
        assert (shown == labels)[~item.padding].float().mean() > 0.85
        assert_same(item, data.training[0, index, 0, 4])


# What an item depends on


def test_items_depend_on_seed_epoch_and_index_alone(root):
    def build(seed: int) -> list[tuple[Dataset, tuple]]:
        return [
            (SourceTraining(SAMPLES, root, AUGMENTATION, seed=seed), ()),
            (UnlabelledTraining(SAMPLES, root, AUGMENTATION, seed=seed), ()),
            (TargetTraining(SAMPLES, root, TABLES, VIEWS, seed=seed), (0, 4)),
        ]

    for (data, views), (again, _), (other, _) in zip(build(1), build(1), build(2), strict=True):
        key = (3, 4, *views)
        item = data[key]
        data[(0, 0, *views)]  # what was asked for before does not matter
        assert_same(data[key], item)
        assert_same(again[key], item)
        assert differ(other[key], item)
        assert differ(data[(4, 4, *views)], item)
        assert differ(data[(3, 3, *views)], item)


@pytest.mark.parametrize("first, last", [(0, 1), (1, 3), (3, 4)])
def test_a_range_of_views_is_part_of_all_views(root, first, last):
    data = TargetTraining(SAMPLES, root, TABLES, VIEWS)
    for index in range(3):
        part, all_views = data[1, index, first, last], data[1, index, 0, 4]
        assert_same(part, tuple(field[first:last] for field in all_views))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_matter(root, workers):
    data = TargetTraining(SAMPLES, root, TABLES, VIEWS)
    keys = [(2, i, i % 2, 3) for i in range(4)]
    for key, item in zip(keys, loaded(data, keys, workers), strict=True):
        assert_same(item, data[key])


def test_streams_differ(root):
    source = SourceTraining(SAMPLES, root, AUGMENTATION)
    unlabelled = UnlabelledTraining(SAMPLES, root, AUGMENTATION)
    assert [differ(source[0, i], unlabelled[0, i]) for i in range(NUMBER)] == [True] * NUMBER


def test_the_baseline_s_target_images_come_in_turn(root):
    """As released: index i gives image i mod M, so that each is seen as often as the others."""
    data = UnlabelledTraining(SAMPLES, root, Augmentation((4, 4)))
    assert [int(data[epoch, i].index) for epoch in (0, 3) for i in range(2 * NUMBER)] == [*range(NUMBER)] * 4
    assert set(data[0, 0]._fields) == {"image", "padding", "index"}


def test_the_index_chooses_the_class(root):
    # Class c is in image c alone: item i shows image i % C.
    tables = np.cumsum(np.eye(3, NUMBER), axis=1)
    data = TargetTraining(SAMPLES, root, tables, VIEWS)
    assert [data.draw(5, index).position for index in range(7)] == [0, 1, 2, 0, 1, 2, 0]


# What is said about samples that cannot be used


def test_image_and_label_of_two_sizes(root, tmp_path):
    write(tmp_path / "image.png", np.zeros((40, 60, 3), np.uint8))
    write(tmp_path / "label.png", np.zeros((3, 4), np.uint8))
    sample = Sample("image.png", "label.png")
    for data, key in (
        (SourceTraining([sample], tmp_path, AUGMENTATION), (0, 0)),
        (Validation([sample], tmp_path, crop_size=(4, 4)), 0),
        (TargetViewsLabelled(TargetTraining([sample], tmp_path, np.ones((19, 1)), VIEWS)), (0, 0, 0, 1)),
    ):
        with pytest.raises(UserError, match=r"image.png: it is 60x40 but its label .*label.png is 4x3"):
            data[key]


def test_sample_without_label(root):
    with pytest.raises(UserError, match="images/0.png: the list gives no label"):
        SourceTraining([Sample("images/0.png", None)], root, AUGMENTATION)[0, 0]
    # Training views need none.
    TargetTraining([Sample("images/0.png", None)], root, np.ones((3, 1)), VIEWS)[0, 0, 0, 1]


def test_the_message_is_one_line_across_workers(root):
    samples = [*SAMPLES[:2], Sample("images/none.png", "labels/0.png")]
    data = SourceTraining(samples, root, AUGMENTATION)
    with pytest.raises(UserError) as here:
        data[0, 2]
    with pytest.raises(UserError) as there:
        list(loaded(data, [(0, 0), (0, 1), (0, 2)], workers=2))
    assert str(there.value) == str(here.value)
    assert "none.png" in str(here.value) and "\n" not in str(here.value)
