"""Look at all that a training run will read, before the run: lists, images, labels, importance weights.

A finding is what would stop a run or spoil its result; a warning is what can be meant so. Each names the file,
what is wrong and what to do. Exit status: 0 no finding, 1 findings, 2 the check could not run.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.cli import KEY_VALUE, Parser, UserError, run  # isort: skip

import numpy as np
from yacs.config import CfgNode

import datasets
from core import config, png
from core.metrics import class_counts
from core.threads import parallel_map
from datasets import labels, lists, sampling
from datasets.images import read_image, read_label
from datasets.labels import IGNORE, LabelSet
from datasets.lists import Sample

EXAMPLES = """examples:
  python tools/check_data.py --cfg configs/deeplabv2_resnet101_train.yaml
  python tools/check_data.py --cfg configs/custom_example.yaml --set DATASET.ROOT data/own
"""
# Images of the published lists (docs/reproduction.md).
EXPECTED = {
    "train_cityscapes": 2975, "val_cityscapes": 500, "val2_cityscapes": 500, "test_cityscapes": 1525,
    "train_game_9K": 9000, "val_game_1K": 1000, "train_synthia_9K": 9400, "val_synthia": 400,
}
CONVERT = "make train IDs with tools/convert_train_ids.py --dataset "
# Folders of converted labels, and what the raw labels that they come from have to be.
RAW = {
    "synthia/labels_cs/": ("synthia/GT/LABELS/", {(16, png.RGB)}, "16-bit RGB PNGs"),
    "game/labels_cs/": ("game/labels/", {(8, png.PALETTE), (4, png.PALETTE), (8, png.GREY)}, "palette PNGs"),
}
SMALLEST = 32  # pixels; an image with a shorter side shows nothing


class Report(NamedTuple):
    """What was found."""

    findings: list[str]
    warnings: list[str]


class Seen(NamedTuple):
    """What was seen of one sample."""

    findings: list[str]
    classes: np.ndarray  # int64 [256], the label's pixels by value


def read_lists(cfg: CfgNode, report: Report) -> tuple[dict[str, list[Sample]], str]:
    """The lists of the run by name, and the selecting one; what is wrong with them goes into the report."""
    validated, missing, select = list(cfg.VAL.LISTS), [], cfg.VAL.SELECT
    try:
        validated, missing, select = datasets.validation_lists(cfg)
    except UserError as error:
        report.findings.append(str(error))
    found = {}
    for name in dict.fromkeys((cfg.TRAIN.TASK, cfg.TRAIN.TARGET, *validated)):
        try:
            found[name] = lists.read(name, cfg.DATASET.ROOT, labels=name != cfg.TRAIN.TARGET)
        except UserError as error:
            report.findings.append(str(error))
    for name in missing:
        (report.findings if name in cfg.VAL.LISTS else report.warnings).append(
            f"list {name}: not there, validation leaves it out; tools/make_lists.py makes the published lists")
    for name, samples in found.items():
        check_list(name, samples, report)
    return found, select


def check_list(name: str, samples: list[Sample], report: Report) -> None:
    """The number of samples, samples that stand there twice, and labels for some only."""
    expected = EXPECTED.get(name, len(samples))
    if len(samples) != expected:
        # Half of a data set is a data set with holes; a hundredth is a small world made on purpose.
        holes = 2 * len(samples) >= expected
        advice = "look for what was not downloaded, run tools/make_lists.py again" if holes else "meant so?"
        (report.findings if holes else report.warnings).append(
            f"list {name}: {len(samples)} images, the published one has {expected}; {advice}")
    twice = [image for image, count in Counter(s.image for s in samples).items() if count > 1]
    if twice:
        report.findings.append(
            f"list {name}: {len(twice)} images stand in it more than once, first {twice[0]}; remove those lines")
    without = [s.image for s in samples if s.label is None]
    if 0 < len(without) < len(samples):
        report.findings.append(
            f"list {name}: {len(without)} of {len(samples)} lines have no label, first {without[0]}; "
            "give all of them one, or none")


def check_overlaps(cfg: CfgNode, found: dict[str, list[Sample]], select: str, report: Report) -> None:
    """Lists that measure on what trains."""
    training = {name: {s.image for s in found.get(name, ())} for name in (cfg.TRAIN.TASK, cfg.TRAIN.TARGET)}
    for name, samples in found.items():
        for trained, images in training.items():
            shared = sum(s.image in images for s in samples)
            if shared and name not in training:
                role = ", which chooses the snapshots," if name == select else ""
                report.warnings.append(
                    f"list {name}{role} shares {shared} of its {len(samples)} images with the training list "
                    f"{trained}: its mIoU is not one of unseen images")


def check_weights(cfg: CfgNode, samples: list[Sample], num_classes: int, report: Report) -> None:
    """Whether the target's mask names are all different, and the importance weights are of them."""
    data, name = cfg.DATASET, f"list {cfg.TRAIN.TARGET}"
    try:
        names = lists.mask_names(samples)
        if data.SAMPLE_WEIGHTS:
            name, ignore = data.SAMPLE_WEIGHTS, list(cfg.VAL.IGNORE_CLASS)
            weights = sampling.load_weights(name)
            sampling.cumulative_tables(weights, names, num_classes, data.SAMPLE_UNIFORM_PRIOR, ignore)
    except UserError as error:
        report.findings.append(str(error) if name in str(error) else f"{name}: {error}")


