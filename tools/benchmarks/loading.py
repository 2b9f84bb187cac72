"""The work of one loader worker on one core: a source sample, a group of views, and lists of growing length."""

import gc
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from yacs.config import CfgNode

from datasets import augmentation, lists, sampling, view_policy
from datasets.images import read_image
from datasets.source import SourceTraining
from datasets.target import TargetTraining, ViewPolicy
from tools.benchmarks.material import Material, Settings, published
from tools.benchmarks.measure import Row, in_turns, one_thread, seconds

CLASSES = 19


def source(material: Material, cfg: CfgNode) -> SourceTraining:
    """The source, as a configuration trains on it."""
    size = tuple(cfg.DATASET.GAME_SIZE) if cfg.DATASET.CROP_SIZE[0] >= 512 else None  # smaller crops are for --quick
    return SourceTraining(material.source, material.root, augmentation(cfg), num_classes=CLASSES, game_size=size)


def target(material: Material, cfg: CfgNode) -> TargetTraining:
    """The target's views, as a configuration trains on them."""
    tables = sampling.cumulative_tables(None, [s.image for s in material.target], CLASSES, 0.25)
    return TargetTraining(material.target, material.root, tables, view_policy(cfg))


def per_item(part: Callable[[int], object], floor: Callable[[int], object], items: int, runs: int) -> list[float]:
    """Median seconds per item of a part and its floor, alternating item by item, on one core."""
    with one_thread():
        functions = [partial(function, i) for i in range(items) for function in (part, floor)]
        times = in_turns(*functions, runs=runs)
    return [sum(times[0::2]) / items, sum(times[1::2]) / items]


def read(root: Path, image: str, label: str | None = None) -> None:
    """Decode files in the form needed: an image's RGB, a label's numbers."""
    for name, flags in ((image, cv2.IMREAD_COLOR_RGB), (label, cv2.IMREAD_UNCHANGED)):
        if name and cv2.imread(os.path.join(root, name), flags) is None:
            raise FileNotFoundError(name)


def decode(material: Material, settings: Settings) -> list[Row]:
    """Reading an image with all its checks."""
    names = [sample.image for sample in material.target]
    times = per_item(lambda i: read_image(material.root / names[i]), lambda i: read(material.root, names[i]),
                     len(names), settings.runs)
    return [Row("decode", "an image of the target; floor: cv2.imread", *times)]


def source_rows(material: Material, settings: Settings) -> list[Row]:
    """A training sample of the source, with the augmentation of SAC and with that of the baseline."""
    rows, square = [], "64,64" if settings.quick else "640,640"
    baseline = published(settings, "DATASET.CROP_SIZE", square, name="deeplabv2_resnet101.yaml")
    for name, cfg in (("source", published(settings)), ("source_baseline", baseline)):
        data = source(material, cfg)
        times = per_item(lambda i, data=data: data[0, i],
                         lambda i: read(material.root, *material.source[i]), len(material.source), settings.runs)
        rows.append(Row(name, "a sample, one core; floor: cv2.imread of image and label", *times, goal=1.4))
    return rows


def target_rows(material: Material, settings: Settings) -> list[Row]:
    """A group of four views, clean and noisy."""
    data = target(material, published(settings))
    shown = [data.draw(0, i).position for i in range(2 * len(material.target))]
    times = per_item(lambda i: data[0, i, 0, data.policy.views],
                     lambda i: read(material.root, material.target[shown[i]].image), len(shown), settings.runs)
    return [Row("target", "a group of 4 views, one core; floor: cv2.imread of its image", *times, goal=2.0)]


def growth(folder: Path, settings: Settings) -> list[Row]:
    """Lists of 10^4, 10^5 and 10^6 lines, with weights: opening them, and drawing an image."""
    rows, counts = [], (100, 1000) if settings.quick else (10**4, 10**5, 10**6)
    for count in counts:
        path = folder / f"{count}.txt"
        lines = (f"/leftImg8bit/train/city/city_{i:06d}_000019_leftImg8bit.png "
                 f"/gtFine2/train/city/city_{i:06d}_000019_gtFine_labelIds.png\n" for i in range(count))
        path.write_text("".join(lines))
        before, kept = memory(), []
        opening = seconds(lambda path=path, kept=kept: kept.append(lists.read(str(path), "", labels=True)))
        size = memory() - before
        floor = min(seconds(lambda path=path: path.read_text().split()) for _ in range(3))
        more = {"MB": round(size)} | drawing(kept[0], folder / f"{count}.data", view_policy(published(settings)))
        name = "growth" if count == counts[-1] else f"growth_{count}"
        what = f"opening a list of {count} lines; floor: reading and splitting its text"
        rows.append(Row(name, what, opening, floor, more=more))
    return rows


def drawing(samples: Sequence[lists.Sample], path: Path, policy: ViewPolicy) -> dict[str, float]:
    """Seconds to open a weights file of these samples, microseconds to draw an image in epochs 0 and 1000."""
    names = lists.mask_names(samples)
    classes = CLASSES - 1  # the last one is not weighted
    shares = {name: {c: 0.0 for c in range(i % 3, classes, 3)} for i, name in enumerate(names)}
    for c in range(classes):
        own = names[c % 3 :: 3]
        for name in own:
            shares[name][c] = 1 / len(own)
    sampling.save_weights(shares, path)
    tables = None

    def open_weights() -> None:
        nonlocal tables
        tables = sampling.cumulative_tables(sampling.load_weights(str(path)), names, CLASSES, 0.25, [classes])

    figures = {"weights_s": round(seconds(open_weights), 3)}
    gc.collect()
    data = TargetTraining(samples, "", tables, policy)
    for epoch in (0, 1000):
        draws = np.random.default_rng(0).integers(len(names), size=200).tolist()
        taken = seconds(lambda epoch=epoch, draws=draws: [data.draw(epoch, i) for i in draws])
        figures[f"draw_us_epoch_{epoch}"] = round(taken / len(draws) * 1e6)
    return figures


def memory() -> float:
    """Resident memory of this process, in MB."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
