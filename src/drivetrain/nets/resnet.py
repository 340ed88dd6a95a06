"""Residual networks: ResNet-18 and -50 in the ImageNet form, ResNet-110 in the CIFAR form.

Source: He et al. 2016, arXiv 1512.03385.

Shapes: B images, I channels, H x W pixels, C classes.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from .initialise import he_initialise


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (figure 5 left)."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions around a shortcut (figure 5 right); the stride is on the 3x3, as in torchvision."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + self.shortcut(x))


class SubsampleAndPad(nn.Module):
    """The shortcut without parameters (option A, section 3.3): every `stride`-th pixel, zeros in the new channels."""

    def __init__(self, new_channels: int, stride: int) -> None:
        super().__init__()
        self.new_channels = new_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.new_channels // 2, self.new_channels - self.new_channels // 2))


def _stage(
    block: type[BasicBlock] | type[Bottleneck],
    in_channels: int,
    width: int,
    depth: int,
    stride: int,
    projection: bool,
) -> nn.Sequential:
    """`depth` blocks; the first changes resolution and channels, by a 1x1 projection (option B) or option A."""
    out_channels = width * block.expansion
    shortcut: nn.Module = nn.Identity()
    if stride != 1 or in_channels != out_channels:
        if projection:
            shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )
        else:
            shortcut = SubsampleAndPad(out_channels - in_channels, stride)
    blocks = [block(in_channels, width, stride, shortcut)]
    blocks += [block(out_channels, width, 1, nn.Identity()) for _ in range(depth - 1)]
    return nn.Sequential(*blocks)


class ResNet(nn.Module):
    """The ImageNet form: 7x7 stem, four stages, projection shortcuts.

    Args:
        block: `BasicBlock` or `Bottleneck`.
        depths: blocks in each of the four stages.
        num_classes: C.
        in_channels: I.

    `forward` maps (B, I, H, W), H and W at least 32 (published: 224), to logits (B, C).
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        stages = []
        channels = 64
        for index, depth in enumerate(depths):
            width = 64 * 2**index
            stages.append(_stage(block, channels, width, depth, 1 if index == 0 else 2, projection=True))
            channels = width * block.expansion
        self.stages = nn.Sequential(*stages)
        self.classifier = nn.Linear(channels, num_classes)
        he_initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(self.stem(x))
        return self.classifier(x.mean(dim=(2, 3)))


class CifarResNet(nn.Module):
    """The CIFAR form (section 4.2): 3x3 stem, three stages of n basic blocks at 16, 32 and 64 channels, depth 6n + 2.

    Args:
        depth: number of weighted layers, 6n + 2 (20, 32, 44, 56, 110).
        num_classes: C.
        in_channels: I.

    Raises:
        ValueError: the depth is not 6n + 2.

    `forward` maps (B, I, 32, 32) to logits (B, C).
    """

    def __init__(self, depth: int = 110, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"nets: a CIFAR ResNet has 6n + 2 layers (20, 32, 44, 56, 110), got depth {depth}")
        blocks = (depth - 2) // 6
        self.stem = nn.Sequential(nn.Conv2d(in_channels, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.stages = nn.Sequential(
            _stage(BasicBlock, 16, 16, blocks, 1, projection=False),
            _stage(BasicBlock, 16, 32, blocks, 2, projection=False),
            _stage(BasicBlock, 32, 64, blocks, 2, projection=False),
        )
        self.classifier = nn.Linear(64, num_classes)
        he_initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(self.stem(x))
        return self.classifier(x.mean(dim=(2, 3)))


def resnet18(num_classes: int = 1000, in_channels: int = 3) -> ResNet:
    """ResNet-18, ImageNet form: (B, I, 224, 224) to (B, C); 11,689,512 parameters at 1,000 classes."""
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, in_channels)


def resnet50(num_classes: int = 1000, in_channels: int = 3) -> ResNet:
    """ResNet-50, ImageNet form: (B, I, 224, 224) to (B, C); 25,557,032 parameters at 1,000 classes."""
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, in_channels)


def resnet110(num_classes: int = 10, in_channels: int = 3) -> CifarResNet:
    """ResNet-110, CIFAR form: (B, I, 32, 32) to (B, C); 1.7 M parameters."""
    return CifarResNet(110, num_classes, in_channels)


def resnet20(num_classes: int = 10, in_channels: int = 3) -> CifarResNet:
    """ResNet-20, CIFAR form: (B, I, 32, 32) to (B, C); 0.27 M parameters, quick on a CPU."""
    return CifarResNet(20, num_classes, in_channels)
