"""Render toy worlds: procedural street scenes in the folder layout and raw formats of the real data sets.

  gta         game/images, game/labels        a sunlit game; labels are palette PNGs of label IDs
  synthia     synthia/RGB, synthia/GT/LABELS  another game; labels are 16-bit RGB PNGs with the class in red
  cityscapes  cityscapes/leftImg8bit, gtFine  the "real" world: overcast, another camera; train, val, and test
                                              without labels

An image depends only on --seed, its world and its number. An interrupted command resumes; folders with other content
are left alone.
"""

import argparse
import json
import multiprocessing
import sys
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.cli import SEED, WORKERS, Parser, UserError, cores, run, whole  # isort: skip

import cv2
import numpy as np
from PIL import Image

from core.files import read_bytes, write_bytes
from core.outputs import OutputFile
from core.progress import bar
from datasets.labels import CITYSCAPES
from tools.domain import domains
from tools.streets.render import LABEL_IDS, render
from tools.streets.worlds import GAME, REAL, SYNTHIA, calm

EXAMPLES = """examples:
  python tools/make_streets.py --out data --worlds gta,cityscapes
  python tools/make_streets.py --out toy --seed 1 --gta 20 --synthia 20 --train 20 --val 5 --size 2048x1024
  python tools/make_streets.py --out toy --worlds gta,cityscapes --sheet docs/images/toy_worlds.png
"""

STYLES = {"gta": GAME, "synthia": SYNTHIA, "cityscapes": REAL}
FOLDERS = {"gta": "game", "synthia": "synthia", "cityscapes": "cityscapes"}
SIZES = {"gta": "480x264", "synthia": "400x238", "cityscapes": "512x256"}
STREAMS = {"gta": 300, "synthia": 300, "train": 200, "val": 40, "test": 8}  # images; the order is part of the seed
CITIES = {  # made up
    "train": ("ahrenfeld", "birkental", "castelhof"),
    "val": ("lindenau", "rosenhain"),
    "test": ("tannbruck",),
}
INSTANCES = [LABEL_IDS[name] for name in ("person", "rider", "car", "truck", "bus", "bicycle")]
SETTINGS = "toy_streets.json"  # in --out: which worlds this command rendered there, and how
SYNTHIA_IDS = domains.load("synthia").classes.raw_to_train
PALETTE = CITYSCAPES.palette()[CITYSCAPES.to_train()]  # uint8 [256,3], by label ID


class Scene(NamedTuple):
    """One image to render, and where it goes."""

    world: str
    size: tuple[int, int]  # width, height
    seed: tuple[int, int, int]  # --seed, stream, number
    image: Path
    label: Path | None
    calm: bool = False


def plan(out: Path, stream: str, number: int, seed: int, size: tuple[int, int]) -> Scene:
    """The scene with this number, named as in the real data set."""
    key = (seed, list(STREAMS).index(stream), number)
    if stream == "gta":
        name = f"{number + 1:05d}.png"
        return Scene("gta", size, key, out / "game/images" / name, out / "game/labels" / name)
    if stream == "synthia":
        name = f"{number:07d}.png"
        return Scene("synthia", size, key, out / "synthia/RGB" / name, out / "synthia/GT/LABELS" / name)
    cities = CITIES[stream]
    city, root = cities[number % len(cities)], out / "cityscapes"
    name = f"{stream}/{city}/{city}_{number // len(cities):06d}_000019"
    label = None if stream == "test" else root / "gtFine" / f"{name}_gtFine_labelIds.png"
    return Scene("cityscapes", size, key, root / "leftImg8bit" / f"{name}_leftImg8bit.png", label)


