"""Write a report about training runs: a single HTML file that works offline.

It shows each run's curves, the mIoU of all runs over time, what became of each class's pseudo labels, and where the
runs come from. With masks of a labelled list, it also compares the baseline and the adapted network side by side: IoU
per class, confusion matrices, and the images that gained and lost most. RUN is a folder in logs/ (or one above several
runs); name a baseline before the runs adapted from it. Runs that differ only in their seed are shown as mean and
spread.

Without --masks, they are looked for where launch/infer_val.sh puts them: masks/EXP/RUN/LIST. Without any masks, the IoU
is that of each run's last validation.
"""

import json
import math
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.cli import Parser, UserError, run  # isort: skip

from core.outputs import OutputFile
from datasets import labels, lists
from datasets.labels import LabelSet
from tools.report_page import comparison, makers, runs, series
from tools.report_page.comparison import Masks

EXAMPLES = """examples:
  python tools/report.py logs/cityscapes/v1/01_abn_gta_resnet101 logs/cityscapes/v1/01_gta_resnet101 \\
      --out report
  python tools/report.py logs/cityscapes/v1 --out report --list val_cityscapes --root data \\
      --masks baseline=masks/baseline adapted=masks/sac
  python tools/report.py logs/cityscapes/v1 --out report --masks base=masks/b0,masks/b1 sac=masks/s0,masks/s1
"""
PARTS = Path(__file__).parent / "report_page"
WIDTHS = (720, 480, 320, 160)  # of the pictures, in pixels: the first one that keeps the page small enough
LIMIT = 9_500_000  # bytes


def masks_of(args: Namespace, folders: list[Path], read: list[dict[str, Any]], name: str) -> list[Masks]:
    """The masks named on the command line, or those where launch/infer_val.sh puts them."""
    if args.masks is None:
        places = [Path("masks", folder.parent.name, folder.name, name) for folder in map(Path.resolve, folders)]
        found = [Masks(entry["title"], place) for entry, place in zip(read, places, strict=True)]
        return [masks for masks in found if masks.folder.is_dir()]
    found, titles = [], ["input", "truth", "change"]
    for text in args.masks:
        title, separator, places = text.partition("=")
        if not (separator and title and places):
            raise UserError(f"--masks {text}: expected NAME=FOLDER, such as baseline=masks/baseline")
        for place in [places] if Path(places).is_dir() else places.split(","):
            if not Path(place).is_dir():
                raise UserError(f"--masks {text}: there is no such folder")
            found.append(Masks(title, Path(place)))
        titles.append(title)
    if len(set(titles)) != len(titles):
        raise UserError("--masks: names must be distinct, and not input, truth or change")
    return found


def labelled_list(args: Namespace, read: list[dict[str, Any]], root: str) -> str:
    """The list to compare on: --list, or val_cityscapes, or the last one the runs validated on; "" = none."""
    known = [name for entry in read for name in entry["iou"]]
    for name in [args.list] if args.list else ["val_cityscapes", *reversed(known)]:
        if args.list or (lists.exists(name, root) and lists.read(name, root)[0].label):
            return name
    return ""


def compared(
    args: Namespace, folders: list[Path], read: list[dict[str, Any]], label_set: LabelSet
) -> dict[str, Any]:
    """Scores and pictures from masks, or scores from the runs' last validation; {} if there is neither."""
    cfg = read[-1]["cfg"]
    root, ignore = args.root or cfg.DATASET.ROOT, tuple(cfg.VAL.IGNORE_CLASS)
    name = labelled_list(args, read, root)
    masks = masks_of(args, folders, read, name) if name else []
    if args.masks and not name:
        raise UserError("--masks needs a labelled list to compare with: give --list")
    if not masks:
        return validated(read, ignore)
    pairs = comparison.pairs_of(name, Path(root), masks)
    results, scores = comparison.compare(pairs, masks, label_set, ignore)
    check_means(results, name, ignore)
    shown = comparison.extremes(scores, args.images)
    made = makers.describe([m.folder for m in masks], folders)
    return {"source": f"{len(pairs)} images of {name}, at full label size", "list": name, "results": results,
            "made": [{"name": m.name, "folder": str(m.folder), **made[m.folder]} for m in masks],
            "shown": [(pairs[i], scores[i], group) for i, group in shown.items()], "masks": masks}


