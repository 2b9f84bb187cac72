"""Activation checkpointing: a network's blocks are recomputed in the backward pass, to save memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from core.cli import UserError

LISTS = (nn.Sequential, nn.ModuleList)


def recompute(network: nn.Module) -> None:
    """Make the network keep only the inputs of its blocks and recompute the rest; its gradients stay the same.

    Raises:
        UserError: it has no blocks.
    """
    found = list(blocks(network))
    for row in [] if found else [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        parts = stretches(row)
        if len(parts) > 1:
            row.forward = partial(_through, parts)
            found += parts
    if not found:
        raise UserError(f"TRAIN.CHECKPOINT: {type(network).__name__} has no blocks to recompute")
    for block in found:
        block.forward = partial(_kept_small, block, block.forward)


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    """The innermost repeated modules that have submodules: residual blocks, transformer layers."""
    for child in network.children():
        inner = list(blocks(child))
        if inner:
            yield from inner
        elif isinstance(network, LISTS) and any(True for _ in child.children()):
            yield child


def stretches(row: nn.Sequential) -> list[nn.Sequential]:
    """A row of layers, split after every pooling: the blocks of networks that have no others."""
    cuts = [i + 1 for i, layer in enumerate(row) if isinstance(layer, nn.MaxPool2d) and i + 1 < len(row)]
    return [row[a:b] for a, b in zip([0, *cuts], [*cuts, len(row)], strict=True)]


def _through(parts: list[nn.Sequential], x: Tensor) -> Tensor:
    for part in parts:
        x = part(x)
    return x


def _kept_small(block: nn.Module, forward: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    # No network draws from the global generator, so its state need not be kept.
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False,
                      context_fn=lambda: (nullcontext(), _statistics_seen(block)), **kwargs)


@contextmanager
def _statistics_seen(block: nn.Module) -> Iterator[None]:
    """Leaves BatchNorm's running statistics unchanged, since the first pass has already updated them."""
    norms = [m for m in block.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked -= 1
