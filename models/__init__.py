"""The segmentation networks by name, initialised at random or from ImageNet (docs/method.md section 2)."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from core import tensor_files
from core.cli import UserError
from models.deeplabv2 import deeplabv2_resnet10, deeplabv2_resnet18, deeplabv2_resnet101, deeplabv2_vgg16_bn
from models.fcn import fcn_vgg16_bn
from models.timm_encoder import TimmNetwork, timm_network

NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "deeplabv2_resnet10": deeplabv2_resnet10,
    "deeplabv2_resnet18": deeplabv2_resnet18,
    "deeplabv2_resnet101": deeplabv2_resnet101,
    "deeplabv2_vgg16_bn": deeplabv2_vgg16_bn,
    "fcn_vgg16_bn": fcn_vgg16_bn,
}
TIMM = "timm"  # with the option `encoder`

logger = logging.getLogger("sac")


def build(name: str, num_classes: int, init: str = "", **options: Any) -> nn.Module:
    """Make a network; what `init` leaves out and what is new is said in the log, in one line.

    Args:
        name: a key of `NETWORKS`, or "timm".
        num_classes: C, the number of logits at every pixel.
        init: a file of published weights of the body, as torchvision or timm has it; "" = all weights random.
            Random weights come from torch's global generator, so that its seed fixes them.
        options: of `timm_network`; the others have none.

    Returns:
        The network, float32 on the CPU, in training mode.

    Raises:
        UserError: an unknown name; a file that is missing, unreadable or not of this network's body.
    """
    if name not in (*NETWORKS, TIMM):
        raise UserError(f"unknown network {name!r}; it must be one of {', '.join((*NETWORKS, TIMM))}")
    encoder = options.get("encoder", "")
    weights = _read_weights(init, encoder) if init else {}
    network = timm_network(num_classes, **options) if name == TIMM else NETWORKS[name](num_classes)
    if init:
        logger.info("%s: %s; %s", encoder or name, init, _initialise(network, weights, f"{init} does not hold the "
                    f"ImageNet weights of {encoder or name}"))
    return network


def _initialise(network: nn.Module, weights: dict[str, Tensor], mismatch: str) -> str:
    """Load the body's weights; what was left out, resized and is new, in words."""
    taken, left_out = network.published(weights, mismatch) if isinstance(network, TimmNetwork) else (weights, [])
    left_out += _load_imagenet(network, taken, mismatch)
    resized = [name for name, x in weights.items() if name in taken and taken[name].shape != x.shape]
    names = {module: prefix for prefix, module in network.named_modules()}
    parts = {"left out": left_out or ["nothing"], "resized": resized, "new": [names[m] for m in network.new_modules()]}
    return "; ".join(f"{part}: {', '.join(some)}" for part, some in parts.items() if some)


def _read_weights(path: str, encoder: str = "") -> dict[str, Tensor]:
    """The tensors of a weights file, by name, without running code from it; else a UserError."""
    fetches = f"python tools/download.py encoder {encoder}" if encoder else "bash tools/download_imagenet.sh"
    weights = tensor_files.read(path, "file of ImageNet weights", f"`{fetches}` fetches it")
    if encoder and isinstance(weights, dict):  # as their authors have saved some
        weights = next((weights[key] for key in ("model", "state_dict") if key in weights), weights)
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


def has_batchnorm(network: nn.Module) -> bool:
    """Whether the network has running statistics, which the ABN baseline adapts to the target."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


def synchronised(network: nn.Module) -> nn.Module:
    """The network with every BatchNorm layer synchronised over the processes."""
    if isinstance(network, TimmNetwork):
        from timm.layers import convert_sync_batchnorm  # keeps the activations inside timm's layers

        return convert_sync_batchnorm(network)
    return nn.SyncBatchNorm.convert_sync_batchnorm(network)
