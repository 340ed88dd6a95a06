"""LeNet-5 in the ReLU / max-pool form.

Source: LeCun et al. 1998, "Gradient-Based Learning Applied to Document Recognition", section II.B.

Shapes: B images, I channels, C classes.
"""

from torch import Tensor, nn


class LeNet5(nn.Module):
    """Two 5x5 convolutions with pooling and three linear layers; 61,706 parameters with one channel and ten classes.

    Args:
        num_classes: C.
        in_channels: I.
        image_size: side of the input, 32 or 28; 28 is zero-padded by two pixels, as the paper pads MNIST.

    Raises:
        ValueError: another image size.

    `forward` maps (B, I, image_size, image_size) to logits (B, C).
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, image_size: int = 32) -> None:
        super().__init__()
        if image_size not in (28, 32):
            raise ValueError(f"nets: lenet5 takes image_size 28 or 32, got {image_size}")
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 6, 5, padding=(32 - image_size) // 2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(16 * 5 * 5, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


def lenet5(num_classes: int = 10, in_channels: int = 1, image_size: int = 32) -> LeNet5:
    """LeNet-5; arguments as `LeNet5`."""
    return LeNet5(num_classes, in_channels, image_size)
