"""Target images for SAC: the T views of an image drawn by importance sampling."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datasets import sampling
from datasets.images import read_image, read_pair
from datasets.lists import Sample
from datasets.noise import Noise, add_noise, draw_noise
from datasets.transforms import Frame, Size, whole
from datasets.views import SharedParams, ViewParams, affine, apply_shared, apply_view, draw_shared, draw_views

TARGET = 2  # random stream; those of single images are in datasets/source.py
Part = tuple[int, int, int, int]  # epoch, index, first view, last view (not included)


class TargetBatch(NamedTuple):
    """Views of one image, or of several images one after the other; without labels."""

    noisy: Tensor  # x̂, uint8 [t,H,W,3]: the student's
    clean: Tensor  # x, uint8 [t,H,W,3]: the teacher's
    padding: Tensor  # bool [t,H,W]
    A: Tensor  # float32 [t,2,3], reference coordinates to the view's
    A_inv: Tensor  # float32 [t,2,3]
    index: Tensor  # int64 [t], the image's position in the list


class Draw(NamedTuple):
    """All random choices of one item."""

    position: int  # of the image in the list
    shared: SharedParams
    views: list[ViewParams]  # T of them
    noise: list[Noise]  # T of them


@dataclass(frozen=True)
class ViewPolicy:
    """How the views of a target image are drawn (docs/method.md section 5), with the configuration keys."""

    crop_size: Size  # CROP_SIZE
    views: int  # T, GROUP_SIZE
    target_scale: tuple[float, float] = (1.0, 1.0)  # TARGET_SCALE
    zoom: tuple[float, float] = (1.0, 1.0)  # RND_ZOOM
    hflip: bool = False  # RND_HFLIP
    guided_hflip: bool = False  # GUIDED_HFLIP
    blur: bool = False  # RND_BLUR
    jitter: float = 0.0  # RND_JITTER
    greyscale: float = 0.0  # RND_GREYSCALE

    def draw(self, rng: np.random.Generator, position: int) -> Draw:
        """Draw the T views of the image at `position`, and their noise."""
        return Draw(
            position,
            draw_shared(rng, self.crop_size, self.target_scale, self.hflip),
            draw_views(rng, self.views, self.crop_size, self.zoom, self.guided_hflip),
            [draw_noise(rng, self.blur, self.jitter, self.greyscale) for _ in range(self.views)],
        )


class TargetTraining(Dataset):
    """Views of target images; a key (epoch, index, first, last) asks for views first ... last-1 of the T.

    All of an item's parameters are drawn, whichever views are requested: they depend only on the seed, the
    epoch and the index, so processes that share an image draw the same ones.

    Args:
        samples: the M target images.
        root: folder that their paths are relative to.
        tables: float64 [C,M] from sampling.cumulative_tables.
        policy: how views are drawn.
        seed: of the run.
    """

    def __init__(
        self, samples: Sequence[Sample], root: str | Path, tables: np.ndarray, policy: ViewPolicy, seed: int = 0
    ) -> None:
        self.samples, self.root, self.tables, self.policy, self.seed = samples, root, tables, policy, seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: Part) -> TargetBatch:
        epoch, index, first, last = key
        draw = self.draw(epoch, index)
        frame = whole(read_image(Path(self.root, self.samples[draw.position].image)))
        return make_views(frame, draw, first, last)[0]

    def draw(self, epoch: int, index: int) -> Draw:
        """Draw the image (section 7), its T views, and their noise."""
        rng = np.random.default_rng((self.seed, TARGET, epoch, index))
        return self.policy.draw(rng, sampling.draw_image(self.tables, index, rng.random()))


class TargetViewsLabelled(Dataset):
    """The views of a TargetTraining with their labels, uint8 [t,H,W], 255 in padding too: only for measuring."""

    def __init__(self, training: TargetTraining) -> None:
        self.training = training

    def __len__(self) -> int:
        return len(self.training)

    def __getitem__(self, key: Part) -> tuple[TargetBatch, Tensor]:
        epoch, index, first, last = key
        draw = self.training.draw(epoch, index)
        sample = self.training.samples[draw.position]
        pair = read_pair(self.training.root, sample, num_classes=len(self.training.tables))
        item, label = make_views(whole(*pair), draw, first, last)
        return item, torch.from_numpy(label)


def make_views(frame: Frame, draw: Draw, first: int, last: int) -> tuple[TargetBatch, np.ndarray | None]:
    """Views `first` ... `last`-1 of an image as read from its file, and their labels (None if it has none).

    What the views share is only done once.
    """
    reference = apply_shared(frame, draw.shared)
    height, width = reference.size
    count = last - first
    # Write each view to its place directly: allocating and freeing memory would cost as much as a resize.
    clean = np.empty((count, height, width, 3), np.uint8)
    noisy = np.empty_like(clean)
    padding = np.empty((count, height, width), bool)
    label = None if reference.label is None else np.empty((count, height, width), np.uint8)
    maps = np.empty((2, count, 2, 3), np.float32)
    for i, (view, noise) in enumerate(zip(draw.views[first:last], draw.noise[first:last], strict=True)):
        part = apply_view(reference, view)
        clean[i], padding[i] = part.image, part.padding
        if label is not None:
            label[i] = part.label
        add_noise(clean[i], noise, out=noisy[i])
        maps[:, i] = affine(view, height, width)
    tensors = map(torch.from_numpy, (noisy, clean, padding, *maps))
    return TargetBatch(*tensors, torch.full((count,), draw.position)), label


def collate_views(items: Sequence[TargetBatch]) -> TargetBatch:
    """The views of several images one after the other: dimension 0 becomes the sum of their t."""
    return TargetBatch(*map(torch.cat, zip(*items, strict=True)))
