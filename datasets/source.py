"""Single images: source training, the baseline's unlabelled target pass, validation and inference."""

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datasets import noise
from datasets.images import read_image, read_pair
from datasets.labels import IGNORE
from datasets.lists import Sample
from datasets.noise import Jitter
from datasets.transforms import (
    Frame,
    Size,
    Window,
    centre_window,
    crop,
    draw_size,
    draw_window,
    flip,
    resize,
    whole,
)

SOURCE, UNLABELLED = 0, 1  # random streams; the target's views have their own


class SourceBatch(NamedTuple):
    """Labelled images; a single one, before collation, has no dimension B."""

    image: Tensor  # uint8 [B,H,W,3]
    label: Tensor  # uint8 [B,H,W], train IDs, 255 = ignored, padding too
    padding: Tensor  # bool [B,H,W]
    index: Tensor  # int64 [B], the positions in the list, or in all source lists one after the other


class ImageBatch(NamedTuple):
    """Images without labels; a single one, before collation, has no dimension B."""

    image: Tensor  # uint8 [B,H,W,3]
    padding: Tensor  # bool [B,H,W]
    index: Tensor  # int64 [B], the positions in the list


class SourceParams(NamedTuple):
    """One augmentation of an image."""

    size: Size  # after scaling
    blur: bool
    flip: bool
    jitter: Jitter | None
    window: Window | None  # of the scaled and mirrored image; None: all of it, resized to the crop's size


@dataclass(frozen=True)
class Augmentation:
    """How source images are augmented (docs/method.md section 6), with the configuration keys."""

    crop_size: Size  # CROP_SIZE
    scale: tuple[float, float] = (1.0, 1.0)  # SCALE_FROM, SCALE_TO
    random_crop: bool = True  # RND_CROP
    hflip: bool = False  # RND_HFLIP
    blur: bool = False  # SRC_RND_BLUR
    jitter: float = 0.0  # RND_JITTER where SRC_RND_JITTER > 0, else 0

    def draw(self, rng: np.random.Generator, size: Size) -> SourceParams:
        """Draw the parameters for an image of `size`."""
        scaled = draw_size(rng, size, self.scale)
        return SourceParams(
            scaled,
            self.blur and bool(rng.random() < 0.5),
            self.hflip and bool(rng.random() < 0.5),
            noise.draw_jitter(rng, self.jitter, min(0.5, self.jitter)),
            draw_window(rng, scaled, self.crop_size) if self.random_crop else None,
        )

    def apply(self, frame: Frame, params: SourceParams) -> Frame:
        """Scale, blur, flip, jitter and crop: a frame of the crop's size.

        Flip and jitter come after the crop, with the same result on fewer pixels: the window is mirrored, and
        contrast uses the mean grey of the whole scaled image, from a sixteenth of its pixels.
        """
        frame = resize(frame, params.size)
        if params.blur:
            frame = frame._replace(image=noise.blur(frame.image, 1.0))
        scaled = frame.image
        if params.window is None:
            frame = resize(frame, self.crop_size)
        else:
            mirrored = params.window.mirrored(params.size[1]) if params.flip else params.window
            frame = crop(frame, mirrored)
        if params.flip:
            frame = flip(frame)
        if params.jitter is not None:
            around = np.ascontiguousarray(scaled[::4, ::4])
            frame = frame._replace(image=noise.jitter(frame.image, params.jitter, around))
        return frame


class SourceTraining(Dataset):
    """Labelled images, augmented; an item depends only on the seed and the key, (epoch, index).

    Args:
        samples: the images.
        root: folder that their paths are relative to.
        augmentation: of the images.
        num_classes: to check labels.
        game_size: size that all images are first resized to; None leaves them as they are.
        seed: of the run.
        ignored: classes not to train on: 255 in the labels.
        first: index of the first image.
    """

    def __init__(
        self, samples: Sequence[Sample], root: str | Path, augmentation: Augmentation, *,
        num_classes: int | None = None, game_size: Size | None = None, seed: int = 0, ignored: Sequence[int] = (),
        first: int = 0,
    ) -> None:
        self.samples, self.root, self.augmentation = samples, root, augmentation
        self.num_classes, self.game_size, self.seed = num_classes, game_size, seed
        self.ignored, self.first = ignored, first

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> SourceBatch:
        epoch, index = key
        rng = np.random.default_rng((self.seed, SOURCE, epoch, index))
        frame = read_frame(self.root, self.samples[index - self.first], self.num_classes, self.game_size)
        frame = self.augmentation.apply(frame, self.augmentation.draw(rng, frame.size))
        if self.ignored:
            label = np.where(np.isin(frame.label, self.ignored), np.uint8(IGNORE), frame.label)
            frame = frame._replace(label=label)
        return _item(frame, index)


class SourceLists(Dataset):
    """Several source lists, with consecutive indices."""

    def __init__(self, parts: Sequence[SourceTraining]) -> None:
        self.parts, self.firsts = parts, [part.first for part in parts]
        self.samples = [sample for part in parts for sample in part.samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> SourceBatch:
        return self.parts[bisect(self.firsts, key[1]) - 1][key]


class UnlabelledTraining(Dataset):
    """Target images of the baseline (section 3), augmented like the source's: index i is image i mod M."""

    def __init__(self, samples: Sequence[Sample], root: str | Path, augmentation: Augmentation, seed: int = 0) -> None:
        self.samples, self.root, self.augmentation, self.seed = samples, root, augmentation, seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> ImageBatch:
        epoch, index = key
        rng = np.random.default_rng((self.seed, UNLABELLED, epoch, index))
        position = index % len(self.samples)
        frame = whole(read_image(Path(self.root, self.samples[position].image)))
        frame = self.augmentation.apply(frame, self.augmentation.draw(rng, frame.size))
        return ImageBatch(as_tensor(frame.image), as_tensor(frame.padding), torch.tensor(position))


class Validation(Dataset):
    """Labelled images, not augmented: the centre crop (VAL_CROP) or the whole image, resized to CROP_SIZE."""

    def __init__(
        self, samples: Sequence[Sample], root: str | Path, *, crop_size: Size, crop: bool = True,
        num_classes: int | None = None, game_size: Size | None = None,
    ) -> None:
        """`crop`: VAL_CROP; `num_classes`: to check labels."""
        self.samples, self.root = samples, root
        self.crop_size, self.centre_crop = crop_size, crop
        self.num_classes, self.game_size = num_classes, game_size

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> SourceBatch:
        frame = read_frame(self.root, self.samples[index], self.num_classes, self.game_size)
        if self.centre_crop:
            return _item(crop(frame, centre_window(frame.size, self.crop_size)), index)
        return _item(resize(frame, self.crop_size), index)


class Images(Dataset):
    """Images at their own sizes, for inference: (uint8 [H, W, 3], position in the list)."""

    def __init__(self, samples: Sequence[Sample], root: str | Path) -> None:
        self.samples, self.root = samples, root

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return as_tensor(read_image(Path(self.root, self.samples[index].image))), index


def read_frame(root: str | Path, sample: Sample, num_classes: int | None, game_size: Size | None) -> Frame:
    """Read a labelled sample and resize it to `game_size`, unless that is None."""
    frame = whole(*read_pair(root, sample, num_classes))
    return frame if game_size is None else resize(frame, game_size)


def as_tensor(array: np.ndarray) -> Tensor:
    """A tensor of an array; shares its memory if contiguous."""
    return torch.from_numpy(np.ascontiguousarray(array))


def _item(frame: Frame, index: int) -> SourceBatch:
    return SourceBatch(*map(as_tensor, frame), torch.tensor(index))
