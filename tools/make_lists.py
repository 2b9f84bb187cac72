"""Write the lists of training, validation and test images, from what is on disk.

  train_game_9K, val_game_1K      GTA5's images 00001 to 10000; 1000 of them are held out for validation
  train_synthia_9K, val_synthia   all of SYNTHIA; 400 of its 9400 are also validated on
  train_cityscapes                all training images (without labels where there are none at all)
  val2_cityscapes                 500 of the 2975 training images, for choosing snapshots
  val_cityscapes                  all validation images
  test_cityscapes                 all test images, without labels
val_game_1K, val_synthia and val2_cityscapes hold the images of the published lists (tools/splits), as far as they are
on disk. Where none of them is, as in another data set in the same folders, they are drawn from the sorted paths by
random.Random(seed).sample, the same on every machine; a smaller tree is divided in the same proportions, rounded, at
least one image each. Labels are those that convert_train_ids.py writes (game/labels_cs, synthia/labels_cs,
cityscapes/gtFine2). A list whose images or labels are not there is left out and named; one that exists with other lines
is not replaced without --force.
"""

import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.cli import Parser, UserError, run  # isort: skip

from core.files import find_files
from core.outputs import OutputFile
from datasets import lists
from datasets.lists import Sample

EXAMPLES = """examples:
  python tools/make_lists.py --root data
  python tools/make_lists.py --root results/demo/world --seed 1
"""

SPLITS = Path(__file__).parent / "splits"
DRAWN = {"val_game_1K": 10_000, "val_synthia": 9400, "val2_cityscapes": 2975}  # of so many images


class LeftOut(Exception):
    """Why a list is not written: its data is not there (yet)."""


def game(root: Path) -> list[Sample]:
    """GTA5's images that training and validation share: of its 24966, the first ten thousand."""
    samples = find(root, "game/images/*.png", lambda image: image.replace("/images/", "/labels_cs/"))
    last = DRAWN["val_game_1K"]
    numbered = [s for s in samples if (number := Path(s.image).stem).isdecimal() and int(number) <= last]
    if not numbered:
        raise LeftOut(f"none of the images 00001 to {last:05d}")
    return labelled(numbered, "gta")


def game_val(root: Path, seed: int) -> list[Sample]:
    """GTA5's images that are held out."""
    return part("val_game_1K", game(root), seed)


def game_train(root: Path, seed: int) -> list[Sample]:
    """GTA5's other images."""
    samples = game(root)
    held_out = set(part("val_game_1K", samples, seed))
    if len(held_out) == len(samples):
        raise LeftOut("no image beside those of val_game_1K")
    return [s for s in samples if s not in held_out]


def synthia(root: Path, seed: int) -> list[Sample]:
    """All of SYNTHIA."""
    samples = find(root, "synthia/RGB/*.png", lambda image: image.replace("/RGB/", "/labels_cs/"))
    return labelled(samples, "synthia")


def synthia_val(root: Path, seed: int) -> list[Sample]:
    """A part of SYNTHIA for validation."""
    return part("val_synthia", synthia(root, seed), seed)


def cityscapes_train(root: Path, seed: int) -> list[Sample]:
    """The target's training images; their labels serve for measuring alone."""
    return cityscapes(root, "train")


def cityscapes_val2(root: Path, seed: int) -> list[Sample]:
    """Training images for choosing snapshots."""
    return part("val2_cityscapes", labelled(cityscapes(root, "train"), "cs"), seed)


def cityscapes_val(root: Path, seed: int) -> list[Sample]:
    """The validation images."""
    return labelled(cityscapes(root, "val"), "cs")


def cityscapes_test(root: Path, seed: int) -> list[Sample]:
    """The test images, whose labels are not published."""
    return [Sample(s.image, None) for s in cityscapes(root, "test")]