def check_sample(sample: Sample, root: Path, label_set: LabelSet) -> Seen:
    """Decode an image and its label and compare them."""
    findings, classes, image, label = [], np.zeros(256, np.int64), None, None
    try:
        image = read_image(root / sample.image)
        if min(image.shape[:2]) < SMALLEST:
            findings.append(f"{root / sample.image}: {size_of(image)} pixels; replace it, or remove its line")
            image = None
    except UserError as error:
        findings.append(str(error))
    if sample.label is None:
        return Seen(findings, classes)
    path = root / sample.label
    try:
        check_kind(path)
        label = read_label(path)
        classes = class_counts(label)
        findings += [f"{path}: {wrong}" for wrong in check_values(classes, label_set)]
        if image is not None and image.shape[:2] != label.shape:
            other = f"its image {root / sample.image} is {size_of(image)}"
            findings.append(f"{path}: {size_of(label)}, but {other}; pair the right files")
        check_raw(root, sample.label)
    except UserError as error:
        findings.append(str(error))
    return Seen(findings, classes)


def size_of(pixels: np.ndarray) -> str:
    """Width x height."""
    return f"{pixels.shape[1]}x{pixels.shape[0]}"


def check_kind(path: Path) -> None:
    """UserError for a raw label, told by the header of a PNG; other files are left to the decoder."""
    if path.suffix.lower() != ".png" or not path.is_file() or not path.stat().st_size:
        return
    depth, colour = png.kind(path.read_bytes(), path)
    if (depth, colour) == (16, png.RGB):
        raise UserError(f"{path}: a 16-bit RGB PNG, as SYNTHIA's raw labels are; {CONVERT}synthia")
    if colour == png.PALETTE:
        raise UserError(f"{path}: a palette PNG, as GTA5's raw labels are; {CONVERT}gta, or own")


def check_values(classes: np.ndarray, label_set: LabelSet) -> Iterator[str]:
    """What is wrong with the values of a label, counted in int64 [256]."""
    outside = [int(v) for v in np.flatnonzero(classes[:IGNORE]) if v >= label_set.num_classes]
    if not outside:
        return
    shown = ", ".join(map(str, outside[:6])) + (", ..." if len(outside) > 6 else "")
    raw = set(label_set.raw_to_train) | (set(range(34)) if label_set.name == "cityscapes" else set())
    allowed = f"train IDs are 0 to {label_set.num_classes - 1} and {IGNORE}"
    if set(outside) <= raw:
        yield f"raw label IDs ({shown}) where train IDs belong, {allowed}; {CONVERT}cs, gta or own"
    else:
        yield f"the values {shown} are no classes, {allowed}; is DATASET.CLASSES right?"


