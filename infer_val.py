"""Write train-ID masks, and Cityscapes label-ID masks, for a list of images."""

import os
import sys
import zipfile
from argparse import Namespace
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

from core.cli import KEY_VALUE, WORKERS, Parser, UserError, cores, folder_name, run  # isort: skip

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader
from yacs.config import CfgNode

from core import config, distributed, visual
from core.compute import Compute
from core.files import atomic_write, find_files, sha256, write_bytes
from core.inference import Predictor, load_network
from core.outputs import OutputFile, OutputFolder
from core.progress import bar
from datasets import labels, lists
from datasets.images import SUFFIXES
from datasets.source import Images

KINDS = ("ids", "cs", "vis", "prob")
EXAMPLES = """examples:
  python infer_val.py --cfg configs/deeplabv2_resnet101_train.yaml --infer-list val_cityscapes \\
      --resume snapshots/cityscapes/v1/01_gta_resnet101/epoch100_score0.530.pth --mask-output-dir masks/val
  python infer_val.py --cfg configs/deeplabv2_resnet101_train.yaml --resume final.pth \\
      --images street.jpg more/ --mask-output-dir masks --save ids vis --scales 0.75 1 1.25 --flip
several GPUs: torchrun --standalone --nproc_per_node 4 infer_val.py ..."""
MASK_COMPRESSION = [cv2.IMWRITE_PNG_COMPRESSION, 1]  # zlib's fastest level: masks are small anyway


def arguments() -> Namespace:
    """Parse the command line."""
    parser = Parser(description=__doc__, epilog=EXAMPLES)
    add = parser.add_argument
    add("--cfg", required=True, metavar="FILE", help="configuration (YAML)")
    add("--resume", required=True, metavar="SNAPSHOT",
        help="the weights: a file, or with --run the name of one of its snapshots; .pth may be omitted")
    add("--exp", type=folder_name, default="main", metavar="NAME", help="experiment of --run (default: main)")
    add("--run", type=folder_name, metavar="NAME", help="run that the snapshot belongs to")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--infer-list", metavar="NAME|FILE", help="list of images")
    what.add_argument("--images", nargs="+", metavar="PATH",
                      help="images and folders; - reads names from standard input, one per line")
    add("--mask-output-dir", required=True, metavar="DIR")
    add("--dataloader", type=folder_name, default="cityscapes", metavar="NAME",
        help="cityscapes (default): masks are named ..._gtFine_labelIds, otherwise like their images")
    add("--workers", type=WORKERS, metavar="N", help="loader processes (default: as many as cores, at most 4)")
    add("--teacher", action="store_true", help="use the teacher's weights instead of the student's")
    add("--save", nargs="+", choices=KINDS, default=["ids", "cs"], metavar="KIND",
        help="ids, cs (label IDs), vis (overlays), prob (probabilities); default: ids cs")
    add("--scales", nargs="+", type=float, default=[1.0], metavar="S", help="average over these scales")
    add("--flip", action="store_true", help="average with the mirrored image")
    add("--window", nargs=2, type=int, metavar=("H", "W"), help="split larger images into windows of this size")
    add("--resume-output", action="store_true", help="skip images that already have all outputs")
    add("--submission", metavar="FILE", help="also write a zip of the cs masks for the test server")
    add("--force", action="store_true", help="replace masks of another snapshot or configuration, and the zip")
    add("--set", **KEY_VALUE)
    args = parser.parse_args()
    check(args)
    return args


def check(args: Namespace) -> None:
    """UserError for invalid values, before anything is loaded."""
    if not all(0 < scale <= 8 for scale in args.scales):
        raise UserError(f"--scales {' '.join(map(str, args.scales))}: expected numbers above 0, at most 8")
    if args.window and not all(32 <= side <= 16384 for side in args.window):
        raise UserError(f"--window {args.window[0]} {args.window[1]}: expected sides from 32 to 16384 pixels")
    if args.submission and "cs" not in args.save:
        raise UserError("--submission needs the cs masks: add cs to --save")
    if Path(args.mask_output_dir).exists() and not Path(args.mask_output_dir).is_dir():
        raise UserError(f"--mask-output-dir {args.mask_output_dir} is a file, expected a folder")


