"""The multilayer perceptron: linear layers with ReLU between them.

Shapes: B samples, F features (an image is flattened), C classes.
"""

from collections.abc import Sequence

from torch import Tensor, nn


class MLP(nn.Module):
    """Flatten, then `hidden` linear layers with ReLU, then a linear layer to the classes.

    Args:
        in_features: F, the number of values in one sample once flattened.
        hidden: widths of the hidden layers; empty gives a linear model.
        num_classes: C.
        dropout: probability of dropping a hidden value in training.

    `forward` maps (B, ...) with F values a sample to logits (B, C).
    """

    def __init__(
        self, in_features: int = 784, hidden: Sequence[int] = (256, 256), num_classes: int = 10, dropout: float = 0.0
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        width = in_features
        for next_width in hidden:
            layers += [nn.Linear(width, next_width), nn.ReLU()]
            if dropout:
                layers.append(nn.Dropout(dropout))
            width = next_width
        layers.append(nn.Linear(width, num_classes))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def mlp(in_features: int = 784, hidden: Sequence[int] = (256, 256), num_classes: int = 10, dropout: float = 0.0) -> MLP:
    """A multilayer perceptron; the default takes 28x28 images. Arguments as `MLP`."""
    return MLP(in_features, hidden, num_classes, dropout)