def check_raw(root: Path, label: str) -> None:
    """UserError if the raw label that a converted one comes from is there, but is not as published."""
    for folder, (raw, kinds, words) in RAW.items():
        path = root / label.replace(folder, raw)
        if label.startswith(folder) and path.is_file():
            depth, colour = png.kind(path.read_bytes(), path)
            if (depth, colour) not in kinds:
                found = f"{depth}-bit {png.COLOUR_TYPES.get(colour, 'unknown')}"
                raise UserError(f"{path}: {found}, but the raw labels there are {words}; get them again")


def check_files(found: dict[str, list[Sample]], cfg: CfgNode, label_set: LabelSet, workers: int) -> Report:
    """Every file of every list, each once."""
    report, root = Report([], []), Path(cfg.DATASET.ROOT)
    samples = dict.fromkeys(sample for entries in found.values() for sample in entries)
    # Labels of the target only measure; where the first is not on the disk, training does without them all.
    target = found.get(cfg.TRAIN.TARGET, [])
    if target and target[0].label and not (root / target[0].label).is_file():
        report.warnings.append(f"{root / target[0].label}: not there; the target's labels are not needed, but "
                               "without them nothing is measured on its views")
        others = {s for name, entries in found.items() if name != cfg.TRAIN.TARGET for s in entries}
        samples = dict.fromkeys(s if s in others else s._replace(label=None) for s in samples)
    source, pixels = set(found.get(cfg.TRAIN.TASK, ())), np.zeros(256, np.int64)
    job = partial(check_sample, root=root, label_set=label_set)
    for sample, seen in zip(samples, parallel_map(job, list(samples), workers, "checking"), strict=True):
        report.findings.extend(seen.findings)
        if sample in source:
            pixels += seen.classes
    counted = [c for c in range(label_set.num_classes) if c not in cfg.VAL.IGNORE_CLASS]
    never = [label_set.names[c] for c in counted if not pixels[c]]
    if never and source:
        report.warnings.append(f"list {cfg.TRAIN.TASK}: no pixel of {', '.join(never)}; what has no label is "
                               "not learnt (VAL.IGNORE_CLASS leaves classes out)")
    return report


def main() -> None:
    """Parse, check, print; exit with 1 where there are findings."""
    parser = Parser(description=__doc__, epilog=EXAMPLES)
    parser.add_argument("--cfg", required=True, metavar="FILE", help="configuration of the run, YAML")
    parser.add_argument("--limit", type=int, default=50, metavar="N", help="findings to print (default 50)")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="threads; 0 = one a core")
    parser.add_argument("--set", **KEY_VALUE)
    args = parser.parse_args()
    cfg, _ = config.load(args.cfg, args.pairs)
    label_set = labels.load(cfg.DATASET.CLASSES)
    config.check_classes(cfg, label_set.num_classes)
    if not Path(cfg.DATASET.ROOT).is_dir():
        raise UserError(f"DATASET.ROOT = {cfg.DATASET.ROOT}: there is no such folder")

    report = Report([], [])
    found, select = read_lists(cfg, report)
    check_overlaps(cfg, found, select, report)
    if cfg.TRAIN.TARGET in found:
        check_weights(cfg, found[cfg.TRAIN.TARGET], label_set.num_classes, report)
    files = check_files(found, cfg, label_set, args.workers)
    findings, warnings = (list(dict.fromkeys(a + b)) for a, b in zip(report, files, strict=True))
    for line in findings[: args.limit]:
        print(f"finding: {line}")
    if len(findings) > args.limit:
        print(f"... and {len(findings) - args.limit} findings more (--limit {len(findings)} prints all)")
    for line in warnings:
        print(f"warning: {line}")
    images = len({s.image for entries in found.values() for s in entries})
    print(f"{len(findings)} findings, {len(warnings)} warnings; {images} images of {len(found)} lists")
    if findings:
        sys.exit(1)


if __name__ == "__main__":
    run(main)
