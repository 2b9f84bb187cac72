"""Decode the images of lists once, so that loaders take a third of the time. Training sees the same pixels.

OUT becomes a data root like the original: lists with the same names, whose images and labels are plain BMP files; those
of the published GTA5 lists already have the size that training resizes them to (1914x1052). Train with --set
DATASET.ROOT OUT. An image with its label takes 8 MB, the 9000 training images of GTA5 take 73 GB. Existing files are
kept, so that an interrupted call can be repeated.
"""

import shutil
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.cli import Parser, UserError, run  # isort: skip

import cv2
import numpy as np

from core import config
from core.files import write_bytes
from datasets import GTA5_LISTS, lists
from datasets.images import read_image, read_label, read_pair
from datasets.lists import Sample
from datasets.transforms import resize, whole
from tools.batch.threads import parallel_map

EXAMPLES = """examples:
  python tools/cache_images.py --lists train_game_9K train_cityscapes --out data_fast
  bash launch/train.sh gta resnet101 base DATASET.ROOT data_fast
"""
HEADERS = 2000  # bytes of a BMP file in addition to its pixels, at most


def cached(name: str) -> str:
    """The path of a file in the new root."""
    return str(Path(name).with_suffix(".bmp"))


def write(path: Path, pixels: np.ndarray) -> None:
    """Write an image uint8 [H,W,3], RGB, or a label uint8 [H,W] as a BMP file, whole or not at all."""
    content = cv2.imencode(".bmp", pixels[..., ::-1] if pixels.ndim == 3 else pixels)[1].tobytes()
    write_bytes(path, content, durable=False)


def convert(sample: Sample, root: Path, out: Path, size: tuple[int, int] | None) -> None:
    """Write a sample's files.

    Args:
        sample: a line of a list, with or without a label.
        root: what its paths are relative to.
        out: the new root.
        size: height and width to resize both to, or None.

    Raises:
        UserError: a file cannot be used.
    """
    targets = [out / cached(name) for name in sample if name]
    if all(path.is_file() for path in targets):
        return
    image, label = read_pair(root, sample) if sample.label else (read_image(root / sample.image), None)
    frame = whole(image, label)
    frame = frame if size is None else resize(frame, size)
    for path, pixels, read in zip(targets, (frame.image, frame.label), (read_image, read_label), strict=False):
        write(path, pixels)
        if not np.array_equal(read(path), pixels):
            path.unlink()
            raise UserError(f"{path} does not read back as written: try another version of OpenCV")


def check_names(samples: dict[str, list[Sample]]) -> None:
    """UserError if two files would become one."""
    origins: dict[str, str] = {}
    for name in (name for entries in samples.values() for sample in entries for name in sample if name):
        if origins.setdefault(cached(name), name) != name:
            raise UserError(f"{origins[cached(name)]} and {name} would both become {cached(name)}; rename one of them")


def check_space(samples: dict[str, list[Sample]], root: Path, out: Path) -> None:
    """UserError if there is too little disk space; each list's first image stands for all of them."""
    needed = 0
    for entries in samples.values():
        pixels = read_image(root / entries[0].image).nbytes // 3
        missing = [s for s in entries if not (out / cached(s.image)).is_file()]
        needed += sum((3 + (s.label is not None)) * pixels + 2 * HEADERS for s in missing)
    out.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out).free
    count = sum(map(len, samples.values()))
    print(f"{count} images, {needed / 1e9:.1f} GB to write, {free / 1e9:.1f} GB free in {out}")
    if needed > free:
        raise UserError(f"{out} has {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB are needed: use another --out, or "
                        "fewer --lists")


def main() -> None:
    """Parse, check, convert, write the lists."""
    parser = Parser(description=__doc__, epilog=EXAMPLES)
    add = parser.add_argument
    add("--lists", nargs="+", required=True, metavar="NAME", help="lists whose images to decode")
    add("--root", default="data", metavar="DIR", help="what their paths are relative to (default: data)")
    add("--out", required=True, metavar="DIR", help="the new root")
    args = parser.parse_args()
    root, out = Path(args.root), Path(args.out)
    if out.resolve() == root.resolve():
        raise UserError(f"--out {out} is the --root: choose another folder")
    samples = {Path(name).stem: lists.read(name, args.root) for name in args.lists}
    check_names(samples)
    check_space(samples, root, out)
    game = tuple(config.defaults().DATASET.GAME_SIZE)
    for name, entries in samples.items():
        work = partial(convert, root=root, out=out, size=game if name in GTA5_LISTS else None)
        for _ in parallel_map(work, entries, desc=name):
            pass
        lists.write(out / f"{name}.txt", [Sample(cached(s.image), s.label and cached(s.label)) for s in entries])
    print(f"train with --set DATASET.ROOT {out}; lists missing there are looked up in data/, with their images "
          f"below {out}")


if __name__ == "__main__":
    run(main)
