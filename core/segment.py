"""A snapshot as a function from a picture to its mask, with class names and colours (README.md, From Python)."""

import os
from dataclasses import dataclass

import numpy as np
import torch
from yacs.config import CfgNode

from core import checkpoint, config, visual
from core.cli import UserError
from core.compute import Compute
from core.files import parse_yaml
from core.inference import Predictor, load_network
from datasets import labels
from datasets.labels import LabelSet


@dataclass(frozen=True)
class Segmenter:
    """A network that segments pictures, and the classes of its masks.

    Args:
        predict: the network, and how and where it is applied.
        labels: names and colours of the classes.
    """

    predict: Predictor
    labels: LabelSet

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """The mask uint8 [H,W] of an RGB picture uint8 [H,W,3]: train IDs, indices into `labels.names`."""
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise UserError(f"expected a picture uint8 [H,W,3], got {image.dtype} {list(image.shape)}")
        return self.predict(torch.from_numpy(np.ascontiguousarray(image)))[0].cpu().numpy()

    def overlay(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """The mask's colours over the picture, with a legend -> uint8 [H+h,W,3]."""
        return visual.explained(image, mask, self.labels.palette(), self.labels.names)


def load(snapshot: str, cfg: str = "", device: str = "auto", teacher: bool = False) -> Segmenter:
    """Load a snapshot.

    Args:
        snapshot: its file.
        cfg: configuration file; needed if the snapshot contains none, like the authors'.
        device: `cuda`, `cpu` or `auto`.
        teacher: use the teacher's weights, not the student's.

    Raises:
        UserError: the snapshot cannot be read, does not fit, or needs a configuration.
    """
    settings, label_set = described(snapshot, cfg)
    device = "cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu")
    network = load_network(
        settings.MODEL.ARCH, label_set.num_classes, snapshot, teacher, **config.network_options(settings))
    network = network.to(device, memory_format=torch.channels_last)
    compute = Compute.of(settings.TRAIN.PRECISION, torch.device(device))
    return Segmenter(Predictor(network, compute, settings.DATASET.MEAN, settings.DATASET.STD), label_set)


def described(snapshot: str, cfg: str = "") -> tuple[CfgNode, LabelSet]:
    """Configuration and classes of a snapshot: its own, or the file's."""
    own = checkpoint.load(snapshot).get("run")
    own = own if isinstance(own, dict) else {}
    if cfg:
        settings, _ = config.load(cfg)
    elif isinstance(own.get("config"), str):
        settings = _parsed(own["config"], snapshot)
    else:
        raise UserError(f"{snapshot} contains no configuration; pass one as cfg, e.g. "
                        "configs/deeplabv2_resnet101_train.yaml")
    names, colours = own.get("classes"), own.get("colours")
    if cfg or not names or not colours:
        return settings, labels.load(settings.DATASET.CLASSES)
    return settings, LabelSet(snapshot, tuple(names), tuple(map(tuple, colours)), dict(enumerate(range(len(names)))))


def _parsed(text: str, snapshot: str) -> CfgNode:
    """Check a configuration dumped by a run, like a file's; keys that this version does not know are dropped."""
    known = {key.name for key in config.KEYS}
    try:
        entries = {f"{s}.{k}": value for s, keys in parse_yaml(text, snapshot).items() for k, value in keys.items()}
    except (UserError, AttributeError):
        raise UserError(f"{snapshot}: its configuration is damaged; pass a file as cfg") from None
    return config.load(os.devnull, [x for pair in entries.items() if pair[0] in known for x in pair])[0]