RULES: dict[str, Callable[[Path, int], list[Sample]]] = {  # root, seed -> the list's samples
    "train_game_9K": game_train,
    "val_game_1K": game_val,
    "train_synthia_9K": synthia,
    "val_synthia": synthia_val,
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
    folder, depth = root / pattern.partition("*")[0], pattern.count("/")
    ending = pattern.rpartition("*")[2]
    files = find_files(folder, (ending,)) if folder.is_dir() else []
    images = [name for path in files if (name := path.relative_to(root).as_posix()).count("/") == depth]
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


def published(name: str) -> frozenset[str]:
    """Names of the images that a list of DRAWN holds as published, without ending and `_leftImg8bit`."""
    names = set()
    for line in (SPLITS / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            city, colon, numbers = line.rpartition(":")
            names |= {f"{city}_{number}" if colon else number for number in numbers.split()}
    return frozenset(names)


def of_published(name: str, samples: list[Sample]) -> list[Sample]:
    """The samples whose images a list of DRAWN holds as published."""
    names = published(name)
    return [s for s in samples if Path(s.image).stem.removesuffix("_leftImg8bit") in names]


def part(name: str, samples: list[Sample], seed: int) -> list[Sample]:
    """The samples of a list of DRAWN: those that are published or, where there are none, a draw."""
    return of_published(name, samples) or draw(samples, len(published(name)), DRAWN[name], seed)


def draw(samples: list[Sample], count: int, whole: int, seed: int) -> list[Sample]:
    """Draw `count` of `whole` samples, or as many in proportion, at least one; sorted."""
    share = max(1, (len(samples) * count + whole // 2) // whole)
    return sorted(random.Random(seed).sample(samples, min(count, share)))


def origin(name: str, samples: list[Sample]) -> str:
    """Where a list of DRAWN comes from; "" for the others."""
    if name not in DRAWN:
        return ""
    whole, there = len(published(name)), len(of_published(name, samples))
    if not there:
        return f", drawn by --seed: none of the {whole} published ones is here"
    return ", as published" if there == whole else f", those of the {whole} published ones that are here"


def write(found: dict[str, list[Sample]], out: Path, force: bool) -> None:
    """Write the lists that are new; UserError, and nothing written, if one would replace other lines."""
    contents = {out / f"{name}.txt": lists.text(samples).encode() for name, samples in found.items()}
    same = {path for path, content in contents.items() if path.is_file() and path.read_bytes() == content}
    new = {path: OutputFile("the list", path, force) for path in contents if path not in same}
    for (name, samples), path in zip(found.items(), contents, strict=True):
        if path in new:
            new[path].write(contents[path])
        print(f"{path}: {len(samples)} images{origin(name, samples)}" + (" (unchanged)" if path in same else ""))


def main() -> None:
    """Parse the arguments and write what can be written."""
    parser = Parser(description=__doc__, epilog=EXAMPLES)
    parser.add_argument("--root", required=True, type=Path, help="folder of game, synthia, cityscapes")
    parser.add_argument("--out", type=Path, help="folder for the lists; default: --root")
    parser.add_argument("--seed", type=int, default=0, help="of the lists that are drawn (default 0)")
    parser.add_argument("--force", action="store_true", help="replace lists that have other lines")
    args = parser.parse_args()
    if not args.root.is_dir():
        raise UserError(f"--root {args.root}: there is no such folder")

    found: dict[str, list[Sample]] = {}
    left_out: dict[str, list[str]] = {}  # reason -> names
    for name, rule in RULES.items():
        try:
            found[name] = rule(args.root, args.seed)
        except LeftOut as reason:
            left_out.setdefault(str(reason), []).append(name)
    if not found:
        raise UserError(f"{args.root}: nothing to make a list of; expected game, synthia or cityscapes in it")
    write(found, args.out or args.root, args.force)
    for reason, names in left_out.items():
        print(f"left out: {', '.join(names)}: {reason}")


if __name__ == "__main__":
    run(main)
