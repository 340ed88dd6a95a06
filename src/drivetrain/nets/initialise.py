"""He initialisation, from which every convolutional network here starts (arXiv 1502.01852, section 2.2)."""

from torch import nn


def he_initialise(module: nn.Module) -> None:
    """Convolutions from N(0, 2 / fan_out), batch norms to scale 1, linear layers from N(0, 0.01²), all biases to 0."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(part, nn.BatchNorm2d):
            nn.init.ones_(part.weight)
        elif isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=0.01)
        bias = getattr(part, "bias", None)
        if isinstance(bias, nn.Parameter):
            nn.init.zeros_(bias)
