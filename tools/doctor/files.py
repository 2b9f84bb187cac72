"""Check every image and label in a run's lists: decode, compare, count."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from yacs.config import CfgNode

import datasets
from core.alarms import label_findings
from core.cli import UserError
from core.metrics import class_counts, without
from datasets import images
from datasets.labels import IGNORE, LabelSet
from datasets.lists import Sample
from tools.batch import png
from tools.batch.threads import parallel_map
from tools.domain import domains
from tools.domain.domains import ENCODED, Labels

CONVERT = "convert to train IDs with tools/convert_train_ids.py --dataset "
SMALLEST = 32  # pixels; an image with a shorter side is useless


class Report(NamedTuple):
    """The findings."""

    errors: list[str]
    warnings: list[str]


class Seen(NamedTuple):
    """What was found in one sample."""

    errors: list[str]
    classes: np.ndarray  # int64 [256], pixels of the label by value
    size: tuple[int, int] | None  # H, W of the image; None if it is unusable
    blank: bool  # the whole image is a single colour


def check_sample(sample: Sample, root: Path, label_set: LabelSet, known: list[Labels]) -> Seen:
    """Decode an image and its label and compare them; `known`: labels of the domains that need conversion."""
    errors, classes, image = [], np.zeros(256, np.int64), None
    try:
        image = images.read_image(root / sample.image)
        if min(image.shape[:2]) < SMALLEST:
            errors.append(f"{root / sample.image}: only {size_of(image)} pixels; replace it or remove its line")
            image = None
    except UserError as error:
        errors.append(str(error))
    if sample.label is not None:
        path = root / sample.label
        try:
            check_kind(path)
            label = images.read_label(path)
            classes = class_counts(label)
            errors += [f"{path}: {wrong}" for wrong in check_values(classes, label_set)]
            if image is not None and image.shape[:2] != label.shape:
                other = f"its image {root / sample.image} is {size_of(image)}"
                errors.append(f"{path}: {size_of(label)}, but {other}; check the pairing")
            check_raw(root, sample.label, known)
        except UserError as error:
            errors.append(str(error))
    return Seen(errors, classes, image.shape[:2] if image is not None else None, image is not None and is_blank(image))


def is_blank(image: np.ndarray) -> bool:
    """Whether an image uint8 [H,W,3] is a single colour; a coarse grid of pixels rules out most images."""
    return all((part == image[0, 0]).all() for part in (image[::16, ::16], image))


def size_of(pixels: np.ndarray) -> str:
    """Width x height, as text."""
    return f"{pixels.shape[1]}x{pixels.shape[0]}"


def check_kind(path: Path) -> None:
    """UserError if a PNG's header shows a raw label; other files are left to the decoder."""
    if path.suffix.lower() != ".png" or not path.is_file() or not path.stat().st_size:
        return
    depth, colour = png.kind(path.read_bytes(), path)
    if (depth, colour) == (16, png.RGB):
        raise UserError(f"{path}: a 16-bit RGB PNG, like SYNTHIA's raw labels; {CONVERT}synthia")
    if colour == png.PALETTE:
        raise UserError(f"{path}: a palette PNG, like GTA5's raw labels; {CONVERT}gta, or own")


def check_values(classes: np.ndarray, label_set: LabelSet) -> Iterator[str]:
    """Find invalid values in a label, given its pixel counts int64 [256]."""
    outside = [int(v) for v in np.flatnonzero(classes[:IGNORE]) if v >= label_set.num_classes]
    if not outside:
        return
    shown = ", ".join(map(str, outside[:6])) + (", ..." if len(outside) > 6 else "")
    raw = set(label_set.raw_to_train) | (set(range(34)) if label_set.name == "cityscapes" else set())
    allowed = f"0 to {label_set.num_classes - 1} and {IGNORE}"
    if set(outside) <= raw:
        yield f"raw label IDs ({shown}) instead of train IDs ({allowed}); {CONVERT}cs, gta or own"
    else:
        yield f"values {shown} are not train IDs ({allowed}); is DATASET.CLASSES right?"


