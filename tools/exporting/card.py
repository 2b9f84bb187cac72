"""A snapshot's weights as safetensors, with a model card."""

from io import StringIO
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from yacs.config import CfgNode

from core import checkpoint
from core.cli import UserError
from core.files import write_bytes
from datasets.labels import LabelSet

try:
    from safetensors.torch import save
except ImportError as error:
    MISSING = str(error)
else:
    MISSING = ""


def write(out: Path, network: nn.Module, snapshot: str, cfg: CfgNode, label_set: LabelSet) -> Path:
    """Write the network's tensors, bit for bit, and the card; returns the card's path.

    Raises:
        UserError: safetensors is not installed.
    """
    if MISSING:
        raise UserError(f"{MISSING}: pip install safetensors")
    tensors: dict[str, Tensor] = {name: value.contiguous() for name, value in network.state_dict().items()}
    card = out.with_suffix(".md")
    about = {"format": "pt", "network": cfg.MODEL.ENCODER or cfg.MODEL.ARCH, "classes": ", ".join(label_set.names)}
    write_bytes(out, save(tensors, about))
    write_bytes(card, text(out.name, checkpoint.load(snapshot), cfg, label_set).encode())
    return card


def text(name: str, state: dict[str, Any], cfg: CfgNode, label_set: LabelSet) -> str:
    """The card in Markdown: classes, scores, configuration, and a licence line for the user to fill in."""
    page, network = StringIO(), cfg.MODEL.ENCODER or cfg.MODEL.ARCH
    page.write(f"# {name}\n\nSemantic segmentation, {network}, {label_set.num_classes} classes. Input: RGB, "
               f"mean {list(cfg.DATASET.MEAN)}, standard deviation {list(cfg.DATASET.STD)}.\n\n")
    page.write("Licence: (to be filled in: the data sets' and the pretrained weights' licences apply)\n\n")
    page.write(f"Epochs: {state.get('epoch')}. mIoU at selection, in percent: "
               f"{100 * state.get('score', 0):.1f} (0.0: no list selected it).\n\n")
    page.write("| train ID | class | colour |\n| ---: | --- | --- |\n")
    for train, (label, colour) in enumerate(zip(label_set.names, label_set.colours, strict=True)):
        page.write(f"| {train} | {label} | {', '.join(map(str, colour))} |\n")
    page.write(f"\n```yaml\n{cfg.dump().strip()}\n```\n")
    return page.getvalue()
