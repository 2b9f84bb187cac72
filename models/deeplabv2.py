"""DeepLabv2 on torchvision's ResNet and VGG: logits at stride 8 (docs/method.md section 2).

The bodies are torchvision's own modules; only strides, dilations and the pooling's rounding are changed.
Every network of `models` has the same face: `forward(x, seeds=None)`, `new_modules()`, `imagenet_tensors()`
and `multiple_of`, the number of pixels that the image's sides must be multiples of.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

# torchvision is imported where a network is built: its import takes as long as torch's, and most tools build none.
if TYPE_CHECKING:
    from torchvision.models import ResNet

DILATIONS = (6, 12, 18, 24)


class Head(nn.Module):
    """The sum of four parallel dilated 3x3 convolutions, weights ~ N(0, 0.01)."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv2d_list = nn.ModuleList(
            nn.Conv2d(channels, num_classes, 3, padding=dilation, dilation=dilation) for dilation in DILATIONS
        )
        for conv in self.conv2d_list:
            nn.init.normal_(conv.weight, 0, 0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Features [B,channels,h,w] to logits [B,C,h,w]."""
        logits = self.conv2d_list[0](x)
        for conv in self.conv2d_list[1:]:
            logits = logits + conv(x)
        return logits  # [B,C,h,w]


def dilate(layer: nn.Module, dilation: int) -> None:
    """Give every convolution of `layer` stride 1, and every 3x3 one this dilation and padding."""
    for module in layer.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
            if module.kernel_size == (3, 3):
                module.dilation = module.padding = (dilation, dilation)


class DeepLabResNet(nn.Module):
    """DeepLabv2 on a ResNet; the published names are `model.*` with the head as `model.layer5`."""

    multiple_of = 1

    def __init__(self, body: "ResNet", num_classes: int) -> None:
        super().__init__()
        channels = body.fc.in_features
        del body.avgpool, body.fc
        body.maxpool.ceil_mode = True
        entrance = body.layer2[0]
        if hasattr(entrance, "conv3"):  # a bottleneck
            # The stride is in the first 1x1 convolution, as in Caffe; torchvision has it in the 3x3.
            entrance.conv1.stride, entrance.conv2.stride = (2, 2), (1, 1)
        dilate(body.layer3, 2)
        dilate(body.layer4, 4)
        body.layer5 = Head(channels, num_classes)
        self.model = body

    def forward(self, x: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Images to logits.

        Args:
            x: normalised images, float32 [B,3,H,W], any H and W.
            seeds: ignored, for there is no dropout here (see `models.fcn`).

        Returns:
            logits [B,C,h,w] at stride 8, with the pooling's ceil mode: h = (H + 1) // 8 + 1, w alike.
        """
        # What is left of torchvision's body stands in the order in which its own forward goes through it.
        for part in self.model.children():
            x = part(x)
        return x

    def new_modules(self) -> list[nn.Module]:
        """The modules without ImageNet weights: ten times the learning rate."""
        return [self.model.layer5]

    def imagenet_tensors(self) -> dict[str, Tensor]:
        """The body's weights and statistics by the names that they have in torchvision's file."""
        tensors = self.model.state_dict()
        return {name: tensor for name, tensor in tensors.items() if not name.startswith("layer5.")}


def vgg16_bn_features() -> nn.Sequential:
    """The features of torchvision's `vgg16_bn`, initialised as there.

    Its classifier, nine tenths of the weights, serves no network here; on the meta device it costs nothing.
    """
    from torchvision.models import vgg16_bn

    with torch.device("meta"):
        features = vgg16_bn(weights=None).features
    features.to_empty(device="cpu")
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()
    return features


class DeepLabVGG(nn.Module):
    """DeepLabv2 on VGG-16 with BatchNorm, without pool4 and pool5, so that all behind them moves up."""

    multiple_of = 1
    POOL4, POOL5 = 33, 43  # in torchvision's features
    BODY = 42  # layers in ours before fc6

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        features = vgg16_bn_features()
        dilate(features[self.POOL4 : self.POOL5], 2)
        fc6 = nn.Conv2d(512, 1024, 3, padding=4, dilation=4)
        fc7 = nn.Conv2d(1024, 1024, 3, padding=4, dilation=4)
        kept = [layer for index, layer in enumerate(features) if index not in (self.POOL4, self.POOL5)]
        self.features = nn.Sequential(*kept, fc6, nn.ReLU(inplace=True), fc7, nn.ReLU(inplace=True))
        self.classifier = Head(1024, num_classes)

    def forward(self, x: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Images to logits.

        Args:
            x: normalised images, float32 [B,3,H,W], H and W at least 8.
            seeds: ignored, for there is no dropout here (see `models.fcn`).

        Returns:
            logits [B,C,h,w] at stride 8: h = H // 8, w alike.
        """
        return self.classifier(self.features(x))

    def new_modules(self) -> list[nn.Module]:
        """The modules without ImageNet weights: fc6, fc7 and the head."""
        fc6, _, fc7, _ = self.features[self.BODY :]
        return [fc6, fc7, self.classifier]

    def imagenet_tensors(self) -> dict[str, Tensor]:
        """The body's weights and statistics by the names that they have in torchvision's file."""
        tensors = {}
        for name, tensor in self.features[: self.BODY].state_dict().items():
            index, kind = name.split(".")
            behind_pool4 = int(index) >= self.POOL4
            tensors[f"features.{int(index) + behind_pool4}.{kind}"] = tensor
        return tensors


def deeplabv2_resnet10(num_classes: int) -> DeepLabResNet:
    """DeepLabv2 on ResNet-10, which has one block per layer: for the demo, with half of ResNet-18's arithmetic."""
    from torchvision.models.resnet import BasicBlock, ResNet

    return DeepLabResNet(ResNet(BasicBlock, [1, 1, 1, 1], zero_init_residual=True), num_classes)


def deeplabv2_resnet18(num_classes: int) -> DeepLabResNet:
    """DeepLabv2 on ResNet-18: for small machines and the tests."""
    from torchvision.models import resnet18

    return DeepLabResNet(resnet18(weights=None, zero_init_residual=True), num_classes)


def deeplabv2_resnet101(num_classes: int) -> DeepLabResNet:
    """DeepLabv2 on ResNet-101."""
    from torchvision.models import resnet101

    return DeepLabResNet(resnet101(weights=None, zero_init_residual=True), num_classes)


def deeplabv2_vgg16_bn(num_classes: int) -> DeepLabVGG:
    """DeepLabv2 on VGG-16 with BatchNorm."""
    return DeepLabVGG(num_classes)
