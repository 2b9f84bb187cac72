"""The faster precision of a CPU: without bfloat16 instructions, bfloat16 takes many times as long."""

import time

import torch
from torch import nn

ROUNDS = 5


def faster() -> tuple[str, str]:
    """TRAIN.PRECISION for this machine, and why."""
    if torch.cuda.is_available():
        return "auto", "there is a GPU"
    supported = getattr(getattr(torch.ops, "mkldnn", None), "_is_mkldnn_bf16_supported", None)
    if supported is not None and not supported():
        return "float32", "this processor has no fast bfloat16"
    single, half = seconds(False), seconds(True)
    return "bfloat16" if half < single else "float32", f"a convolution takes {1000 * single:.1f} ms " \
        f"in float32, {1000 * half:.1f} ms in bfloat16"


def seconds(bfloat16: bool) -> float:
    """Seconds of the fastest of a few forward and backward passes of a convolution."""
    layer, image, best = nn.Conv2d(64, 64, 3, padding=1), torch.ones(4, 64, 32, 64), float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = layer(image).float().mean()
        loss.backward()
        best = min(best, time.perf_counter() - start)
    return best
