"""Segment a video, or a folder of frames, into a video: class colours over each frame, with a legend below.

Network, classes and colours come from the snapshot. --beside adds the original frame on the left.
"""

import dataclasses
import shutil
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.cli import Parser, UserError, run  # isort: skip

import cv2
import numpy as np
import torch

from core import visual
from core.files import find_files
from core.outputs import OutputFile
from core.progress import bar
from core.segment import Segmenter, load
from datasets.images import SUFFIXES, read_image

CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
RATE = 25.0  # frames per second if the input does not say
EXAMPLES = """examples:
  python tools/infer_video.py --resume snapshots/cityscapes/v1/01_gta_resnet101/last.pth --input a.mp4 --out masks.mp4
  python tools/infer_video.py --resume last.pth --input frames/ --out masks.avi --fps 17 --beside --window 512 1024
"""


class Video(NamedTuple):
    """The input."""

    files: list[Path]  # the video, or the frames
    is_folder: bool
    rate: float  # frames per second
    count: int  # of frames, according to the video


def arguments() -> Namespace:
    """The command line; UserError for invalid values."""
    parser = Parser(description=__doc__, epilog=EXAMPLES)
    add = parser.add_argument
    add("--resume", required=True, metavar="SNAPSHOT", help="the weights")
    add("--cfg", default="", metavar="FILE", help="configuration, for snapshots without one, such as the authors'")
    add("--input", required=True, type=Path, metavar="PATH", help="a video, or a folder of frames in name order")
    add("--out", required=True, type=Path, metavar="FILE", help=f"the video, {' or '.join(CODECS)}")
    add("--beside", action="store_true", help="show the frame next to its overlay")
    add("--fps", type=float, metavar="N", help=f"frames per second (default: the video's own; {RATE:.0f} for a folder)")
    add("--teacher", action="store_true", help="the teacher's weights, not the student's")
    add("--scales", nargs="+", type=float, default=[1.0], metavar="S", help="average over image scales")
    add("--flip", action="store_true", help="average with the mirrored frame")
    add("--window", nargs=2, type=int, metavar=("H", "W"), help="process larger frames in windows of this size")
    add("--force", action="store_true", help="replace an existing --out")
    args = parser.parse_args()
    if args.out.suffix.lower() not in CODECS:
        raise UserError(f"--out {args.out}: expected a name that ends with {' or '.join(CODECS)}")
    if args.fps is not None and not 0.1 <= args.fps <= 240:
        raise UserError(f"--fps {args.fps}: expected a number from 0.1 to 240")
    if not all(0 < scale <= 8 for scale in args.scales):
        raise UserError(f"--scales {' '.join(map(str, args.scales))}: expected numbers above 0, at most 8")
    if args.window and not all(32 <= side <= 16384 for side in args.window):
        raise UserError(f"--window {args.window[0]} {args.window[1]}: expected sides from 32 to 16384 pixels")
    return args


def look_at(path: Path, rate: float | None) -> Video:
    """Inspect the input; UserError if it is neither a video nor a folder of images."""
    if path.is_dir():
        files = find_files(path, SUFFIXES)
        if not files:
            raise UserError(f"--input {path}: no images ({', '.join(SUFFIXES)}) in this folder")
        return Video(files, True, rate or RATE, len(files))
    if not path.is_file():
        raise UserError(f"--input {path}: there is no such file or folder")
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise UserError(f"--input {path}: cannot be read: not a video, or OpenCV lacks its codec; convert it with "
                        "ffmpeg, or extract its frames into a folder")
    own, count = capture.get(cv2.CAP_PROP_FPS), int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    capture.release()
    return Video([path], False, rate or (own if 0.1 <= own <= 240 else RATE), max(0, count))


def frames(video: Video) -> Iterator[np.ndarray]:
    """The frames uint8 [H,W,3], RGB; UserError if one differs in size from the first."""
    if not video.is_folder:
        capture = cv2.VideoCapture(str(video.files[0]))
        while (read := capture.read())[0]:
            yield read[1][..., ::-1]
        capture.release()
        return
    first = None
    for path in video.files:
        frame = read_image(path)
        first = frame.shape if first is None else first
        if frame.shape != first:
            raise UserError(f"{path} is {frame.shape[1]}x{frame.shape[0]}, the first frame {first[1]}x{first[0]}: all "
                            "frames must have the same size")
        yield frame


def drawn(segment: Segmenter, frame: np.ndarray, beside: bool) -> np.ndarray:
    """An output frame uint8 [H,W,3], with even sides, as most codecs require."""
    try:
        mask = segment(frame)
    except torch.OutOfMemoryError:
        raise UserError(f"a frame of {frame.shape[1]}x{frame.shape[0]} does not fit into GPU memory: process it in "
                        "windows, such as --window 512 1024") from None
    picture = visual.overlay(frame, mask, segment.labels.palette())
    picture = np.hstack([frame, picture]) if beside else picture
    below = visual.legend(segment.labels.names, segment.labels.colours, picture.shape[1])  # of all: constant height
    whole = np.vstack([picture, below])
    return np.pad(whole, ((0, len(whole) % 2), (0, whole.shape[1] % 2), (0, 0)), constant_values=255)


def write(video: Video, segment: Segmenter, path: Path, beside: bool) -> int:
    """Write the video; returns its number of frames. UserError if the codec is missing or the disk is full."""
    writer, done = None, 0
    for frame in bar(frames(video), desc="inferred", total=video.count or None, unit="frame"):
        picture = drawn(segment, frame, beside)
        if writer is None:
            codec = CODECS[path.suffix.lower()]
            size = picture.shape[1], picture.shape[0]
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), video.rate, size)
            if not writer.isOpened():
                others = " or ".join(ending for ending in CODECS if ending != path.suffix.lower())
                raise UserError(f"cannot write a {path.suffix} video: OpenCV lacks the codec {codec} or does not "
                                f"support {size[0]}x{size[1]}; choose another --out, ending with {others}")
        writer.write(np.ascontiguousarray(picture[..., ::-1]))
        done += 1
    if writer is None:
        raise UserError(f"--input {video.files[0]}: no frame can be read: it is damaged, or OpenCV lacks its codec")
    writer.release()
    written = max(0, int(cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT)))
    if written != done:
        raise UserError(f"only {written} of {done} frames could be written; is the disk full?")
    return done


def main() -> None:
    """Parse, load, infer, write."""
    args = arguments()
    video = look_at(args.input, args.fps)
    inputs = [args.resume, *([args.cfg] if args.cfg else []), *video.files]
    output = OutputFile("--out", args.out, args.force, inputs)
    segment = load(args.resume, args.cfg, teacher=args.teacher)
    window = tuple(args.window) if args.window else None
    predict = dataclasses.replace(segment.predict, scales=tuple(args.scales), flip=args.flip, window=window)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=args.out.parent) as folder:
        path = Path(folder, f"video{args.out.suffix.lower()}")  # OpenCV writes only to named files
        done = write(video, dataclasses.replace(segment, predict=predict), path, args.beside)
        with open(path, "rb") as content:
            output.save(lambda file: shutil.copyfileobj(content, file))
    announced = f" of {video.count} announced" if video.count > done else ""
    print(f"{done} frames{announced}, {video.rate:g} per second: {args.out}")


if __name__ == "__main__":
    run(main)
