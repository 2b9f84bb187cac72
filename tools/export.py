"""Export a snapshot's network to ONNX, for any image size and batch size, and check it.

The model takes `image`, float32 [batch,3,height,width], RGB normalised with the mean and standard deviation in its
metadata, and returns `logits`, float32 [batch,C,height,width]: it includes the upsampling to the image size and
FCN-8s's padding. Before it is written, its output in ONNX Runtime is compared with PyTorch's.

Needs the packages onnx and onnxruntime: pip install onnx onnxruntime
"""

import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.cli import KEY_VALUE, Parser, UserError, run  # isort: skip

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core import config
from core.inference import SMALLEST, load_network
from core.outputs import OutputFile
from datasets import labels
from tools.exporting import card

try:
    import onnx
    import onnxruntime
except ImportError as error:
    MISSING = str(error)
else:
    MISSING = ""

EXAMPLES = """examples:
  python tools/export.py --cfg configs/deeplabv2_resnet101_train.yaml --out sac.onnx \\
      --resume snapshots/cityscapes/v1/01_gta_resnet101/epoch100_score0.530.pth
  python tools/export.py --cfg configs/fcn_vgg16_train.yaml --resume final.pth --teacher --out fcn.onnx
  python tools/export.py --cfg configs/fcn_vgg16_train.yaml --resume final.pth --safetensors --out fcn.safetensors
"""
OPSET = 17  # operator version, from 2022: works with ONNX Runtime 1.12 or newer
EXAMPLE = (1, 3, 64, 128)  # shape to trace; any other will do
CHECKED = ((1, 3, 64, 128), (2, 3, 97, 161), (3, 3, 200, 40))
AGREE, TOLERANCE = 0.999, 1e-3  # share of pixels with the same class; logits, in units of their deviation if above 1


class Upsampled(nn.Module):
    """A network with logits at the image size, as in core.inference.Predictor."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Normalised images [B,3,H,W] -> logits [B,C,H,W]."""
        height, width = image.shape[2:]
        multiple = self.network.multiple_of
        padded = F.pad(image, (0, -width % multiple, 0, -height % multiple)) if multiple > 1 else image
        up = F.interpolate(self.network(padded), size=padded.shape[2:], mode="bilinear", align_corners=True)
        return up[:, :, :height, :width]


def to_onnx(network: nn.Module) -> "onnx.ModelProto":
    """Trace the network; UserError if ONNX cannot express it.

    Uses the tracing exporter: the newer one writes the same file in ten times the time and needs another package.
    """
    for module in network.modules():
        if type(module).__name__ == "RotaryEmbeddingDinoV3":
            module.get_embed = partial(rotations, module)
    file, sizes = BytesIO(), {0: "batch", 2: "height", 3: "width"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the older exporter, and sizes read while tracing
        with understood("this network cannot be exported to ONNX"):
            torch.onnx.export(
                network, (torch.zeros(EXAMPLE),), file, dynamo=False, opset_version=OPSET, input_names=["image"],
                output_names=["logits"], dynamic_axes={"image": sizes, "logits": sizes},
            )
    return onnx.load_from_string(file.getvalue())


@contextmanager
def understood(what: str) -> Iterator[None]:
    """Turn errors of the exporter or ONNX Runtime into one line: timm encoders may use what they do not support."""
    try:
        yield
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line and not line.startswith("  ")]
        raise UserError(f"{what}: {lines[-1] if lines else type(error).__name__}") from error


def rotations(rope: nn.Module, shape: Sequence[int]) -> Tensor:
    """DINOv3's rotary embedding [h·w,2·dim] for a grid of `shape` (h, w): timm's own would be fixed to one size.

    Args:
        rope: timm's module.
        shape: symbolic while a network is traced.
    """
    rows, columns = ((2 * torch.arange(side) + 1) / side - 1 for side in shape)  # centres of patches, -1 ... 1
    grid = torch.stack([rows[:, None] + 0 * columns, 0 * rows[:, None] + columns], dim=-1)  # [h,w,2]
    return torch.cat(rope._get_pos_embed_from_coords(grid.flatten(0, 1)), dim=-1)