def check_raw(root: Path, label: str, known: list[Labels]) -> None:
    """UserError if the raw label of a converted one exists, but not in the published format."""
    for published in known:
        values = published.train_ids.match(label)
        path = root / published.files.fill(values or {})
        if values and path.is_file():
            kinds, words = ENCODED[published.encoding]
            depth, colour = png.kind(path.read_bytes(), path)
            if (depth, colour) not in kinds:
                found = f"{depth}-bit {png.COLOUR_TYPES.get(colour, 'unknown')}"
                raise UserError(f"{path}: {found}, expected {words}; download the raw labels again")


def check_files(found: dict[str, list[Sample]], cfg: CfgNode, label_set: LabelSet, workers: int) -> Report:
    """Every file of every list, each once."""
    report, root = Report([], []), Path(cfg.DATASET.ROOT)
    samples = dict.fromkeys(sample for entries in found.values() for sample in entries)
    # Target labels are only for scores; if the first is missing, training ignores all of them.
    target = found.get(cfg.TRAIN.TARGET, [])
    needless = target and cfg.TRAIN.TARGET not in cfg.VAL.LISTS
    if needless and target[0].label and not (root / target[0].label).is_file():
        report.warnings.append(f"{root / target[0].label} does not exist: target labels are optional, but without "
                               "them there are no scores on the target's views")
        others = {s for name, entries in found.items() if name != cfg.TRAIN.TARGET for s in entries}
        samples = dict.fromkeys(s if s in others else s._replace(label=None) for s in samples)
    published = [domains.load(name).labels for name in domains.names()]
    known = [labels for labels in published if labels and labels.encoding != "train_ids"]
    job = partial(check_sample, root=root, label_set=label_set, known=known)
    seen = dict(zip(samples, parallel_map(job, list(samples), workers, "checking"), strict=True))
    for one in seen.values():
        report.errors.extend(one.errors)
    by_image = {sample.image: one for sample, one in seen.items()}
    for name, entries in found.items():
        check_images(name, {s.image: by_image[s.image] for s in entries}, cfg, report)
    pixels = {name: sum((seen[sample].classes for sample in found[name]), np.zeros(256, np.int64))
              for name in cfg.TRAIN.TASK if name in found}
    check_source(pixels, cfg, label_set, report)
    return report


def check_images(name: str, seen: dict[str, Seen], cfg: CfgNode, report: Report) -> None:
    """Warn about a list's blank or small images; `seen` is by image path."""
    root, (height, width) = Path(cfg.DATASET.ROOT), cfg.DATASET.CROP_SIZE
    blank = [image for image, one in seen.items() if one.blank]
    if blank:
        report.warnings.append(f"list {name}: {len(blank)} of {len(seen)} images are a single colour, first "
                               f"{root / blank[0]}; check them")
    small = [image for image, one in seen.items() if one.size and (one.size[0] < height or one.size[1] < width)]
    if small and name in (*cfg.TRAIN.TASK, cfg.TRAIN.TARGET):
        first = seen[small[0]].size
        report.warnings.append(
            f"list {name}: {len(small)} of {len(seen)} images are smaller than DATASET.CROP_SIZE ({width}x{height}), "
            f"first {root / small[0]} ({first[1]}x{first[0]}): they will be padded or enlarged; choose a smaller crop")


def check_source(pixels: dict[str, np.ndarray], cfg: CfgNode, label_set: LabelSet, report: Report) -> None:
    """Check what each source list's labels teach, and all together; `pixels`: int64 [256] by list."""
    ignored, useless = datasets.ignored(cfg), False
    trained = {name: without(counts, ignored[name]) for name, counts in pixels.items()}
    for name, counts in trained.items():
        for finding in label_findings(counts, label_set.names):
            # One of several lists may be there for a single class.
            minor = finding.name == "one_class" and len(ignored) > 1
            (report.warnings if minor else report.errors).append(f"list {name}: {finding.text}")
            useless = True
    counted = [c for c in range(label_set.num_classes) if c not in cfg.VAL.IGNORE_CLASS]
    never = [label_set.names[c] for c in counted if not any(counts[c] for counts in trained.values())]
    if never and trained and not useless:
        report.warnings.append(f"list {' + '.join(trained)}: no pixel of {', '.join(never)}; classes without labels "
                               "are not learnt (VAL.IGNORE_CLASS excludes classes)")
