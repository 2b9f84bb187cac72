"""Any timm encoder with a light head: logits at stride 8 (docs/encoders.md).

The encoder is timm's own module without its classifier; its weights keep their published names under `encoder.model`.
The package timm is optional: it is only imported when such a network is built.
"""

import difflib
import importlib
import math
from collections.abc import Sequence
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.cli import UserError
from models.fcn import dropout_masks
from models.resampling import bicubic, stride_8

TESTED = (
    "tf_efficientnet_lite0", "convnext_tiny", "pvt_v2_b2", "swinv2_tiny_window8_256", "vit_small_patch14_dinov2",
    "vit_small_patch16_dinov3", "resnet50",
)
WIDTH = 256  # channels of the head


class DropPath(nn.Module):
    """Stochastic depth: drops a residual branch for the given images."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.factor: Tensor | None = None  # [B], 0 or 1 / (1 - rate); None = every branch is kept

    def forward(self, x: Tensor) -> Tensor:
        """A branch [B,...] -> [B,...]."""
        return x if self.factor is None else x * self.factor.to(x.dtype).view(-1, *[1] * (x.dim() - 1))


class Encoder(nn.Module):
    """A timm model as a function from images to up to four feature maps.

    Args:
        model: timm's; its classifier, and what only that needs, is removed.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        strides = [info["reduction"] for info in model.feature_info]
        self.stages = choose(strides)
        model.prune_intermediate_layers(self.stages, prune_norm=False, prune_head=True)
        self.model = model
        self.strides = [strides[i] for i in self.stages]
        self.channels = [model.feature_info[i]["num_chs"] for i in self.stages]
        embedded = isinstance(getattr(model, "pos_embed", None), nn.Parameter)
        self.grid = model.patch_embed.grid_size if embedded else None  # of the published position embeddings

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images [B,3,H,W], H and W multiples of every stride s -> features [B,channels,H/s,W/s] of each stage."""
        published = self.model._parameters.get("pos_embed")
        if self.grid is not None:
            self.model._parameters["pos_embed"] = self._positions(x)
        try:
            return self.model.forward_intermediates(x, indices=self.stages, norm=True, intermediates_only=True)
        finally:
            if self.grid is not None:
                self.model._parameters["pos_embed"] = published

    def _positions(self, x: Tensor) -> Tensor:
        """The position embeddings for images [B,3,H,W].

        The parameter keeps its published size, so that a snapshot fits any crop size.
        """
        embedding, patches = self.model.pos_embed, self.model.patch_embed
        tokens = embedding.shape[1] - math.prod(self.grid)  # such as the class token; kept as they are
        prefix, grid = embedding[:, :tokens], embedding[:, tokens:]
        rows, columns = (side // s for side, s in zip(x.shape[2:], patches.patch_size, strict=True))
        patches.grid_size = (rows, columns)  # so that timm does not resize them again
        vertical, horizontal = bicubic(rows, self.grid[0], x.device), bicubic(columns, self.grid[1], x.device)
        # In double precision, which autocast leaves alone.
        grid = grid.double().transpose(1, 2).unflatten(2, self.grid)  # [1,D,height,width]
        grid = vertical.double() @ grid @ horizontal.double().T  # [1,D,rows,columns]
        return torch.cat([prefix, grid.flatten(2).transpose(1, 2).to(prefix.dtype)], dim=1)


class Head(nn.Module):
    """1x1 laterals to a common width, summed at stride 8, and a 3x3 convolution to the logits."""

    def __init__(self, channels: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(c, WIDTH, 1) for c in channels)
        self.classifier = nn.Conv2d(WIDTH, num_classes, 3, padding=1)
        nn.init.normal_(self.classifier.weight, 0, 0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, maps: Sequence[Tensor], strides: Sequence[int], size: Sequence[int]) -> Tensor:
        """Feature maps [B,channels,h_i,w_i] at `strides` -> logits [B,C,H//8+1,W//8+1] for images of `size` (H, W).

        Padding added to that size at the right and bottom is beyond the last logit.
        """
        summed = None
        for x, stride, lateral in zip(maps, strides, self.laterals, strict=True):
            vertical, horizontal = (
                stride_8(side, stride, n, x.device) for side, n in zip(size, x.shape[2:], strict=True)
            )
            x = vertical @ (lateral(x) @ horizontal.T)  # [B,WIDTH,H//8+1,W//8+1]
            summed = x if summed is None else summed + x
        return self.classifier(F.relu(summed))


class TimmNetwork(nn.Module):
    """A timm encoder with the light head; `multiple_of` is 1, since it pads images itself.

    Args:
        model: timm's.
        num_classes: C.
    """

    multiple_of = 1

    def __init__(self, model: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.encoder = Encoder(model)
        self.head = Head(self.encoder.channels, num_classes)
        self.patch = math.lcm(*self.encoder.strides)
        self.paths = [module for module in model.modules() if isinstance(module, DropPath)]
        self.has_batchnorm = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
        self.masks = torch.compiler.disable(dropout_masks)  # torch.compile would compile anew for other seeds
        self._freeze_unused()

    def forward(self, x: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Images to logits.

        Args:
            x: normalised images, float32 [B,3,H,W], H and W at least 8.
            seeds: int64 [B], for each image's dropped paths; None = nothing is dropped.

        Returns:
            logits [B,C,H//8+1,W//8+1].
        """
        if not len(x) and not self.has_batchnorm:  # attention fails on empty batches, synchronised BatchNorm does not
            return self(x.new_zeros(1, *x.shape[1:]))[:0]
        self._draw_paths(seeds, x.device)
        bottom, right = (-side % self.patch for side in x.shape[2:])
        padded = F.pad(x, (0, right, 0, bottom))
        return self.head(self.encoder(padded), self.encoder.strides, x.shape[2:])

    def new_modules(self) -> list[nn.Module]:
        """The modules without published weights: the head."""
        return [self.head]

    def imagenet_tensors(self) -> dict[str, Tensor]:
        """The encoder's tensors by their published names."""
        return self.encoder.model.state_dict()

    def published(self, weights: dict[str, Tensor], mismatch: str) -> tuple[dict[str, Tensor], list[str]]:
        """Convert a file's tensors with timm: to its own names, embeddings resampled to this network's sizes.

        Args:
            weights: a published file's tensors by name, from timm's repository or the authors'.
            mismatch: the message if timm cannot convert them.

        Returns:
            the tensors, and the names of those in the file that timm leaves out.
        """
        model = self.encoder.model
        if self.encoder.grid is not None:
            model.patch_embed.grid_size = self.encoder.grid
        convert = getattr(importlib.import_module(type(model).__module__), "checkpoint_filter_fn", None)
        if convert is None:
            return weights, []
        try:
            taken = convert(dict(weights), model)
        except Exception as error:  # unexpected tensors make it raise anything
            raise UserError(f"{mismatch}: {str(error).strip() or type(error).__name__}") from error
        memory = {tensor.untyped_storage().data_ptr() for tensor in taken.values()}
        return taken, [name for name, tensor in weights.items()
                       if name not in taken and tensor.untyped_storage().data_ptr() not in memory]

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that timm's recipes never decay, such as tokens and position embeddings."""
        names = getattr(self.encoder.model, "no_weight_decay", set)()
        return {f"encoder.model.{name}" for name in names}

    def layers_behind(self) -> dict[str, int]:
        """How many layers before the encoder's last one each of its parameters is, by name."""
        from timm.models import group_parameters

        model = self.encoder.model
        if not hasattr(model, "group_matcher"):
            raise UserError(f"timm does not group the layers of {type(model).__name__}: leave MODEL.LAYER_DECAY at 1")
        layers = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
        return {f"encoder.model.{name}": max(layers.values()) - layer for name, layer in layers.items()}

    def _draw_paths(self, seeds: Tensor | None, device: torch.device) -> None:
        """Choose the paths to drop, by each image's seed only."""
        if not self.paths:
            return
        factors: Sequence[Tensor | None] = [None] * len(self.paths)
        if seeds is not None:
            rates = np.array([path.rate for path in self.paths], np.float32)[:, None, None]
            kept = self.masks(seeds, len(self.paths), 1, rates).flatten(1)  # [paths,B]
            factors = (kept / (1 - torch.from_numpy(rates)[:, 0])).to(device, non_blocking=True)
        for path, factor in zip(self.paths, factors, strict=True):
            path.factor = factor

    @torch.enable_grad()
    def _freeze_unused(self) -> None:
        """Freeze the parameters that get no gradient from a small image's logits: they have no part in them."""
        training = self.training
        self.eval()(torch.zeros(1, 3, 2 * self.patch, 3 * self.patch)).sum().backward()
        for parameter in self.parameters():
            parameter.requires_grad_(parameter.grad is not None)
            parameter.grad = None
        self.train(training)


def choose(strides: Sequence[int]) -> list[int]:
    """Which of an encoder's stages, with these strides, the head uses.

    The last of each stride, at most four; if all have the same, as in a plain ViT, the last of each quarter.
    """
    last = sorted({stride: index for index, stride in enumerate(strides)}.values())
    if len(last) > 1:
        return last[-4:]
    return sorted({max(0, len(strides) * quarter // 4 - 1) for quarter in (1, 2, 3, 4)})


def timm_network(num_classes: int, encoder: str, drop_path: float = 0.0, patch_size: int = 0) -> TimmNetwork:
    """A network with the timm encoder of this name, with random weights.

    Args:
        num_classes: C.
        encoder: a name in timm.
        drop_path: stochastic depth rate in the last block, in [0, 1); lower in earlier blocks.
        patch_size: of a ViT, in pixels; 0 = as published.

    Raises:
        UserError: timm is not installed, has no such encoder, or has one that cannot be used here.
    """
    timm = installed()
    tested = f"tested: {', '.join(TESTED)}"
    if not timm.is_model(encoder):
        close = difflib.get_close_matches(encoder, timm.list_models(), 1)
        raise UserError(f"MODEL.ENCODER = {encoder!r}: timm {timm.__version__} has no such model"
                        f"{f'; did you mean {close[0]}?' if close else ''} ({tested})")
    options = {"drop_path_rate": drop_path or None, "patch_size": patch_size or None}  # None = as published
    try:
        try:  # many transformers only take images of any size if asked to
            model = timm.create_model(encoder, num_classes=0, dynamic_img_size=True, **options)
        except TypeError:  # others do not know this option
            model = timm.create_model(encoder, num_classes=0, **options)
        _own_randomness(model, drop_path)
        return TimmNetwork(model, num_classes)
    except Exception as error:  # a thousand models may raise anything
        raise UserError(f"MODEL.ENCODER = {encoder!r} cannot be used: {_reason(error)} ({tested})") from error


def _reason(error: Exception) -> str:
    said = str(error).strip().split("\n")[0]
    if isinstance(error, AttributeError):
        return "it does not return feature maps"
    if isinstance(error, TypeError) and "drop_path_rate" in said:
        return "it has no stochastic depth (MODEL.DROP_PATH)"
    if isinstance(error, TypeError) and "patch_size" in said:
        return "it has no patches (MODEL.PATCH_SIZE)"
    return said.rstrip(".")


def installed() -> ModuleType:
    """The package timm, or a UserError."""
    try:
        return importlib.import_module("timm")
    except ImportError:
        raise UserError("MODEL.ARCH timm needs the package timm: pip install -r requirements-encoders.txt") from None


def _own_randomness(model: nn.Module, drop_path: float) -> None:
    """Remove all randomness from `model`, except for dropped paths, which the images' seeds determine."""
    from timm.layers import DropPath as Drawn

    for module in list(model.modules()):
        if hasattr(module, "aug_active"):  # of rotary embeddings
            module.aug_active = False
        for name, child in module.named_children():
            if isinstance(child, Drawn):
                setattr(module, name, DropPath(child.drop_prob) if drop_path and child.drop_prob else nn.Identity())
            elif isinstance(child, nn.modules.dropout._DropoutNd):
                child.p = 0.0
    if drop_path and not any(isinstance(module, DropPath) for module in model.modules()):
        raise ValueError("it has no stochastic depth (MODEL.DROP_PATH)")