def draw(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """The image, uint8 RGB [H,W,3], and its label IDs, uint8 [H,W]."""
    style = calm(STYLES[scene.world]) if scene.calm else STYLES[scene.world]
    return render(style, *scene.size, np.random.default_rng(scene.seed))


def encode_png(image: np.ndarray) -> bytes:
    """Encode a grey [H,W] or RGB [H,W,3] image of 8 or 16 bits as a PNG."""
    image = image if image.ndim == 2 else image[..., ::-1]  # OpenCV's order is BGR
    return cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def encode_label(world: str, label: np.ndarray) -> bytes:
    """Encode label IDs, uint8 [H,W], as a label file in the world's format."""
    if world == "cityscapes":
        return encode_png(label)
    if world == "gta":
        image, content = Image.fromarray(label), BytesIO()
        image.putpalette(PALETTE.tobytes())
        image.save(content, "PNG", compress_level=1)
        return content.getvalue()
    classes = np.zeros(256, np.uint16)
    for raw, train in SYNTHIA_IDS.items():
        classes[CITYSCAPES.to_raw()[train]] = raw
    _, instances = cv2.connectedComponents(np.isin(label, INSTANCES).astype(np.uint8))
    channels = [classes[label], instances, np.zeros_like(instances)]
    return encode_png(np.stack(channels, axis=-1).astype(np.uint16))


def make(scene: Scene) -> bool:
    """Render and write a scene; False if it already exists."""
    if scene.image.exists() and (scene.label is None or scene.label.exists()):
        return False
    image, label = draw(scene)
    write_bytes(scene.image, encode_png(image), durable=False)
    if scene.label is not None:
        write_bytes(scene.label, encode_label(scene.world, label), durable=False)
    return True


def make_all(scenes: list[Scene], workers: int) -> Iterator[bool]:
    """Yield `make` of every scene, in several processes, since threads would take turns."""
    watched = partial(bar, desc="rendering", total=len(scenes), unit="image")
    workers = min(workers or cores(), len(scenes))
    if workers == 1:
        yield from watched(map(make, scenes))
        return
    with multiprocessing.get_context("fork").Pool(workers, cv2.setNumThreads, (1,)) as pool:
        yield from watched(pool.imap(make, scenes, chunksize=4))


def contact_sheet(columns: list[list[Scene]]) -> bytes:
    """Image and label of every scene, one column per world: a PNG of 256 colours, 1600 pixels wide."""
    size = 800 // len(columns), 450 // len(columns)

    def pair(scene: Scene) -> np.ndarray:
        image, label = draw(scene)
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        return np.hstack([small, cv2.resize(PALETTE[label], size, interpolation=cv2.INTER_NEAREST)])

    sheet = Image.fromarray(np.hstack([np.vstack([pair(scene) for scene in scenes]) for scenes in columns]))
    colours = sheet.reduce(4).quantize(256, kmeans=1)  # a small copy gives good colours quickly
    content = BytesIO()
    sheet.quantize(palette=colours, dither=Image.Dither.NONE).save(content, "PNG", optimize=True)
    return content.getvalue()


def claim(out: Path, settings: dict[str, dict]) -> None:
    """Record in --out which worlds are rendered there, and how.

    Raises:
        UserError: the folder has other content.
    """
    path = out / SETTINGS
    try:
        known = json.loads(read_bytes(path)) if path.exists() else {}
    except ValueError:
        raise UserError(f"{path} is damaged; choose another --out") from None
    for world, setting in settings.items():
        folder = out / FOLDERS[world]
        if world not in known and folder.exists():
            raise UserError(f"{folder} was not made by this command; choose another --out")
        if known.get(world, setting) != setting:
            raise UserError(f"{folder} was made with {known[world]}, not {setting}; choose another --out")
    if known | settings != known:
        write_bytes(path, json.dumps(known | settings, indent=1).encode())


def size(text: str) -> tuple[int, int]:
    """WIDTHxHEIGHT in pixels."""
    width, _, height = text.lower().partition("x")
    if not all(side.isdecimal() and 64 <= int(side) <= 8192 for side in (width, height)):
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, each from 64 to 8192")
    return int(width), int(height)


def world_names(text: str) -> list[str]:
    """Names of worlds, separated by commas."""
    for name in text.split(","):
        if name not in STYLES:
            raise argparse.ArgumentTypeError(f"unknown world {name!r}: expected {', '.join(STYLES)}")
    return text.split(",")


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(description=__doc__, epilog=EXAMPLES)
    parser.add_argument("--out", required=True, type=Path, help="folder to render into, such as data")
    parser.add_argument("--seed", type=SEED, default=0, metavar="N", help="random seed (default 0)")
    parser.add_argument("--worlds", type=world_names, default=list(STYLES), metavar="NAMES",
                        help="worlds to render, separated by commas (default: all)")
    for stream, number in STREAMS.items():
        parser.add_argument(f"--{stream}", type=whole(0, 10**6), default=number, metavar="N",
                            help=f"number of {stream} images (default {number})")
    for world, default in SIZES.items():
        option = "--size" if world == "cityscapes" else f"--{world}-size"
        parser.add_argument(option, type=size, default=size(default), metavar="WxH", dest=f"{world}_size",
                            help=f"size of {world} images in pixels (default {default})")
    parser.add_argument("--calm", action="store_true", help="quiet streets: fewer kinds of objects, fewer of each")
    parser.add_argument("--workers", type=WORKERS, default=0, metavar="N", help="processes; 0 = one per core")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="also write a contact sheet of the worlds (PNG)")
    parser.add_argument("--force", action="store_true", help="replace an existing --sheet")
    return parser.parse_args()


def main() -> None:
    """Parse the arguments and render."""
    args = arguments()

    def scenes(stream: str, numbers: range) -> list[Scene]:
        pixels = getattr(args, f"{stream if stream in STYLES else 'cityscapes'}_size")
        return [plan(args.out, stream, number, args.seed, pixels)._replace(calm=args.calm) for number in numbers]

    planned = [scene for stream in STREAMS for scene in scenes(stream, range(getattr(args, stream)))]
    wanted = [scene for scene in planned if scene.world in args.worlds]
    if not wanted:
        raise UserError("nothing to render: all image counts are 0")
    files = [path for scene in wanted for path in (scene.image, scene.label) if path]
    sheet = OutputFile("--sheet", args.sheet, args.force, [args.out / SETTINGS, *files]) if args.sheet else None
    claim(args.out, {scene.world: {"seed": args.seed, "size": list(scene.size), "calm": args.calm} for scene in wanted})
    made = sum(make_all(wanted, args.workers))
    print(f"{made} images rendered, {len(wanted) - made} already existed, in {args.out}")
    if sheet:
        columns = [scenes(stream, range(4)) for stream in ("gta", "synthia", "train")]
        columns = [column for column in columns if column[0].world in args.worlds]
        sheet.write(contact_sheet(columns))
        print(f"contact sheet: {args.sheet}")


if __name__ == "__main__":
    run(main)
