"""Densely connected networks (Huang et al. 2017, arXiv 1608.06993): DenseNet-121 and a small CIFAR form.

Shapes: B images, I channels, H x W pixels, C classes; k is the growth rate.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .initialise import he_initialise


class DenseLayer(nn.Module):
    """BN-ReLU-conv 1x1 to 4k channels, BN-ReLU-conv 3x3 to k, appended to the input (section 3, DenseNet-B)."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.bn1(x)))
        y = self.conv2(F.relu(self.bn2(y)))
        return torch.cat([x, y], dim=1)


def _transition(in_channels: int) -> nn.Sequential:
    """Halve the channels and the resolution between dense blocks (section 3, compression 0.5)."""
    return nn.Sequential(
        nn.BatchNorm2d(in_channels),
        nn.ReLU(),
        nn.Conv2d(in_channels, in_channels // 2, 1, bias=False),
        nn.AvgPool2d(2),
    )


class DenseNet(nn.Module):
    """Dense blocks joined by transitions.

    Args:
        growth: k, channels that each layer adds.
        depths: layers in each dense block.
        num_classes: C.
        in_channels: I.
        stem: "imagenet" (7x7, stride 2, pooling) or "cifar" (3x3, full resolution).

    Raises:
        ValueError: another stem.

    `forward` maps (B, I, H, W) to logits (B, C).
    """

    def __init__(
        self,
        growth: int,
        depths: Sequence[int],
        num_classes: int = 1000,
        in_channels: int = 3,
        stem: str = "imagenet",
    ) -> None:
        super().__init__()
        channels = 2 * growth
        layers: list[nn.Module]
        if stem == "imagenet":
            layers = [
                nn.Conv2d(in_channels, channels, 7, stride=2, padding=3, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
                nn.MaxPool2d(3, stride=2, padding=1),
            ]
        elif stem == "cifar":
            layers = [nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)]
        else:
            raise ValueError(f'nets: a DenseNet stem is "imagenet" or "cifar", got {stem!r}')
        for index, depth in enumerate(depths):
            for _ in range(depth):
                layers.append(DenseLayer(channels, growth))
                channels += growth
            if index < len(depths) - 1:
                layers.append(_transition(channels))
                channels //= 2
        layers += [nn.BatchNorm2d(channels), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, num_classes)
        he_initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean(dim=(2, 3)))


def densenet121(num_classes: int = 1000, in_channels: int = 3) -> DenseNet:
    """DenseNet-121: (B, I, 224, 224) to (B, C); 7,978,856 parameters at 1,000 classes."""
    return DenseNet(32, (6, 12, 24, 16), num_classes, in_channels)


def densenet_small(
    num_classes: int = 10, in_channels: int = 3, growth: int = 12, depths: Sequence[int] = (4, 4, 4)
) -> DenseNet:
    """A small DenseNet for CIFAR-sized images: (B, I, 32, 32) to (B, C)."""
    return DenseNet(growth, depths, num_classes, in_channels, stem="cifar")