class Output:
    """Names and writes the outputs of an image.

    Args:
        folder: DIR of DIR/NAME.png, DIR/cs/NAME.png, ...
        kinds: of KINDS.
        label_set: train IDs -> label IDs and colours.
    """

    def __init__(self, folder: str, kinds: Sequence[str], label_set: labels.LabelSet) -> None:
        self.folder, self.kinds = Path(folder).resolve(), kinds
        self.to_raw, self.palette, self.names = label_set.to_raw(), label_set.palette(), label_set.names

    def path(self, name: str, kind: str) -> Path:
        """The file of one kind for the mask name NAME.png."""
        if kind == "ids":
            return self.folder / name
        return self.folder / kind / (Path(name).with_suffix(".npz") if kind == "prob" else name)

    def paths(self, name: str) -> list[Path]:
        """The files of all kinds for the mask name NAME.png."""
        return [self.path(name, kind) for kind in self.kinds]

    def write(self, name: str, ids: np.ndarray, image: np.ndarray, probabilities: np.ndarray | None) -> None:
        """Write all kinds: ids uint8 [H,W], image uint8 [H,W,3], probabilities float16 [C,H,W]."""
        for kind in self.kinds:
            path = self.path(name, kind)
            if kind == "prob":
                atomic_write(path, partial(np.savez_compressed, probabilities=probabilities), durable=False)
                continue
            picture = {"ids": lambda: ids, "cs": lambda: self.to_raw[ids],
                       "vis": lambda: visual.explained(image, ids, self.palette, self.names)[..., ::-1]}[kind]()
            encoded = cv2.imencode(".png", picture, MASK_COMPRESSION)[1]
            write_bytes(path, encoded.tobytes(), durable=False)


def find_snapshot(args: Namespace) -> str:
    """The file that --resume refers to; UserError if there is none.

    It is a path, or the name of a snapshot in the folder of --exp and --run; .pth may be omitted.
    """
    places = [args.resume]
    if args.run and Path(args.resume).name == args.resume:
        places.append(os.path.join("snapshots", args.dataloader, args.exp, args.run, args.resume))
    places = [place + ending for place in places for ending in ("", ".pth")]
    found = [place for place in places if os.path.isfile(place)]
    if not found:
        raise UserError(f"snapshot {args.resume} does not exist: looked for {', '.join(places)}")
    return found[0]


def find_images(args: Namespace, root: str, output: Output) -> tuple[str, list[lists.Sample]]:
    """The images to infer and the root of their paths; UserError if one is missing."""
    if args.infer_list:
        samples = lists.read(args.infer_list, root)
        missing = [s.image for s in samples if not os.path.isfile(os.path.join(root, s.image))]
        if missing:
            raise UserError(f"{len(missing)} of {len(samples)} images of {args.infer_list} are not below "
                            f"{root}, first: {missing[0]}; see DATASET.ROOT")
        return root, samples
    found: dict[str, None] = {}  # each once, in their order
    if "-" in args.images:
        named = [line for line in sys.stdin.read().splitlines() if line]
        args.images = [x for name in args.images for x in (named if name == "-" else [name])]
        if not args.images:
            raise UserError("--images -: no names on standard input")
    for path in map(Path, args.images):
        if not path.exists():
            raise UserError(f"--images {path}: there is no such file or folder")
        inside = [path] if path.is_file() else find_files(path, SUFFIXES)
        if not inside:
            raise UserError(f"--images {path}: no images ({', '.join(SUFFIXES)}) in this folder")
        found |= dict.fromkeys(map(str, inside))
    named = {str(Path(path)) for path in args.images}
    masks = masks_among(found, output, args.dataloader == "cityscapes") - named
    return "", [lists.Sample(path, None) for path in found if path not in masks]


def masks_among(paths: Iterable[str], output: Output, renamed: bool) -> set[str]:
    """Those of the pictures that are at an output path of another one: an earlier run has written them."""
    folder = cache(os.path.realpath)
    real = {path: os.path.join(folder(os.path.dirname(path)), os.path.basename(path)) for path in paths}
    written = set()
    for place in real.values():
        name = lists.mask_name(place, renamed)
        written |= {str(output.path(name, kind)) for kind in KINDS} - {place}
    return {path for path, place in real.items() if place in written}


def maker(args: Namespace, cfg: CfgNode, label_set: labels.LabelSet, precision: str) -> dict[str, Any]:
    """What a mask depends on besides its image."""
    return {
        "snapshot": sha256(args.resume), "weights": "teacher" if args.teacher else "student",
        "network": cfg.MODEL.ENCODER or cfg.MODEL.ARCH,
        "classes": dict(zip(label_set.names, label_set.colours, strict=True)), "raw_ids": dict(label_set.raw_to_train),
        "mean": cfg.DATASET.MEAN, "std": cfg.DATASET.STD, "precision": precision,
        "scales": args.scales, "flip": args.flip, "window": args.window,
    }  # fmt: skip

