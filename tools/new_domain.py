"""Inspect your own images and labels, and propose the files that adaptation needs; you only name the classes.

Source images need labels: PNGs of raw IDs (grey or palette) or colours, with the names of the images apart from the
beginning or ending, in folders of the same names or in a single one. Target images need none. With the default --out,
these files are written:
  configs/own.yaml          training configuration: crop, scales, statistics
  configs/own_classes.yaml  the classes that occur, with their shares: name them
  configs/own_source.yaml   where images and labels are, for --dataset of convert_train_ids.py and make_lists.py
  configs/own_target.yaml
  own_source.txt, own_target.txt (and own_val.txt, with --target-labels) in the folder that contains all images
"""

import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.cli import Parser, UserError, run  # isort: skip

import numpy as np

from core.files import find_files
from core.outputs import OutputFile
from datasets import lists
from datasets.images import SUFFIXES
from datasets.lists import Sample
from tools.domain import look, propose
from tools.domain.look import Values
from tools.domain.pairs import Rule, find_rule

EXAMPLES = """examples:
  python tools/new_domain.py --source-images data/own/game/images --source-labels data/own/game/labels \\
      --target-images data/own/street --out configs/own.yaml
"""


class Place(NamedTuple):
    """A domain's files."""

    images: list[Path]
    labels: list[Path]  # one per image; [] if there are none
    patterns: tuple[str, str, str]  # of images, labels, converted labels
    samples: list[Sample]


def place(images: Path, labels: Path | None, root: Path, ending: str) -> Place:
    """The images of a folder with their labels in another; UserError if a folder is empty or labels do not match."""
    below = Path(os.path.relpath(images, root)).as_posix()
    found = [path for path in find_files(folder_of(images), SUFFIXES) if not (labels and labels in path.parents
             and labels != images)]
    if labels == images:
        found = [path for path in found if not path.name.lower().endswith(ending.lower())] if ending else found
    if not found:
        raise UserError(f"{images}: no images ({', '.join(SUFFIXES)}) in this folder")
    names = [path.relative_to(images) for path in found]
    prefix = "" if below == "." else f"{below}/"
    if labels is None:
        samples = [Sample(f"{prefix}{name.as_posix()}", None) for name in names]
        return Place(found, [], (Rule().patterns(prefix, "", "")[0], "", ""), samples)
    masks = find_files(folder_of(labels), (ending or ".png",))
    if not masks:
        raise UserError(f"{labels}: no labels *{ending or '.png'} in this folder")
    there = [mask.relative_to(labels).as_posix() for mask in masks]
    rule = find_rule([name.as_posix() for name in names], there, str(labels))
    raw = Path(os.path.relpath(labels, root)).as_posix()
    ids = "train_ids" if raw == "." else f"{raw}_train_ids"
    stems = [rule.apply(name) for name in names]
    samples = [Sample(prefix + name.as_posix(), f"{ids}/{stem}.png") for name, stem in zip(names, stems, strict=True)]
    patterns = rule.patterns(prefix, "" if raw == "." else f"{raw}/", f"{ids}/")
    return Place(found, [labels / f"{stem}.png" for stem in stems], patterns, samples)


def folder_of(path: Path) -> Path:
    """The folder; UserError if it does not exist, or its path cannot be part of a pattern."""
    if not path.is_dir():
        raise UserError(f"{path}: there is no such folder")
    if any(c in str(path) for c in "{}'"):
        raise UserError(f"{path}: braces and quotes have a special meaning in the files to write; rename the folder")
    return path


def check_sizes(images: np.ndarray, labels: np.ndarray, files: Place) -> None:
    """UserError if the size of an image differs from its label's; sizes int [N,2]."""
    if (differ := np.flatnonzero((images != labels).any(1))).size:
        i = differ[0]
        image, label = ("x".join(map(str, size[::-1])) for size in (images[i], labels[i]))
        raise UserError(f"{files.images[i]} is {image}, its label {files.labels[i]} is {label}; they must have the "
                        "same size")


