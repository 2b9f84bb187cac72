"""Check everything that a training run will read, before the run: lists, images, labels, weights.

An error would stop the run or spoil its result: fix all of them before training. A warning may be intentional. Each
message names the file, the problem and the fix. Exit status: 0 no errors, 1 errors, 2 the check could not run.
"""

import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.cli import KEY_VALUE, Parser, UserError, run  # isort: skip

from yacs.config import CfgNode

import datasets
import models
from core import config
from datasets import labels, lists, sampling
from datasets.lists import Sample
from tools.doctor.expected import EXPECTED
from tools.doctor.files import Report, check_files

EXAMPLES = """examples:
  python tools/check_data.py --cfg configs/deeplabv2_resnet101_train.yaml
  python tools/check_data.py --cfg configs/custom_example.yaml --set DATASET.ROOT data/own
"""


def read_lists(cfg: CfgNode, report: Report) -> tuple[dict[str, list[Sample]], str]:
    """The run's lists by name, and the name of the one that selects snapshots; problems go into the report."""
    validated, missing, select = list(cfg.VAL.LISTS), [], cfg.VAL.SELECT
    try:
        validated, missing, select = datasets.validation_lists(cfg)
    except UserError as error:
        report.errors.append(str(error))
    found = {}
    for name in dict.fromkeys((*cfg.TRAIN.TASK, cfg.TRAIN.TARGET, *validated)):
        try:
            found[name] = lists.read(name, cfg.DATASET.ROOT, labels=name in (*cfg.TRAIN.TASK, *validated))
        except UserError as error:
            report.errors.append(str(error))
    for name in missing:
        (report.errors if name in cfg.VAL.LISTS else report.warnings).append(
            f"list {name} does not exist, so validation skips it; tools/make_lists.py writes the published lists")
    for name, samples in found.items():
        check_list(name, samples, report)
    return found, select


def check_start(cfg: CfgNode, report: Report) -> None:
    """Run the checks that train.py runs before its first iteration."""
    try:
        datasets.Data(cfg)
    except UserError as error:
        if not any(str(error) in line for line in report.errors):
            report.errors.append(str(error))


def check_weights_to_start_from(cfg: CfgNode, num_classes: int, report: Report) -> None:
    """Check that the network's ImageNet weights exist and fit."""
    try:
        if cfg.MODEL.INIT_MODEL:
            models.build(cfg.MODEL.ARCH, num_classes, cfg.MODEL.INIT_MODEL, **config.network_options(cfg))
    except UserError as error:
        if cfg.MODEL.BASELINE:
            report.errors.append(str(error))
        else:
            report.warnings.append(f"{error} (not needed if --resume names a baseline snapshot)")


def check_list(name: str, samples: list[Sample], report: Report) -> None:
    """Check for missing samples, duplicates, and labels for only some of the samples."""
    expected = EXPECTED.get(name) or len(samples)
    if len(samples) != expected:
        # Half of a data set or more: files are missing. A hundredth: a small subset, made on purpose.
        holes = 2 * len(samples) >= expected
        advice = "check for missing downloads, then run tools/make_lists.py again" if holes else "is this intentional?"
        (report.errors if holes else report.warnings).append(
            f"list {name}: {len(samples)} images, but the published list has {expected}; {advice}")
    twice = [image for image, count in Counter(s.image for s in samples).items() if count > 1]
    if twice:
        report.errors.append(
            f"list {name}: {len(twice)} images are listed more than once, first {twice[0]}; remove the duplicates")
    without = [s.image for s in samples if s.label is None]
    if 0 < len(without) < len(samples):
        report.errors.append(
            f"list {name}: {len(without)} of {len(samples)} lines have no label, first {without[0]}; "
            "give all of them a label, or none")


def check_overlaps(cfg: CfgNode, found: dict[str, list[Sample]], select: str, report: Report) -> None:
    """Warn about validation lists that share images with the training lists."""
    training = {name: {s.image for s in found.get(name, ())} for name in (*cfg.TRAIN.TASK, cfg.TRAIN.TARGET)}
    for name, samples in found.items():
        for trained, images in training.items():
            shared = sum(s.image in images for s in samples)
            if shared and name not in training:
                role = ", which selects snapshots," if name == select else ""
                report.warnings.append(
                    f"list {name}{role} shares {shared} of its {len(samples)} images with the training list "
                    f"{trained}: its mIoU is not measured on unseen images")


def check_weights(cfg: CfgNode, samples: list[Sample], num_classes: int, report: Report) -> None:
    """Check that the target's mask names are distinct and that the importance weights match them."""
    data, name = cfg.DATASET, f"list {cfg.TRAIN.TARGET}"
    try:
        names = lists.mask_names(samples)
        if data.SAMPLE_WEIGHTS:
            name, ignore = data.SAMPLE_WEIGHTS, list(cfg.VAL.IGNORE_CLASS)
            weights = sampling.load_weights(name)
            sampling.cumulative_tables(weights, names, num_classes, data.SAMPLE_UNIFORM_PRIOR, ignore)
    except UserError as error:
        report.errors.append(str(error) if name in str(error) else f"{name}: {error}")


def check_age(classes: str, root: Path, samples: list[Sample], report: Report) -> None:
    """Warn about labels that were converted before the label set's file was last changed."""
    if not Path(classes).is_file():
        return
    changed = Path(classes).stat().st_mtime
    paths = [root / s.label for s in samples if s.label]
    older = [path for path in paths if path.is_file() and path.stat().st_mtime < changed]
    if older:
        report.warnings.append(f"{classes} has changed since {len(older)} labels were converted, first {older[0]}; run "
                               "tools/convert_train_ids.py again with --force unless only names or colours changed")


def print_report(report: Report, limit: int) -> None:
    """Print errors, up to the limit, and all warnings."""
    for line in report.errors[:limit]:
        print(f"error: {line}")
    if len(report.errors) > limit:
        print(f"... and {len(report.errors) - limit} more errors (--limit {len(report.errors)} prints them all)")
    for line in report.warnings:
        print(f"warning: {line}")


def main() -> None:
    """Parse, check, print; exit with status 1 if there are errors."""
    parser = Parser(description=__doc__, epilog=EXAMPLES)
    parser.add_argument("--cfg", required=True, metavar="FILE", help="configuration of the run, YAML")
    parser.add_argument("--limit", type=int, default=50, metavar="N", help="errors to print (default 50)")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="threads; 0 = one per core")
    parser.add_argument("--set", **KEY_VALUE)
    args = parser.parse_args()
    if args.limit < 0:
        raise UserError(f"--limit {args.limit}: expected 0 or more")
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
    sources = [sample for name in cfg.TRAIN.TASK for sample in found.get(name, ())]
    check_age(cfg.DATASET.CLASSES, Path(cfg.DATASET.ROOT), sources, report)
    check_start(cfg, report)
    check_weights_to_start_from(cfg, label_set.num_classes, report)
    files = check_files(found, cfg, label_set, args.workers)
    report = Report(*(list(dict.fromkeys(a + b)) for a, b in zip(report, files, strict=True)))
    print_report(report, args.limit)
    images = len({s.image for entries in found.values() for s in entries})
    print(f"{len(report.errors)} errors, {len(report.warnings)} warnings; {images} images in {len(found)} lists")
    if report.errors:
        sys.exit(1)


if __name__ == "__main__":
    run(main)
