"""Write the lists of training, validation and test images by a rule, from what is on disk.

The rule, over the sorted paths; a draw is random.Random(seed).sample, the same on every machine:
  train_game_9K, val_game_1K      GTA5's images 00001 to 10000; 1000 of them are drawn for validation
  train_synthia_9K, val_synthia   all of SYNTHIA; 400 of its 9400 are drawn for validation, and trained on
  train_cityscapes                all training images (without labels where there are none at all)
  val2_cityscapes                 500 of the 2975 training images are drawn, for choosing snapshots
  val_cityscapes                  all validation images
  test_cityscapes                 all test images, without labels
A smaller tree is divided in the same proportions, rounded, at least one image each. Labels are those that
convert_train_ids.py writes (game/labels_cs, synthia/labels_cs, cityscapes/gtFine2). A list whose images or
labels are not there is left out and named; one that exists with other lines is not replaced without --force.
"""

import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.cli import Parser, UserError, run
from core.outputs import OutputFile
from datasets import lists
from datasets.lists import Sample

EXAMPLES = """examples:
  python tools/make_lists.py --root data
  python tools/make_lists.py --root results/demo/world --seed 1
"""

GAME_IMAGES = 10_000  # of GTA5's 24966, those that training and validation share
Lists = dict[str, list[Sample]]


class LeftOut(Exception):
    """Why a list is not written: its data is not there (yet)."""


def game(root: Path, seed: int) -> Lists:
    """Two lists of GTA5 that share no image."""
    samples = find(root, "game/images/*.png", lambda image: image.replace("/images/", "/labels_cs/"))
    samples = [s for s in samples if Path(s.image).stem.isdigit() and int(Path(s.image).stem) <= GAME_IMAGES]
    if len(samples) < 2:
        raise LeftOut(f"needs at least 2 of the images 00001 to {GAME_IMAGES}")
    held_out = draw(labelled(samples, "gta"), 1000, GAME_IMAGES, seed)
    drawn = set(held_out)
    return {"train_game_9K": [s for s in samples if s not in drawn], "val_game_1K": held_out}


def synthia(root: Path, seed: int) -> Lists:
    """All of SYNTHIA, and a part of it for validation."""
    samples = find(root, "synthia/RGB/*.png", lambda image: image.replace("/RGB/", "/labels_cs/"))
    return {"train_synthia_9K": labelled(samples, "synthia"), "val_synthia": draw(samples, 400, 9400, seed)}


def cityscapes_train(root: Path, seed: int) -> Lists:
    """The target's training images; their labels serve for measuring alone."""
    return {"train_cityscapes": cityscapes(root, "train")}


def cityscapes_val2(root: Path, seed: int) -> Lists:
    """Training images for choosing snapshots."""
    return {"val2_cityscapes": draw(labelled(cityscapes(root, "train"), "cs"), 500, 2975, seed)}


def cityscapes_val(root: Path, seed: int) -> Lists:
    """The validation images."""
    return {"val_cityscapes": labelled(cityscapes(root, "val"), "cs")}


def cityscapes_test(root: Path, seed: int) -> Lists:
    """The test images, whose labels are not published."""
    return {"test_cityscapes": [Sample(s.image, None) for s in cityscapes(root, "test")]}


RULES: dict[str, Callable[[Path, int], Lists]] = {  # what a rule writes
    "train_game_9K, val_game_1K": game,
    "train_synthia_9K, val_synthia": synthia,
    "train_cityscapes": cityscapes_train,
    "val2_cityscapes": cityscapes_val2,
    "val_cityscapes": cityscapes_val,
    "test_cityscapes": cityscapes_test,
}


def cityscapes(root: Path, split: str) -> list[Sample]:
    """Images of a split, and their labels where there are any."""
    return find(
        root,
        f"cityscapes/leftImg8bit/{split}/*/*_leftImg8bit.png",
        lambda path: path.replace("/leftImg8bit/", "/gtFine2/").replace("_leftImg8bit.", "_gtFine_labelIds."),
    )


def find(root: Path, pattern: str, label_of: Callable[[str], str]) -> list[Sample]:
    """Samples of all images that match, sorted; all with labels, or all without where there are none.

    Raises:
        LeftOut: there are no images.
        UserError: there are labels, but not for every image.
    """
    images = sorted(path.relative_to(root).as_posix() for path in root.glob(pattern))
    if not images:
        raise LeftOut(f"no images {pattern}")
    pairs = [Sample(image, label_of(image)) for image in images]
    missing = [pair.label for pair in pairs if not os.path.isfile(root / pair.label)]
    if len(missing) == len(pairs):
        return [Sample(image, None) for image in images]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(pairs)} labels are missing below {root} (first: {missing[0]}); "
            "run tools/convert_train_ids.py again"
        )
    return pairs


def labelled(samples: list[Sample], dataset: str) -> list[Sample]:
    """The samples as they are; LeftOut if they have no labels."""
    if samples[0].label is None:
        raise LeftOut(f"no labels as train ids (tools/convert_train_ids.py --dataset {dataset} makes them)")
    return samples


def draw(samples: list[Sample], part: int, whole: int, seed: int) -> list[Sample]:
    """Draw `part` of `whole` samples, or as many in proportion, at least one; sorted."""
    count = max(1, (len(samples) * part + whole // 2) // whole)
    return sorted(random.Random(seed).sample(samples, min(part, count)))


def write(found: Lists, out: Path, force: bool) -> None:
    """Write the lists that are new; UserError, and nothing written, if one would replace other lines."""
    contents = {out / f"{name}.txt": lists.text(samples).encode() for name, samples in found.items()}
    same = {path for path, content in contents.items() if path.is_file() and path.read_bytes() == content}
    new = {path: OutputFile("the list", path, force) for path in contents if path not in same}
    for name, path in zip(found, contents, strict=True):
        if path in new:
            new[path].write(contents[path])
        print(f"{path}: {len(found[name])} images" + (" (unchanged)" if path in same else ""))


def main() -> None:
    """Parse the arguments and write what can be written."""
    parser = Parser(description=__doc__, epilog=EXAMPLES)
    parser.add_argument("--root", required=True, type=Path, help="folder of game, synthia, cityscapes")
    parser.add_argument("--out", type=Path, help="folder for the lists; default: --root")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default 0)")
    parser.add_argument("--force", action="store_true", help="replace lists that have other lines")
    args = parser.parse_args()
    if not args.root.is_dir():
        raise UserError(f"--root {args.root}: there is no such folder")

    found, left_out = {}, {}
    for names, rule in RULES.items():
        try:
            found |= rule(args.root, args.seed)
        except LeftOut as reason:
            left_out[names] = str(reason)
    if not found:
        raise UserError(f"{args.root}: nothing to make a list of; expected game, synthia or cityscapes in it")
    write(found, args.out or args.root, args.force)
    for names, reason in left_out.items():
        print(f"left out: {names}: {reason}")


if __name__ == "__main__":
    run(main)