def describe(model: "onnx.ModelProto", about: dict[str, object], classes: int) -> None:
    """Write metadata into the model (text; lists as JSON), and the number of classes into its output's shape."""
    for key, value in about.items():
        model.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = classes
    onnx.checker.check_model(model)


def compare(network: nn.Module, content: bytes) -> list[tuple[float, float]]:
    """Run PyTorch and ONNX Runtime on random images of the shapes CHECKED.

    Returns:
        for each shape, the share of pixels with the same class, and the largest difference of logits, divided by the
        logits' deviation if that is above 1.
    """
    with understood("ONNX Runtime does not accept this network"):
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    results, rng = [], torch.Generator().manual_seed(0)
    for shape in CHECKED:
        image = torch.randn(shape, generator=rng)
        with torch.inference_mode():
            ours = network(image).numpy()
        with understood(f"ONNX Runtime does not accept images of {shape}"):
            (theirs,) = session.run(["logits"], {"image": image.numpy()})
        if ours.shape != theirs.shape:
            raise UserError(f"ONNX Runtime returns {theirs.shape} for {shape}, PyTorch {ours.shape}: not written")
        same = float((ours.argmax(1) == theirs.argmax(1)).mean())
        results.append((same, float(np.abs(ours - theirs).max()) / max(1.0, float(ours.std()))))
    return results


def main() -> None:
    """Parse, load, export, check, write."""
    parser = Parser(description=__doc__, epilog=EXAMPLES)
    parser.add_argument("--cfg", required=True, metavar="FILE", help="configuration, YAML")
    parser.add_argument("--resume", required=True, metavar="SNAPSHOT", help="the weights")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="the file to write")
    parser.add_argument("--safetensors", action="store_true", help="write safetensors and a model card, not ONNX")
    parser.add_argument("--teacher", action="store_true", help="the teacher's weights, not the student's")
    parser.add_argument("--force", action="store_true", help="replace an existing --out")
    parser.add_argument("--set", **KEY_VALUE)
    args = parser.parse_args()
    if MISSING and not args.safetensors:
        raise UserError(f"{MISSING}: pip install onnx onnxruntime")
    output = OutputFile("--out", args.out, args.force, [args.resume, args.cfg])
    cfg, _ = config.load(args.cfg, args.pairs)
    label_set = labels.load(cfg.DATASET.CLASSES)
    network = load_network(
        cfg.MODEL.ARCH, label_set.num_classes, args.resume, args.teacher, **config.network_options(cfg))
    if args.safetensors:
        page = card.write(args.out, network, args.resume, cfg, label_set)
        print(f"written to {args.out}, with a model card, {page}: fill in its licence line")
        return
    network = Upsampled(network).eval()

    model = to_onnx(network)
    about = {
        "network": cfg.MODEL.ENCODER or cfg.MODEL.ARCH,
        "weights": f"{'teacher' if args.teacher else 'student'} of {args.resume}",
        "mean": list(cfg.DATASET.MEAN), "std": list(cfg.DATASET.STD), "classes": list(label_set.names),
        "smallest_side": str(SMALLEST),
    }
    describe(model, about, label_set.num_classes)
    content = model.SerializeToString()
    for shape, (same, error) in zip(CHECKED, compare(network, content), strict=True):
        size = "x".join(map(str, shape))
        print(f"{size}: {100 * same:.3f} % of the pixels have the same class, logits differ by {error:.1e}")
        if same < AGREE or not error <= TOLERANCE:
            raise UserError(f"ONNX Runtime differs from PyTorch at {size}: {args.out} is not written")
    output.write(content)
    print(f"written to {args.out}: {len(content) / 2**20:.0f} MiB, input image [batch,3,height,width]")


if __name__ == "__main__":
    run(main)
