"""How the networks run: device, precision, micro-batches. What they compute does not depend on it, but for rounding."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Compute:
    """How the networks run; what they compute does not depend on it, but for rounding.

    Args:
        device: where.
        bfloat16: autocast around the networks, and around nothing else.
        micro_batch: images in a forward pass; 0 = all.
        compiled: torch.compile the networks.
    """

    def __init__(self, device: torch.device, bfloat16: bool, micro_batch: int = 0, compiled: bool = False) -> None:
        self.device, self.bfloat16, self.micro_batch, self.compiled = device, bfloat16, micro_batch, compiled

    def logits(self, network: nn.Module, image: Tensor, seeds: Tensor | None = None) -> Tensor:
        """The network's logits at stride 8, float32, of images [b,3,H,W] -> [b,C,h,w]."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            logits = network(image, seeds)
        return logits.float()

    def slices(self, n: int) -> Iterator[slice]:
        """The micro-batches of `n` images."""
        step = self.micro_batch or n
        return (slice(i, min(i + step, n)) for i in range(0, n, step))

    def called(self, network: nn.Module) -> nn.Module:
        """The network as it is called: compiled, where that is wanted."""
        return torch.compile(network) if self.compiled else network


def uses_bfloat16(precision: str, device: torch.device) -> bool:
    """TRAIN.PRECISION on a device: auto = bfloat16 on CUDA devices that compute in it, float32 elsewhere."""
    return precision == "bfloat16" or (
        precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    )
