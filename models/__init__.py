"""The segmentation networks by name, initialised at random or from ImageNet (docs/method.md section 2)."""

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from core import tensor_files
from core.cli import UserError
from models.deeplabv2 import deeplabv2_resnet18, deeplabv2_resnet101, deeplabv2_vgg16_bn
from models.fcn import fcn_vgg16_bn

NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "deeplabv2_resnet18": deeplabv2_resnet18,
    "deeplabv2_resnet101": deeplabv2_resnet101,
    "deeplabv2_vgg16_bn": deeplabv2_vgg16_bn,
    "fcn_vgg16_bn": fcn_vgg16_bn,
}

logger = logging.getLogger("sac")


def build(name: str, num_classes: int, init: str = "") -> nn.Module:
    """Make a network; what `init` leaves out and what is new is said in the log, in one line.

    Args:
        name: a key of `NETWORKS`.
        num_classes: C, the number of logits at every pixel.
        init: a file of ImageNet weights as torchvision publishes it for the body; "" = all weights random.
            Random weights come from torch's global generator, so that its seed fixes them.

    Returns:
        The network, float32 on the CPU, in training mode.

    Raises:
        UserError: an unknown name; a file that is missing, unreadable or not of this network's body.
    """
    if name not in NETWORKS:
        raise UserError(f"unknown network {name!r}; it must be one of {', '.join(NETWORKS)}")
    if not init:
        return NETWORKS[name](num_classes)
    weights = _read_weights(init)
    network = NETWORKS[name](num_classes)
    left_out = _load_imagenet(network, weights, f"{init} does not hold the ImageNet weights of {name}")
    names = {module: prefix for prefix, module in network.named_modules()}
    new = ", ".join(names[module] for module in network.new_modules())
    logger.info("%s: %s; left out: %s; new: %s", name, init, ", ".join(left_out) or "nothing", new)
    return network


def _read_weights(path: str) -> dict[str, Tensor]:
    """The tensors of a weights file, by name, without running code from it; else a UserError."""
    weights = tensor_files.read(path, "file of ImageNet weights", "`bash tools/download_imagenet.sh` fetches it")
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
    ):
        raise UserError(f"{path} is not a file of weights: it must hold a dictionary of tensors")
    return weights


@torch.no_grad()
def _load_imagenet(network: nn.Module, weights: dict[str, Tensor], mismatch: str) -> list[str]:
    """Copy the body's weights [any shapes] by name into the network; the file's names that it does not use.

    Raises:
        UserError: one that the body needs is not in the file or has another shape; the message is `mismatch`
            and the first such name.
    """
    body = network.imagenet_tensors()
    for name, tensor in body.items():
        if name not in weights and name.endswith(".num_batches_tracked"):
            continue  # torchvision's files of 2017 are older than these counters
        if name not in weights:
            raise UserError(f"{mismatch}: it has no {name}")
        if weights[name].shape != tensor.shape:
            raise UserError(f"{mismatch}: {name} is {list(weights[name].shape)}, not {list(tensor.shape)}")
        tensor.copy_(weights[name])
    return [name for name in weights if name not in body]
