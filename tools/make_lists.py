"""Write the lists of training, validation and test images that are on disk.

With --dataset, the lists are those named in its file in configs/domains; without:
  train_game_9K, val_game_1K      GTA5's images 00001 to 10000; 1000 of them are held out for validation
  train_synthia_9K, val_synthia   all of SYNTHIA; 400 of its 9400 are also validated on
  train_cityscapes                all training images (without labels if there are none at all)
  val2_cityscapes                 500 of the 2975 training images, for choosing snapshots
  val_cityscapes                  all validation images
  test_cityscapes                 all test images, without labels
val_game_1K, val_synthia and val2_cityscapes contain those images of the published lists (tools/splits) that are on
disk. If there are none, as with another data set in the same folders, they are drawn from the sorted paths with
random.Random(seed).sample, the same on every machine; a smaller tree is split in the same proportions, rounded, at
least one image each. Labels are those written by convert_train_ids.py. A list whose images or labels are missing is
left out and reported; an existing list with other lines is only replaced with --force.
"""

import os
import random
import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.cli import Parser, UserError, run  # isort: skip

from core.outputs import OutputFile
from datasets import lists
from datasets.lists import Sample
from tools.domain import domains
from tools.domain.domains import Domain, Found, ListRule

EXAMPLES = """examples:
  python tools/make_lists.py --root data
  python tools/make_lists.py --root results/demo/world --seed 1
  python tools/make_lists.py --root data --dataset acdc
"""

SPLITS = Path(__file__).parent / "splits"
PUBLISHED = ("gta", "synthia", "cityscapes")


class LeftOut(Exception):
    """Why a list is not written: its data is missing."""


def of_domain(domain: Domain, root: Path, seed: int) -> tuple[dict[str, list[Sample]], dict[str, str]]:
    """A domain's lists, and why others are left out."""
    made: dict[str, list[Sample]] = {}
    left_out: dict[str, str] = {}
    found = domains.find(domain, root)
    # Lists that others exclude come first.
    for name in sorted(domain.lists, key=lambda name: domain.lists[name].without != ""):
        rule = domain.lists[name]
        try:
            samples = labelled(domain, rule, chosen(domain, rule, found), root)
            made[name] = part(name, rule, samples, seed) if rule.drawn_of else rest(rule, samples, made)
        except LeftOut as reason:
            left_out[name] = str(reason)
    return tuple({name: group[name] for name in domain.lists if name in group} for group in (made, left_out))


def chosen(domain: Domain, rule: ListRule, found: list[Found]) -> list[Found]:
    """The images that a list may contain; LeftOut if there are none."""
    kept = [one for one in found if all(one.values[key] in values for key, values in rule.where.items())]
    if not kept:
        fixed = {key: values[0] for key, values in rule.where.items() if len(values) == 1}
        raise LeftOut(f"no images {domain.images.fill(fixed)}")
    last = rule.numbered_to
    if last:
        kept = [one for one in kept if (number := one.values["name"]).isdecimal() and int(number) <= last]
        if not kept:
            raise LeftOut(f"none of the images 00001 to {last:05d}")
    return kept


def labelled(domain: Domain, rule: ListRule, found: list[Found], root: Path) -> list[Sample]:
    """Samples, all with labels or, if the list allows it and there are none, all without.

    Raises:
        LeftOut: the list needs labels, and there are none.
        UserError: there are labels, but not for every image.
    """
    pairs = [Sample(one.image, one.label or None) for one in found]
    without = [Sample(pair.image, None) for pair in pairs]
    missing = [pair.label for pair in pairs if not (pair.label and os.path.isfile(root / pair.label))]
    if rule.labels == "none" or (rule.labels == "optional" and len(missing) == len(pairs)):
        return without
    if len(missing) == len(pairs):
        raise LeftOut(f"no train-ID labels (make them with tools/convert_train_ids.py --dataset {short_name(domain)})")
    if missing:
        raise UserError(f"{len(missing)} of {len(pairs)} labels are missing below {root} (first: {missing[0]}); "
                        "run tools/convert_train_ids.py again")
    return pairs


def short_name(domain: Domain) -> str:
    """The domain as an argument of --dataset."""
    return domain.sources[0] if domain.sources else domain.name


