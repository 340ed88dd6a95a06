"""A small convolutional network for images of any size: enough for digits and CIFAR, quick on a CPU.

Shapes: B images, I channels, H x W pixels, C classes.
"""

from torch import Tensor, nn

from .initialise import he_initialise


class SmallCNN(nn.Module):
    """Three blocks of 3x3 convolution, batch norm, ReLU and 2x2 pooling, then the mean over space and a linear layer.

    Args:
        num_classes: C.
        in_channels: I.
        width: channels of the first block; the next have 2 and 4 times as many.

    `forward` maps (B, I, H, W), H and W at least 8, to logits (B, C).
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 3, width: int = 32) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        channels = in_channels
        for factor in (1, 2, 4):
            blocks += [
                nn.Conv2d(channels, width * factor, 3, padding=1, bias=False),
                nn.BatchNorm2d(width * factor),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
            channels = width * factor
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))
        he_initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


def small_cnn(num_classes: int = 10, in_channels: int = 3, width: int = 32) -> SmallCNN:
    """A small convolutional network; arguments as `SmallCNN`."""
    return SmallCNN(num_classes, in_channels, width)
