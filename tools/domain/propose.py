"""The YAML files that tools/new_domain.py proposes, from what it found."""

import colorsys
from typing import Any, NamedTuple

import numpy as np

from core.cli import UserError
from datasets.labels import IGNORE
from tools.domain.look import Images, Values

MOST_PIXELS = 512 * 1024  # of a crop, as in the published settings
MULTIPLE = 32  # sides that every network accepts
SMALLEST = 0.05  # share of images that may be smaller than the crop


class Geometry(NamedTuple):
    """Crop and scales."""

    crop: tuple[int, int]  # height, width
    scale: tuple[float, float]  # of the source's images


def geometry(source: np.ndarray, target: np.ndarray) -> Geometry:
    """Crop and scales for images of these sizes, int [N,2], height and width.

    The crop has the target's aspect ratio, since its images are resized to it as a whole, and is no larger than most
    images. If both cameras have the same field of view, source objects are as large as the target's at the lower scale;
    the upper scale is twice that, as published for GTA5 and Cityscapes.
    """
    height, width = np.median(target, axis=0)
    small = np.minimum(*(np.quantile(sizes, SMALLEST, axis=0) for sizes in (source, target)))
    factor = min(1.0, small[0] / height, small[1] / width, (MOST_PIXELS / (height * width)) ** 0.5)
    crop = tuple(max(MULTIPLE, int(side * factor) // MULTIPLE * MULTIPLE) for side in (height, width))
    if min(small) < MULTIPLE:
        raise UserError(f"some images are smaller than {MULTIPLE} pixels: remove them")
    alike = float((crop[0] * crop[1] / np.prod(np.median(source, axis=0))) ** 0.5)
    return Geometry(crop, (round(alike, 2), round(2 * alike, 2)))


def classes_text(values: Values) -> str:
    """The label set: a class for each value that is not void, to be named."""
    coloured = values.encoding == "rgb"
    void = 0 if coloured else IGNORE  # black, and 255
    kept = [value for value in sorted(values.pixels) if value != void]
    if len(kept) < 2:
        raise UserError(f"the labels contain the values {shown(values)}: at least 2 classes are needed")
    total = sum(values.pixels.values())
    names = [f"class_{value:06x}" if coloured else f"class_{value}" for value in kept]
    rgb = [[v >> 16, v >> 8 & 255, v & 255] for v in kept] if coloured else [distinct(i) for i in range(len(kept))]
    key = "raw_colours" if coloured else "raw_ids"
    lines = [
        "# The classes, in the order of their train IDs 0, 1, ...: rename them here, and only here.",
        "names:", *(f"  - {name}" for name in names),
        "colours:", *(f"  - {colour}" for colour in rgb),
        "# Value in the label files: train ID, and share of the pixels. Several may share a train ID; 255 is ignored.",
        "# Train IDs are positions in `names`, and each must occur. After changes, convert again with --force.",
        f"{key}:",
    ]
    trains = {value: train for train, value in enumerate(kept)}
    for value in sorted(values.pixels):
        raw = f"{value >> 16} {value >> 8 & 255} {value & 255}" if coloured else value
        lines.append(f"  {raw}: {trains.get(value, IGNORE)}  # {100 * values.pixels[value] / total:.3g} %")
    return "\n".join(lines) + "\n"


def shown(values: Values) -> str:
    """The values of labels, for a message."""
    return ", ".join(map(str, sorted(values.pixels)))


def distinct(index: int) -> list[int]:
    """A colour distinct from its neighbours."""
    hue = index * 0.618034 % 1  # the golden ratio spreads any number of hues
    return [round(255 * x) for x in colorsys.hsv_to_rgb(hue, 0.75, (0.9, 0.6)[index % 2])]


def domain_text(values: dict[str, Any], patterns: tuple[str, str, str], encoding: str, list_name: str) -> str:
    """A domain's file. `patterns`: of images, labels, converted labels; encoding "" = without labels."""
    images, files, ids = patterns
    labels = ["labels:", f"  files: '{files}'", f"  train_ids: '{ids}'", f"  encoding: {encoding}"] if encoding else []
    lines = ["# Where these images are and how they are named; configs/domains has examples.",
             f"root: '{values['root']}'", f"images: '{images}'", *labels, f"classes: '{values['classes']}'",
             "lists:", f"  {list_name}: {{{'' if encoding else 'labels: none'}}}"]
    return "\n".join(lines) + "\n"


def config_text(values: dict[str, Any], source: Images, target: Images, shape: Geometry) -> str:
    """The configuration of SAC; `values`: task, target, val, root, classes, batch, groups."""
    def numbers(x: list[float]) -> str:
        return f"[{', '.join(f'{v:.3f}' for v in x)}]"

    return f"""\
# Proposed by tools/new_domain.py (docs/own_data.md). Only what differs from the defaults; docs/configuration.md lists
# all keys. For the baseline, add --set MODEL.BASELINE True.
TRAIN:
  TASK: {values["task"]}
  TARGET: {values["target"]}
  BATCH_SIZE: {values["batch"]}
  NUM_EPOCHS: 100           # an epoch is one pass over the source; SAC continues the baseline's count
  NUM_GROUPS: {values["groups"]}
  GROUP_SIZE: 4
VAL:
  LISTS: [{values["val"]}]
DATASET:
  ROOT: '{values["root"]}'
  CLASSES: '{values["classes"]}'
  CROP_SIZE: [{shape.crop[0]}, {shape.crop[1]}]  # height, width; with the target's aspect: its images are resized to it
  VAL_CROP: False           # so are validation images
  SCALE_FROM: {shape.scale[0]}  # objects are as large as in the target, given the same field of view
  SCALE_TO: {shape.scale[1]}
  RND_JITTER: 0.4
  RND_ZOOM: [0.5, 1.0]
  RND_HFLIP: True           # False if left and right are not interchangeable; then GUIDED_HFLIP too
  GUIDED_HFLIP: True
  RND_GREYSCALE: 0.2
  SOURCE_MEAN: {numbers(source.mean)}
  SOURCE_STD: {numbers(source.std)}
  TARGET_MEAN: {numbers(target.mean)}
  TARGET_STD: {numbers(target.std)}
MODEL:
  ARCH: deeplabv2_resnet101
  INIT_MODEL: models/pretrained/resnet101-5d3b4d8f.pth  # from tools/download_imagenet.sh; "" = random weights
  LR: 2.5e-4
  WEIGHT_DECAY: 5.0e-4
  LR_TARGET: 5.0
"""