def rest(rule: ListRule, samples: list[Sample], made: Mapping[str, list[Sample]]) -> list[Sample]:
    """The samples that are not in the list `without`; LeftOut if there are none."""
    held_out = set(made.get(rule.without, ()))
    if len(held_out) == len(samples):
        raise LeftOut(f"no images besides those of {rule.without}")
    return [sample for sample in samples if sample not in held_out]


def published(name: str) -> frozenset[str]:
    """Names of the images in a published drawn list, without ending and `_leftImg8bit`; empty if unknown."""
    names, path = set(), SPLITS / f"{name}.txt"
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        if not line.startswith("#"):
            city, colon, numbers = line.rpartition(":")
            names |= {f"{city}_{number}" if colon else number for number in numbers.split()}
    return frozenset(names)


def of_published(name: str, samples: list[Sample]) -> list[Sample]:
    """The samples whose images are in the published list."""
    names = published(name)
    return [s for s in samples if Path(s.image).stem.removesuffix("_leftImg8bit") in names]


def part(name: str, rule: ListRule, samples: list[Sample], seed: int) -> list[Sample]:
    """The samples of a drawn list: the published ones or, if there are none, a draw."""
    return of_published(name, samples) or draw(samples, rule.images, rule.drawn_of, seed)


def draw(samples: list[Sample], count: int, whole: int, seed: int) -> list[Sample]:
    """Draw `count` of `whole` samples, or the same proportion of fewer, at least one; sorted."""
    share = max(1, (len(samples) * count + whole // 2) // whole)
    return sorted(random.Random(seed).sample(samples, min(count, share)))


def origin(name: str, samples: list[Sample]) -> str:
    """Where a drawn list comes from, if there is a published one of that name."""
    whole, there = len(published(name)), len(of_published(name, samples))
    if not whole:
        return ""
    if not there:
        return f", drawn with --seed: none of the {whole} published images is here"
    return ", as published" if there == whole else f", those of the {whole} published images that are here"


def write(found: dict[str, list[Sample]], out: Path, force: bool) -> None:
    """Write the lists that are new; UserError, with nothing written, if one would replace other lines."""
    contents = {out / f"{name}.txt": lists.text(samples).encode() for name, samples in found.items()}
    same = {path for path, content in contents.items() if path.is_file() and path.read_bytes() == content}
    new = {path: OutputFile("the list", path, force) for path in contents if path not in same}
    for (name, samples), path in zip(found.items(), contents, strict=True):
        if path in new:
            new[path].write(contents[path])
        print(f"{path}: {len(samples)} images{origin(name, samples)}" + (" (unchanged)" if path in same else ""))


def arguments() -> Namespace:
    """The command line."""
    parser = Parser(description=__doc__, epilog=EXAMPLES)
    parser.add_argument("--dataset", metavar="NAME|FILE", help=f"{', '.join(domains.names())}, or a YAML file "
                        f"(default: {', '.join(PUBLISHED)}, as far as present)")
    parser.add_argument("--root", type=Path, help="folder of the data (default: data, or as in the YAML file)")
    parser.add_argument("--out", type=Path, help="folder for the lists; default: --root")
    parser.add_argument("--seed", type=int, default=0, help="seed of drawn lists (default 0)")
    parser.add_argument("--force", action="store_true", help="replace existing lists with other lines")
    return parser.parse_args()


def main() -> None:
    """Parse the arguments and write what can be written."""
    args = arguments()
    wanted = [domains.load(name) for name in ([args.dataset] if args.dataset else PUBLISHED)]
    root = args.root or Path(wanted[0].root)
    if not root.is_dir():
        raise UserError(f"--root {root}: there is no such folder")
    found: dict[str, list[Sample]] = {}
    left_out: dict[str, list[str]] = {}  # reason -> names
    for domain in wanted:
        made, missing = of_domain(domain, root, args.seed)
        found |= made
        for name, reason in missing.items():
            left_out.setdefault(reason, []).append(name)
    if not found:
        expected = " or ".join(domain.images.folder or domain.images.text for domain in wanted)
        reasons = "; ".join(left_out) if args.dataset else f"expected {expected} in it"
        raise UserError(f"{root}: nothing to list; {reasons or 'the file names no lists'}")
    write(found, args.out or root, args.force)
    for reason, names in left_out.items():
        print(f"left out: {', '.join(names)}: {reason}")
    if args.dataset and wanted[0].licence:
        print(f"licence of {wanted[0].name}: {wanted[0].licence}")


if __name__ == "__main__":
    run(main)