def infer(
    args: Namespace, todo: list[tuple[lists.Sample, str]], root: str, output: Output, predict: Predictor
) -> None:
    """Decode, predict, write; decoding and writing run in parallel with the network."""
    workers = min(4, cores() // distributed.size()) if args.workers is None else args.workers
    loader = DataLoader(Images([sample for sample, _ in todo], root), batch_size=None, num_workers=workers)
    pending: deque[Future] = deque()
    watched = bar(loader, distributed.rank() == 0, desc="inferred", unit="image")
    with ThreadPoolExecutor(max(1, min(4, cores() // 2))) as pool:
        for done, (image, index) in enumerate(watched, 1):
            sample, name = todo[int(index)]
            try:
                ids, probabilities = predict(image, "prob" in args.save)
            except torch.OutOfMemoryError:
                size = f"{image.shape[1]}x{image.shape[0]}"
                raise UserError(f"{sample.image}, {size}, does not fit into GPU memory: split it into windows, "
                                "e.g. --window 512 1024") from None
            if probabilities is not None:
                probabilities = probabilities.half().cpu().numpy()
            pending.append(pool.submit(output.write, name, ids.cpu().numpy(), image.numpy(), probabilities))
            distributed.tell(done)
            while pending and (pending[0].done() or len(pending) > 8):
                pending.popleft().result()  # a writer's error surfaces here
        for future in pending:
            future.result()


def check_submission(args: Namespace, label_set: labels.LabelSet) -> None:
    """UserError for a submission of classes that the test server does not know."""
    if args.submission and label_set.names != labels.CITYSCAPES.names:
        raise UserError("--submission: the test server takes masks of Cityscapes' classes, not of those of "
                        f"DATASET.CLASSES = {label_set.name}; omit --submission")


def submission(file: OutputFile, output: Output, names: Sequence[str]) -> None:
    """Write a zip of the label-ID masks; UserError if some are on another machine's disk."""
    missing = [name for name in names if not output.path(name, "cs").is_file()]
    if missing:
        raise UserError(f"--submission {file.path}: {len(missing)} of {len(names)} masks are not here, first: "
                        f"{output.path(missing[0], 'cs')}; copy them here, and run again with --resume-output")

    def write(opened: object) -> None:
        with zipfile.ZipFile(opened, "w", zipfile.ZIP_STORED) as archive:
            for name in names:
                archive.write(output.path(name, "cs"), name)

    file.save(write)
    print(f"{len(names)} masks in {file.path}")


def main() -> None:
    """Parse, load the network, infer."""
    args = arguments()
    cfg, _ = config.load(args.cfg, args.pairs)
    label_set = labels.load(cfg.DATASET.CLASSES)
    check_submission(args, label_set)
    args.resume = find_snapshot(args)
    output = Output(args.mask_output_dir, args.save, label_set)
    root, samples = find_images(args, cfg.DATASET.ROOT, output)
    names = lists.mask_names(samples, args.dataloader == "cityscapes", with_folders=bool(args.infer_list))
    masks = [path for name in names for path in output.paths(name)]
    inputs = [args.resume, args.cfg, cfg.DATASET.CLASSES, *(os.path.join(root, sample.image) for sample in samples)]
    zipped = OutputFile("--submission", args.submission, args.force, inputs + masks) if args.submission else None
    if cfg.TRAIN.DEVICE == "cuda" and not torch.cuda.is_available():
        raise UserError("TRAIN.DEVICE = cuda: there is no CUDA device; use cpu or auto")
    device = distributed.start(cfg.TRAIN.DEVICE)
    compute = Compute.of(cfg.TRAIN.PRECISION, device, compiled=cfg.TRAIN.COMPILE)
    folder = OutputFolder("--mask-output-dir", output.folder, maker(args, cfg, label_set, compute.precision))
    network = load_network(
        cfg.MODEL.ARCH, label_set.num_classes, args.resume, args.teacher, **config.network_options(cfg))
    if sha256(args.resume) != folder.maker["snapshot"]:
        raise UserError(f"{args.resume} was replaced while it was read; start again")
    beside = output.folder / labels.BESIDE_MASKS
    distributed.on_first(partial(folder.claim, [*masks, beside], args.force, inputs))
    # Split before looking for existing files: another process may have started to write.
    own = list(zip(samples, names, strict=True))[distributed.rank() :: distributed.size()]
    if args.resume_output:
        own = [entry for entry in own if not all(map(folder.made, output.paths(entry[1])))]
    network = network.to(device, memory_format=torch.channels_last)
    window = tuple(args.window) if args.window else None
    mean, std = cfg.DATASET.MEAN, cfg.DATASET.STD
    watch = partial(bar, shown=distributed.rank() == 0, unit="window", leave=False, delay=2)
    predict = Predictor(compute.called(network), compute, mean, std, tuple(args.scales), args.flip, window, watch)
    try:
        folder.claim(())  # on other machines: their processes have read the same snapshot
        labels.say_beside_masks(output.folder, label_set)
        if own:
            infer(args, own, root, output, predict)
    except UserError:
        if distributed.rank() == 0:
            folder.withdraw([beside])
        raise
    if distributed.rank() > 0:
        distributed.tell(len(own), finished=True)  # and exit: only the first process waits for the others
    else:
        done = distributed.wait_for_all(len(own))
        skipped = f", {len(names) - done} already existed" if args.resume_output else ""
        where = " of each machine" if distributed.machines() > 1 else ""
        print(f"{done} images{skipped}: masks in {args.mask_output_dir}{where}")
        if zipped:
            submission(zipped, output, names)
    distributed.stop()


if __name__ == "__main__":
    run(main)
