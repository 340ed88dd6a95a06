"""VGG-16 (Simonyan & Zisserman 2015, arXiv 1409.1556, table 1 column D).

Shapes: B images, I channels, H x W pixels, C classes.
"""

from torch import Tensor, nn

from .initialise import he_initialise

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # (channels, convolutions) between poolings


class VGG16(nn.Module):
    """Thirteen 3x3 convolutions in five pooled blocks, three linear layers; 138,357,544 parameters at 1,000 classes.

    Args:
        num_classes: C.
        in_channels: I.
        dropout: probability in the two hidden linear layers.

    `forward` maps (B, I, H, W), H and W at least 32 (published: 224), to logits (B, C).
    """

    def __init__(self, num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.5) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for width, depth in BLOCKS:
            for _ in range(depth):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.AdaptiveAvgPool2d(7),
            nn.Flatten(),
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, num_classes),
        )
        he_initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


def vgg16(num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.5) -> VGG16:
    """VGG-16; arguments as `VGG16`."""
    return VGG16(num_classes, in_channels, dropout)
