"""The tested encoders of timm with fewer blocks, for what runs them often."""

from functools import partial

import pytest
import torch
from torch import nn

from models import build

BLOCKS = {
    "tf_efficientnet_lite0": {}, "convnext_tiny": {"depths": (1, 1, 1, 1)}, "pvt_v2_b2": {"depths": (1, 1, 1, 1)},
    "swinv2_tiny_window8_256": {"depths": (2, 1, 1, 1)}, "vit_small_patch14_dinov2": {"depth": 4},
    "vit_small_patch16_dinov3": {"depth": 4}, "resnet50": {"layers": (1, 1, 1, 1)},
}  # fmt: skip


def shallow(name: str, classes: int, **options: float) -> nn.Module:
    """One of them, with random weights that depend on nothing but the arguments."""
    import timm

    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timm, "create_model", partial(timm.create_model, **BLOCKS[name]))
        network = build("timm", classes, encoder=name, **options)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1 and parameter.abs().max() < 0.1:  # some start with branches of next to nothing
                parameter.add_(torch.rand_like(parameter) / 2)
    network.name = name
    return network
