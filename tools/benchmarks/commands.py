"""The commands that process many files, against decoding (and encoding) these files on as many cores."""

from collections.abc import Callable
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import torch
from PIL import Image

from core import checkpoint
from core.cli import UserError
from core.compute import Compute, uses_bfloat16
from datasets.images import read_image
from datasets.transforms import normalise
from models import build
from tools.batch.png import ENCODING
from tools.batch.threads import parallel_map
from tools.benchmarks.material import MASKS, RAW, ROOT, Material, Settings, command, copies
from tools.benchmarks.measure import Row, in_turns, seconds

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def decode(path: Path) -> np.ndarray:
    """A file's pixels as stored, so palette images give indices."""
    if path.parent.name == "labels":
        return np.asarray(Image.open(path))
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def over_cores(function: Callable[[Path], object], files: list[Path]) -> None:
    """Run a function on all files, one thread per core."""
    for _ in parallel_map(function, files):
        pass


def masks(material: Material, folder: Path, settings: Settings, ending: str) -> list[Path]:
    """Links to train-ID masks in a folder of their own."""
    found = [material.root / str(sample.label) for sample in material.target if sample.label]
    found = found or sorted((material.root / MASKS).rglob("*labelIds.png"))[: settings.images]
    if not found:
        raise UserError(f"there are no train-ID masks in {material.root / MASKS}, and the list names none")
    return copies(found, folder, 8 if settings.quick else 400, ending)


def weights(material: Material, folder: Path, settings: Settings) -> list[Row]:
    """compute_image_weights.py."""
    files = masks(material, folder / "weights", settings, "_gtFine_labelIds.png")
    words = ("--labels", folder / "weights", "--out", folder / "weights.data", "--force")
    times = in_turns(lambda: command("tools/compute_image_weights.py", *words), lambda: over_cores(decode, files),
                     runs=settings.runs)
    return [per_file("weights", "a mask; floor: decoding it, over the cores used", times, len(files), 1.5)]


def per_file(name: str, what: str, times: list[float], count: int, goal: float) -> Row:
    """A row from times of `count` files."""
    return Row(name, what, times[0] / count, times[1] / count, goal)


def evaluate(material: Material, folder: Path, settings: Settings) -> list[Row]:
    """evaluate.py."""
    predictions = masks(material, folder / "predictions", settings, "_gtFine_labelIds.png")
    truth = masks(material, folder / "truth", settings, "_gtFine_labelIds.png")
    names = [path.name.replace("_gtFine_labelIds", "_leftImg8bit") for path in truth]
    (folder / "pairs.txt").write_text("".join(f"{n} truth/{path.name}\n" for n, path in zip(names, truth, strict=True)))
    words = ("--predictions", folder / "predictions", "--list", "pairs", "--root", folder)
    times = in_turns(lambda: command("tools/evaluate.py", *words), lambda: over_cores(decode, predictions + truth),
                     runs=settings.runs)
    return [per_file("evaluate", "a pair; floor: decoding both, over the cores used", times, len(truth), 1.5)]


def convert(material: Material, folder: Path, settings: Settings) -> list[Row]:
    """convert_train_ids.py, per label, for each kind of raw labels that exists."""
    rows, what = [], "a label; floor: decoding and encoding it, over the cores used"
    for dataset, raw, _ in RAW:
        found = sorted((material.root / raw).rglob("*labelIds.png" if dataset == "cs" else "*.png"))[: settings.images]
        if not found:
            continue
        place = folder / dataset / Path(raw).name
        files = copies(found, place, 8 if settings.quick else 200, "_labelIds.png")
        words = ("--dataset", dataset, "--ann-data", place, "--ann-out", folder / f"{dataset}_ids", "--force")
        times = in_turns(lambda words=words: command("tools/convert_train_ids.py", *words),
                         lambda files=files: over_cores(recode, files), runs=settings.runs)
        rows.append(per_file(f"convert_{dataset}", what, times, len(files), 1.3))
    if not rows:
        looked_for = ", ".join(raw for _, raw, _ in RAW)
        raise UserError(f"there are no raw labels below {material.root}: looked for {looked_for}")
    mean = [sum(row[2 + i] for row in rows) / len(rows) for i in range(2)]
    return [Row("convert", f"{what}; the mean of the kinds below", *mean, 1.3), *rows]


def recode(path: Path) -> None:
    """Decode a label and encode it like a mask."""
    pixels = decode(path)
    cv2.imencode(".png", pixels if pixels.ndim == 2 else pixels[..., 2].astype(np.uint8), ENCODING)


def infer(material: Material, folder: Path, settings: Settings) -> list[Row]:
    """infer_val.py, from images on disk to masks on disk: the cost of each additional image."""
    network = build(settings.network, 19)
    state = {f"module.backbone.{name}": value for name, value in network.state_dict().items()}
    checkpoint.save(folder / "random.pth", {"model": state, "opt": {}, "epoch": 0, "score": 0.0})
    files = [material.root / sample.image for sample in material.target]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    few, many = (2, 34) if device.type == "cuda" else (1, 4)
    copies(files, folder / "few", few, "_leftImg8bit.png")
    copies(files, folder / "many", many, "_leftImg8bit.png")
    words = ("--cfg", ROOT / "configs/deeplabv2_resnet101_train.yaml", "--resume", folder / "random.pth",
             "--mask-output-dir", folder / "masks", "--set", "MODEL.ARCH", settings.network)
    network = network.eval().to(device, memory_format=torch.channels_last)
    compute = Compute(device, uses_bfloat16("auto", device))
    image = torch.from_numpy(read_image(files[0]))[None].to(device)
    x = normalise(image, None, MEAN, STD)

    @torch.inference_mode()
    def alone() -> None:
        compute.logits(network, x)
        if device.type == "cuda":
            torch.cuda.synchronize()

    alone()
    times = [[seconds(f) for f in (alone, lambda: command("infer_val.py", "--images", folder / "few", *words),
                                   lambda: command("infer_val.py", "--images", folder / "many", *words), alone)]
             for _ in range(max(1, settings.runs // 2))]
    added = median((last - first) / (many - few) for _, first, last, _ in times)
    floor = median((first + last) / 2 for first, _, _, last in times)
    what = f"an image from disk to masks on disk, {settings.network}; floor: the network alone"
    return [Row("infer", what, added, floor, 1.1, {"images_per_second": round(1 / added, 3)})]
