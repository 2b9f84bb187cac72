"""Draw how target and source images are augmented, before any training.

Each target image is a block. On the left: the original image, the reference frame that its views share, and where each
view lies in that frame (corners mapped by A⁻¹; the bar marks the view's top edge). On the right, one column per view:
what the teacher sees (clean), what the student sees (noisy), its padding (hatched), and the clean view mapped back into
the reference frame by A, as in the fusion. Below are source images with their labels, as they are trained on.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.cli import KEY_VALUE, SEED, Parser, UserError, run  # isort: skip

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from yacs.config import CfgNode

import datasets
from core import config, visual
from core.outputs import OutputFile
from datasets import labels, lists
from datasets.images import read_image
from datasets.source import SourceLists
from datasets.target import TargetBatch, TargetTraining, make_views
from datasets.transforms import whole
from datasets.views import apply_shared

EXAMPLES = """examples:
  python tools/show_views.py --cfg configs/deeplabv2_resnet101_train.yaml --out views.png
  python tools/show_views.py --cfg configs/custom_example.yaml --image street.jpg --out views.png --seed 3 \\
      --set DATASET.RND_ZOOM 0.8,1.2
"""
COLOURS = ((31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189), (140, 86, 75))
PAPER, INK, GAP, LINE = 255, 40, 6, 18  # grey levels; pixels between pictures, and of a line of text


def cell(picture: np.ndarray, caption: str, width: int, colour: tuple[int, int, int] | None = None) -> np.ndarray:
    """A picture uint8 [h,w,3] at this width, with a caption below and a mark of this colour next to it."""
    height = round(picture.shape[0] * width / picture.shape[1])
    sheet = np.full((height + LINE + GAP, width + GAP, 3), PAPER, np.uint8)
    sheet[:height, :width] = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    if colour is not None:
        sheet[height + 3 : height + LINE - 2, :4] = colour
    cv2.putText(sheet, caption, (8, height + LINE - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (INK,) * 3, 1, cv2.LINE_AA)
    return sheet


def stack(parts: list[np.ndarray], axis: int) -> np.ndarray:
    """Pictures side by side (axis 1) or stacked (axis 0), the shorter ones padded with paper."""
    other = 1 - axis
    longest = max(part.shape[other] for part in parts)
    pad = [[(0, 0)] * 3 for _ in parts]
    for widths, part in zip(pad, parts, strict=True):
        widths[other] = (0, longest - part.shape[other])
    filled = [np.pad(p, widths, constant_values=PAPER) for p, widths in zip(parts, pad, strict=True)]
    return np.concatenate(filled, axis)


def outlines(reference: np.ndarray, item: TargetBatch) -> np.ndarray:
    """The reference frame uint8 [H,W,3] with the outline of each view."""
    height, width = reference.shape[:2]
    picture = reference // 2 + 96
    corners = np.array([(-1, -1, 1), (1, -1, 1), (1, 1, 1), (-1, 1, 1)], np.float32)
    thick = max(2, width // 200)
    for i, a_inv in enumerate(item.A_inv.numpy()):
        points = (corners @ a_inv.T + 1) / 2 * (width, height) - 0.5
        points = points.clip(thick, (width - thick, height - thick)).round().astype(np.int32)
        cv2.polylines(picture, [points], True, COLOURS[i % len(COLOURS)], thick, cv2.LINE_AA)
        a, b = (points[0] * 2 + points[1]) // 3, (points[0] + points[1] * 2) // 3
        cv2.line(picture, a.tolist(), b.tolist(), COLOURS[i % len(COLOURS)], 4 * thick)
    return picture


def hatched(padding: np.ndarray) -> np.ndarray:
    """Padding bool [H,W] as a picture: light image, striped padding."""
    rows, columns = np.indices(padding.shape)
    stripes = (rows + columns) // max(4, padding.shape[1] // 64) % 2 * 120 + 60
    return np.repeat(np.where(padding, stripes, 230).astype(np.uint8)[..., None], 3, 2)


def mapped_back(item: TargetBatch) -> np.ndarray:
    """The clean views in the reference frame, uint8 [t,H,W,3], as the fusion warps them (section 4.7)."""
    clean = item.clean.permute(0, 3, 1, 2).float()  # [t,3,H,W]
    grid = F.affine_grid(item.A, list(clean.shape), align_corners=False)
    back = F.grid_sample(clean, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return back.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def target_block(data: TargetTraining, index: int, image: np.ndarray | None, width: int) -> np.ndarray:
    """The block of one target item, with its own image or a given one uint8 [H,W,3]."""
    draw = data.draw(0, index)
    sample = data.samples[draw.position]
    name = "given image" if image is not None else sample.image.rpartition("/")[2]
    frame = whole(read_image(Path(data.root, sample.image)) if image is None else image)
    item, _ = make_views(frame, draw, 0, data.policy.views)
    reference = apply_shared(frame, draw.shared).image
    back, columns = mapped_back(item), []
    left = [cell(frame.image, name[:40], width), cell(reference, "reference frame", width),
            cell(outlines(reference, item), "where the views look", width)]
    for i, view in enumerate(draw.views):
        colour = COLOURS[i % len(COLOURS)]
        zoom = f"view {i}: s = {view.scale:.2f}" + (", flipped" if view.flip < 0 else "")
        share = f"padding: {100 * item.padding[i].float().mean():.1f} %"
        columns.append(stack([
            cell(item.clean[i].numpy(), zoom, width, colour), cell(item.noisy[i].numpy(), "noisy", width, colour),
            cell(hatched(item.padding[i].numpy()), share, width, colour),
            cell(back[i], "clean, mapped back by A", width, colour),
        ], 0))
    block = stack([stack(left, 0), *columns], 1)
    return np.pad(block, ((0, LINE), (0, 0), (0, 0)), constant_values=PAPER)


def source_block(data: SourceLists, index: int, palette: np.ndarray, width: int) -> np.ndarray:
    """A source image as it is trained on, and its label as an overlay."""
    item = data[0, index]
    image, label = item.image.numpy(), item.label.numpy()
    share = f"ignored: {100 * (label == labels.IGNORE).mean():.1f} %"
    name = data.samples[index].image.rpartition("/")[2]
    return stack([cell(image, f"source {name}"[:40], width),
                  cell(visual.overlay(image, label, palette), share, width)], 0)


def draw_sheet(cfg: CfgNode, seed: int, first: int, count: int, image: np.ndarray | None, width: int) -> np.ndarray:
    """The whole sheet, uint8 [h,w,3]: `count` items of each domain, starting at `first`."""
    data = datasets.Data(cfg, seed).iterations
    parts = [target_block(data.target, first + i, image, width) for i in range(count)]
    if data.source is not None:
        label_set = labels.load(cfg.DATASET.CLASSES)
        palette = label_set.palette()
        places = range(min(len(data.source), cfg.TRAIN.GROUP_SIZE + 1))
        lists = data.mixture.lists
        shown = [lists[i % len(lists)][(first + i // len(lists)) % len(lists[i % len(lists)])] for i in places]
        parts.append(stack([source_block(data.source, i, palette, width) for i in shown], 1))
        parts.append(visual.legend(label_set.names, label_set.colours, max(part.shape[1] for part in parts)))
    return np.pad(stack(parts, 0), ((GAP, 0), (GAP, 0), (0, 0)), constant_values=PAPER)


def main() -> None:
    """Parse, draw, write."""
    parser = Parser(description=__doc__, epilog=EXAMPLES)
    parser.add_argument("--cfg", required=True, metavar="FILE", help="configuration of the run, YAML")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="the picture, .png or .jpg")
    parser.add_argument("--image", metavar="FILE", help="draw the views of this image")
    parser.add_argument("--index", type=int, default=0, metavar="N", help="number of the first item (default 0)")
    parser.add_argument("--count", type=int, default=2, metavar="N", help="target images to draw (default 2)")
    parser.add_argument("--seed", type=SEED, default=0, metavar="N", help="as in train.py (default 0)")
    parser.add_argument("--width", type=int, default=320, metavar="PIXELS", help="width of a picture (default 320)")
    parser.add_argument("--force", action="store_true", help="replace an existing --out")
    parser.add_argument("--set", **KEY_VALUE)
    args = parser.parse_args()
    if args.out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UserError(f"--out {args.out}: expected a name that ends with .png or .jpg")
    if args.index < 0 or args.count < 1 or not 32 <= args.width <= 4096 or args.seed < 0:
        raise UserError("expected --index and --seed of 0 or more, --count of 1 or more, --width from 32 to 4096")
    # A baseline has no views: draw those that SAC would make with its configuration.
    cfg, _ = config.load(args.cfg, [*args.pairs, "MODEL.BASELINE", "False"])
    samples = [sample for name in (*cfg.TRAIN.TASK, cfg.TRAIN.TARGET) for sample in lists.read(name, cfg.DATASET.ROOT)]
    read = [Path(cfg.DATASET.ROOT, path) for sample in samples for path in sample if path]
    output = OutputFile("--out", args.out, args.force, [args.cfg, *([args.image] if args.image else []), *read])
    image = read_image(args.image) if args.image else None
    sheet = draw_sheet(cfg, args.seed, args.index, 1 if args.image else args.count, image, args.width)
    output.write(cv2.imencode(args.out.suffix.lower(), sheet[..., ::-1])[1].tobytes())
    print(f"written to {args.out}: {sheet.shape[1]}x{sheet.shape[0]}")


if __name__ == "__main__":
    run(main)