def validated(read: list[dict[str, Any]], ignore: tuple[int, ...]) -> dict[str, Any]:
    """The student's IoU in the last validation on a list that all runs have."""
    common = [name for name in read[-1]["iou"] if all(name in entry["iou"] for entry in read)]
    if not common:
        return {}
    name = "val_cityscapes" if "val_cityscapes" in common else common[-1]
    results = []
    for entry in read:
        iou = entry["iou"][name]
        values = [v for c, v in enumerate(iou) if v is not None and c not in ignore]
        results.append({"name": entry["title"], "iou": iou, "miou": sum(values) / len(values) if values else math.nan})
    check_means(results, name, ignore)
    return {"source": f"last validation of each run on {name}, at the training crop size", "list": name,
            "results": series.merge(results), "made": [], "shown": [], "masks": []}


def check_means(results: list[dict[str, Any]], name: str, ignore: tuple[int, ...]) -> None:
    """UserError if a result has no class to average over."""
    for result in results:
        if math.isnan(result["miou"]):
            raise UserError(f"{result['name']} has no mIoU on {name}: no class occurs there except those in "
                            f"VAL.IGNORE_CLASS {list(ignore)}; choose another --list")


def progress(read: list[dict[str, Any]], compared_on: str | None) -> dict[str, Any]:
    """The mIoU of all runs by epoch, on the list of the scores or else another one that they validated on."""
    known = [name for name in dict.fromkeys(name for entry in read for name in entry["scores"])]
    if not known:
        return {"curves": []}
    name = compared_on if compared_on in known else known[-1]
    return {"list": name, "curves": series.progress(read, name)}


def page(data: dict[str, Any]) -> bytes:
    """The page: the template filled with style, script and data."""
    text = (PARTS / "page.html").read_text(encoding="utf-8")
    # In a script element only "<" could end the data early.
    content = json.dumps(finite(data), ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    for mark, part in (
        ("/*STYLE*/", (PARTS / "page.css").read_text(encoding="utf-8")),
        ("/*SCRIPT*/", "".join((PARTS / f).read_text(encoding="utf-8") for f in ("charts.js", "page.js"))),
        ("/*DATA*/", content),
    ):
        text = text.replace(mark, part)
    return text.encode()


def finite(value: Any) -> Any:
    """The same value, with null for NaN and infinity, which JSON lacks."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main() -> None:
    """Parse, read the runs, compare, write."""
    parser = Parser(description=__doc__, epilog=EXAMPLES)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder in logs/")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="FOLDER/index.html is written")
    parser.add_argument("--list", metavar="NAME|FILE", help="labelled list (default val_cityscapes)")
    parser.add_argument("--root", metavar="DIR", help="folder of the data (default: the runs')")
    parser.add_argument("--classes", metavar="NAME|FILE", help="label set (default: the runs')")
    parser.add_argument("--masks", nargs="+", metavar="NAME=DIR", help="masks; the first is compared with the last")
    parser.add_argument("--images", type=int, default=6, metavar="N", help="show N gains and N losses (default 6)")
    parser.add_argument("--force", action="store_true", help="replace an existing FOLDER/index.html")
    args = parser.parse_args()
    if args.images < 0:
        raise UserError(f"--images {args.images}: expected 0 or more")
    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"--out {args.out} is a file, expected a folder")
    output = OutputFile("--out", args.out / "index.html", args.force)
    folders = runs.find(args.runs)
    read = [runs.read(folder) for folder in folders]
    for entry, title in zip(read, series.titles(read), strict=True):
        entry["title"] = title
    label_set = labels.load(args.classes or read[-1]["cfg"].DATASET.CLASSES)
    scores = compared(args, folders, read, label_set)
    shown, masks = scores.pop("shown", []), scores.pop("masks", [])
    data = {
        "runs": [{k: v for k, v in entry.items() if k not in ("cfg", "iou", "scores", "why")} for entry in read],
        "classes": [{"name": n, "colour": "#" + bytes(c).hex()} for n, c in
                    zip(label_set.names, label_set.colours, strict=True)],
        "ignore": list(read[-1]["cfg"].VAL.IGNORE_CLASS),
        "scores": scores, "why": series.why(read), "progress": progress(read, scores.get("list")),
    }
    for width in WIDTHS:
        data["images"] = [
            {"name": pair.image.name, "scores": values, "group": group,
             "pictures": comparison.pictures(pair, masks, label_set, width)} for pair, values, group in shown
        ]
        content = page(data)
        if len(content) <= LIMIT:
            break
    else:
        raise UserError(f"the page would be {len(content)} bytes: use fewer --images")
    output.write(content)
    print(f"{len(read)} runs, {len(shown)} images: {args.out / 'index.html'} ({len(content) / 1e6:.1f} MB)")


if __name__ == "__main__":
    run(main)