def arguments() -> Namespace:
    """The command line."""
    parser = Parser(description=__doc__, epilog=EXAMPLES)
    parser.add_argument("--source-images", required=True, type=Path, metavar="DIR", help="source images")
    parser.add_argument("--source-labels", required=True, type=Path, metavar="DIR", help="their labels")
    parser.add_argument("--target-images", required=True, type=Path, metavar="DIR", help="target images")
    parser.add_argument("--target-labels", type=Path, metavar="DIR", help="labels of all of them, for evaluation only")
    parser.add_argument("--label-ending", default="", metavar="TEXT",
                        help="ending of label names, such as _labelIds.png, if the folder contains other files as well")
    parser.add_argument("--out", type=Path, default="configs/own.yaml", metavar="FILE", help="default: %(default)s")
    parser.add_argument("--force", action="store_true", help="replace existing files")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="threads; 0 = one per core")
    args = parser.parse_args()
    if args.out.suffix not in (".yaml", ".yml"):
        raise UserError(f"--out {args.out}: expected a name that ends in .yaml")
    return args


def see_labels(files: Place, sizes: np.ndarray, workers: int) -> Values:
    """What the labels contain; UserError if their sizes differ from the images', int [N,2]."""
    values = look.at_labels(files.labels, workers, "labels")
    check_sizes(sizes, values.sizes, files)
    return values


def data_root(args: Namespace) -> Path:
    """The folder that contains all files; relative if it is below the working directory."""
    folders = (args.source_images, args.source_labels, args.target_images, args.target_labels)
    shared = os.path.commonpath([os.path.abspath(folder) for folder in folders if folder])
    relative = os.path.relpath(shared)
    return Path(shared if relative.startswith("..") else relative)


def list_contents(name: str, root: Path, source: Place, target: Place) -> dict[Path, str]:
    """The lists to write; target labels get a list of their own."""
    found = {"source": source.samples, "target": [Sample(s.image, None) for s in target.samples]}
    found |= {"val": target.samples} if target.labels else {}
    return {root / f"{name}_{kind}.txt": lists.text(samples) for kind, samples in found.items()}


def main() -> None:
    """Inspect, propose, write."""
    args = arguments()
    root = data_root(args)
    source = place(args.source_images, args.source_labels, root, args.label_ending)
    target = place(args.target_images, args.target_labels, root, args.label_ending)
    lists.mask_names(target.samples)  # fails now if two images would share a mask
    name, base = args.out.stem, args.out.with_suffix("").as_posix()
    classes, val = f"{base}_classes.yaml", f"{name}_val" if target.labels else ""
    contents = list_contents(name, root, source, target)
    files = [*contents, args.out, *(Path(f"{base}_{kind}.yaml") for kind in ("classes", "source", "target"))]
    if there := [str(path) for path in files if path.exists() and not args.force]:
        raise UserError(f"{', '.join(there)} already exist; --force replaces them, including your changes")
    outputs = {path: OutputFile("--out", path, args.force, [*source.labels, *target.labels]) for path in files}

    seen, over = (look.at_images(p.images, args.workers, what) for p, what in ((source, "source"), (target, "target")))
    values = see_labels(source, seen.sizes, args.workers)
    encoding = see_labels(target, over.sizes, args.workers).encoding if target.labels else ""
    shape = propose.geometry(seen.sizes, over.sizes)
    settings = {"task": f"{name}_source", "target": f"{name}_target", "val": val, "root": root.as_posix(),
                "classes": classes, "batch": min(8, len(source.images)), "groups": min(2, len(target.images))}
    contents |= {
        args.out: propose.config_text(settings, seen, over, shape),
        Path(classes): propose.classes_text(values),
        Path(f"{base}_source.yaml"): propose.domain_text(settings, source.patterns, values.encoding, f"{name}_source"),
        Path(f"{base}_target.yaml"): propose.domain_text(settings, target.patterns, encoding, val or f"{name}_target"),
    }
    for path, text in contents.items():
        outputs[path].write(text.encode())
        print(f"{path} written")
    for what, domain, sizes in (("source", source, seen.sizes), ("target", target, over.sizes)):
        (low, high), (lowest, highest) = sizes.T.min(1)[::-1], sizes.T.max(1)[::-1]
        print(f"{what}: {len(domain.images)} images of {low}x{high} to {lowest}x{highest} pixels")
    print(f"{len(values.pixels)} values in the labels ({values.encoding}); crop {shape.crop[1]}x{shape.crop[0]}, "
          f"source scaled by {shape.scale[0]} to {shape.scale[1]}; now name the classes in {classes}")


if __name__ == "__main__":
    run(main)
