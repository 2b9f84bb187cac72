"""Compare the masks of one or more networks with a list's labels: scores, and the images that differ most."""

import base64
import math
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from core.cli import UserError
from core.metrics import ConfusionMatrix
from datasets import lists
from datasets.images import read_image, read_label
from datasets.labels import IGNORE, LabelSet
from tools.batch.masks import masks_in
from tools.batch.threads import parallel_map
from tools.report_page import series

# Values and colours of the change picture; pixels that both networks get right are pale.
SAME, BETTER, WORSE, BOTH_WRONG, UNLABELLED = range(5)
CHANGES = np.array([(235, 235, 235), (0, 114, 178), (213, 94, 0), (150, 150, 150), (0, 0, 0)], np.uint8)


class Pair(NamedTuple):
    """An image, its label, and its masks in the order of the networks."""

    image: Path
    label: Path
    masks: list[Path]


class Masks(NamedTuple):
    """A network's masks: its name, shared by its other seeds, and the folder that infer_val.py wrote."""

    name: str
    folder: Path


def pairs_of(name: str, root: Path, masks: list[Masks]) -> list[Pair]:
    """The samples of a labelled list with their masks; UserError if a label or mask is missing."""
    samples = lists.read(name, str(root), labels=True)
    columns = [masks_in(m.folder, samples) for m in masks]
    return [
        Pair(root / s.image, root / str(s.label), list(files))
        for s, *files in zip(samples, *columns, strict=True)
    ]


def measure(pair: Pair, num_classes: int, ignore: tuple[int, ...]) -> tuple[Tensor, list[float]]:
    """Confusion tables of one image, int64 [masks,C,C+1] as in ConfusionMatrix, and the mIoU of each mask.

    The mIoU is over the classes in the image's label, so that a single stray pixel of another class does not dominate.
    """
    label, tables, scores = torch.from_numpy(read_label(pair.label, num_classes)), [], []
    for path in pair.masks:
        mask = torch.from_numpy(read_label(path, num_classes))
        if mask.shape != label.shape:
            raise UserError(f"{path} and its label {pair.label} differ in size")
        matrix = ConfusionMatrix(num_classes)
        matrix.update(mask, label)
        present = matrix.table.sum(1) > 0
        absent = [c for c in range(num_classes) if not present[c]]
        tables.append(matrix.table)
        scores.append(matrix.miou([*ignore, *absent]))
    return torch.stack(tables), scores


def compare(
    pairs: list[Pair], masks: list[Masks], label_set: LabelSet, ignore: tuple[int, ...]
) -> tuple[list[dict[str, Any]], list[list[float]]]:
    """Each name's results over all images, and each image's mIoU for each of `firsts`."""
    torch.set_num_threads(1)  # the parallelism is over images
    job = partial(measure, num_classes=label_set.num_classes, ignore=ignore)
    tables, scores = 0, []
    for table, values in parallel_map(job, pairs, desc="comparing"):
        tables = tables + table
        scores.append(values)
    results = []
    for mask, table in zip(masks, tables, strict=True):
        matrix = ConfusionMatrix(label_set.num_classes)
        matrix.table = table
        results.append({"name": mask.name, "iou": matrix.iou(), "miou": matrix.miou(ignore),
                        "confusion": matrix.counts.tolist()})
    return series.merge(results), [[values[i] for i in firsts(masks)] for values in scores]


def firsts(masks: list[Masks]) -> list[int]:
    """Positions of each name's first masks: of several seeds, one is shown."""
    names = [m.name for m in masks]
    return [names.index(name) for name in dict.fromkeys(names)]


def extremes(scores: list[list[float]], count: int) -> dict[int, str]:
    """Indices of the images that "gained" and that "lost" most from the first to the last network.

    Each group starts with its largest change; images with a loss are never "gained". With only one network: the
    list's first images.
    """
    if len(scores[0]) < 2:
        return dict.fromkeys(range(len(scores))[: 2 * count], "")
    gains = {i: after - before for i, (before, *_, after) in enumerate(scores) if not math.isnan(after - before)}
    ranked = sorted(gains, key=lambda i: (-gains[i], i))
    best = [i for i in ranked[: min(count, len(ranked) - len(ranked) // 2)] if gains[i] >= 0]
    worst = ranked[len(best) :][::-1][:count]
    return dict.fromkeys(best, "gained") | dict.fromkeys(worst, "lost")


def pictures(pair: Pair, masks: list[Masks], label_set: LabelSet, width: int) -> dict[str, str]:
    """An image's pictures as data URLs, all the same size, at most `width` pixels wide."""
    image, label = read_image(pair.image), read_label(pair.label)
    size = (min(width, label.shape[1]), round(label.shape[0] * min(1, width / label.shape[1])) or 1)
    palette = label_set.palette()
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    result = {"input": jpeg(small), "truth": png(shrunk(label, size), palette)}
    shown = firsts(masks)
    predictions = [read_label(pair.masks[i]) for i in shown]
    for i, prediction in zip(shown, predictions, strict=True):
        result[masks[i].name] = png(shrunk(prediction, size), palette)
    if len(shown) > 1:
        result["change"] = png(shrunk(change(label, predictions[0], predictions[-1]), size), CHANGES)
    return result


def change(label: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Where the second mask is better or worse than the first, uint8 [H,W] of the values above."""
    right, now = before == label, after == label
    kinds = np.select([right & now, now, right], [SAME, BETTER, WORSE], BOTH_WRONG)
    return np.where(label == IGNORE, UNLABELLED, kinds).astype(np.uint8)


def shrunk(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A label uint8 [h,w], resized to `size` = (width, height) by nearest neighbour."""
    return cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)


def jpeg(image: np.ndarray) -> str:
    """A photograph uint8 [H,W,3] as a data URL."""
    content = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()
    return "data:image/jpeg;base64," + base64.b64encode(content).decode()


def png(label: np.ndarray, palette: np.ndarray) -> str:
    """A label uint8 [H,W] in its colours as a data URL; a palette PNG is a tenth the size of an RGB one."""
    picture, file = Image.fromarray(label), BytesIO()
    picture.putpalette(palette.tobytes())
    picture.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
