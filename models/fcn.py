"""FCN-8s on torchvision's VGG-16 with BatchNorm (docs/method.md section 2)."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.deeplabv2 import vgg16_bn_features

DROPOUT = 0.1
HIDDEN = 4096


def dropout_masks(seeds: Tensor, layers: int, channels: int, rate: float | np.ndarray) -> Tensor:
    """Which channels Dropout2d keeps in each image, a function of that image's seed only.

    They do not depend on an image's batch, micro-batch or process. NumPy draws them, since it uses all 64 bits
    of a seed; torch's CPU generator only uses the lower 32.

    Args:
        seeds: int64 [B], preferably on the CPU (elsewhere, this waits for them).
        layers: number of masks per image.
        channels: number of channels per mask.
        rate: probability in [0, 1) of dropping a channel; one for all masks, or [layers,1,1].

    Returns:
        bool [layers,B,channels,1,1] on the CPU, True = kept.
    """
    draws = np.empty((layers, len(seeds), channels), np.float32)
    for i, seed in enumerate(seeds.tolist()):
        draws[:, i] = np.random.default_rng(seed % 2**64).random((layers, channels), np.float32)
    return torch.from_numpy(draws >= rate)[..., None, None]


class FCN8s(nn.Module):
    """FCN-8s; the published names keep torchvision's indices in `block1`, `block2` and `block3`."""

    multiple_of = 32

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        features = vgg16_bn_features()
        # Slices of a Sequential keep the names of their layers: block2.24, ...
        self.block1, self.block2, self.block3 = features[:24], features[24:34], features[34:]
        # Dropout is in `_head`, since its masks come from the seeds; Identity keeps its place in the numbering.
        self.vgg_head = nn.Sequential(
            nn.Conv2d(512, HIDDEN, 7, padding=3),
            nn.BatchNorm2d(HIDDEN),
            nn.ReLU(inplace=True),
            nn.Identity(),
            nn.Conv2d(HIDDEN, HIDDEN, 1),
            nn.BatchNorm2d(HIDDEN),
            nn.ReLU(inplace=True),
            nn.Identity(),
            nn.Conv2d(HIDDEN, num_classes, 1),
        )
        self.score_pool4 = nn.Conv2d(512, num_classes, 1)
        self.score_pool3 = nn.Conv2d(256, num_classes, 1)
        for score in (self.score_pool4, self.score_pool3):
            nn.init.normal_(score.weight, 0, 0.01)
        self.masks = torch.compiler.disable(dropout_masks)  # torch.compile would compile anew for other seeds

    def forward(self, x: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Images to logits.

        Args:
            x: normalised images, float32 [B,3,H,W], H and W multiples of 32.
            seeds: int64 [B], the seed of each image's dropout masks; None turns dropout off. The training mode
                does not affect dropout, since SAC trains with BatchNorm in evaluation mode.

        Returns:
            logits [B,C,H/8,W/8].

        Raises:
            ValueError: a side is not a multiple of 32, or there is not one seed per image.
        """
        if x.shape[2] % self.multiple_of or x.shape[3] % self.multiple_of:
            raise ValueError(f"FCN-8s needs sides divisible by 32, got {x.shape[2]}x{x.shape[3]}")
        pool3 = self.block1(x)  # [B,256,H/8,W/8]
        pool4 = self.block2(pool3)  # [B,512,H/16,W/16]
        pool5 = self.block3(pool4)  # [B,512,H/32,W/32]
        logits = self.score_pool4(pool4) + _double(self._head(pool5, seeds))  # [B,C,H/16,W/16]
        return self.score_pool3(pool3) + _double(logits)  # [B,C,H/8,W/8]

    def _head(self, x: Tensor, seeds: Tensor | None) -> Tensor:
        """pool5 [B,512,h,w] to scores [B,C,h,w], with dropout if seeds [B] are given."""
        if seeds is None:
            return self.vgg_head(x)
        if seeds.shape != x.shape[:1]:
            raise ValueError(f"expected one seed for each of {len(x)} images, got {list(seeds.shape)}")
        masks = iter(self.masks(seeds, 2, HIDDEN, DROPOUT))
        for layer in self.vgg_head:
            if isinstance(layer, nn.Identity):
                x = x * (next(masks).to(x.device, x.dtype, non_blocking=True) / (1 - DROPOUT))
            else:
                x = layer(x)
        return x

    def new_modules(self) -> list[nn.Module]:
        """The modules without ImageNet weights: the head with its BatchNorm and both score layers."""
        return [self.vgg_head, self.score_pool4, self.score_pool3]

    def imagenet_tensors(self) -> dict[str, Tensor]:
        """The body's weights and statistics, by their names in torchvision's file."""
        blocks = (self.block1, self.block2, self.block3)
        return {f"features.{name}": tensor for block in blocks for name, tensor in block.state_dict().items()}


def _double(x: Tensor) -> Tensor:
    """Bilinear upsampling [B,C,h,w] to [B,C,2h,2w] with aligned corners."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


def fcn_vgg16_bn(num_classes: int) -> FCN8s:
    """FCN-8s on VGG-16 with BatchNorm."""
    return FCN8s(num_classes)
