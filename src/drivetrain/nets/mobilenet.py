"""MobileNet v1 (Howard et al. 2017, arXiv 1704.04861, table 1): depthwise separable convolutions.

Shapes: B images, I channels, H x W pixels, C classes.
"""

from torch import Tensor, nn

from .initialise import he_initialise

# (output channels, stride) of the thirteen separable convolutions after the stem
LAYERS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip


def _separable(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """A 3x3 depthwise and a 1x1 pointwise convolution, each with batch norm and ReLU (figure 3 right)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 3, stride, padding=1, groups=in_channels, bias=False),
        nn.BatchNorm2d(in_channels),
        nn.ReLU(),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


class MobileNetV1(nn.Module):
    """MobileNet v1; 4,231,976 parameters at width 1 and 1,000 classes.

    Args:
        num_classes: C.
        in_channels: I.
        width: the width multiplier alpha of section 3.3.

    `forward` maps (B, I, H, W), H and W at least 32 (published: 224), to logits (B, C).
    """

    def __init__(self, num_classes: int = 1000, in_channels: int = 3, width: float = 1.0) -> None:
        super().__init__()
        channels = max(8, round(32 * width))
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, channels, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        ]
        for out_channels, stride in LAYERS:
            scaled = max(8, round(out_channels * width))
            layers.append(_separable(channels, scaled, stride))
            channels = scaled
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, num_classes)
        he_initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean(dim=(2, 3)))


def mobilenet_v1(num_classes: int = 1000, in_channels: int = 3, width: float = 1.0) -> MobileNetV1:
    """MobileNet v1; arguments as `MobileNetV1`."""
    return MobileNetV1(num_classes, in_channels, width)
