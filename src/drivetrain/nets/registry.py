"""Networks by name, built from a seed."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from drivetrain.base.errors import InvalidValue, unknown_name

from .cnn import small_cnn
from .densenet import densenet121, densenet_small
from .lenet import lenet5
from .lstm import lstm_language_model
from .mlp import mlp
from .mobilenet import mobilenet_v1
from .resnet import resnet18, resnet20, resnet50, resnet110
from .sru import sru_classifier
from .vgg import vgg16
from .wcnn import text_wcnn

NETS: dict[str, Callable[..., nn.Module]] = {
    net.__name__: net
    for net in (
        densenet121, densenet_small, lenet5, lstm_language_model, mlp, mobilenet_v1,
        resnet18, resnet20, resnet50, resnet110, small_cnn, sru_classifier, text_wcnn, vgg16,
    )
}  # fmt: skip


def build(name: str, *, seed: int | None = None, **options: Any) -> nn.Module:
    """Build a reference network by name.

    Args:
        name: one of `NETS`, as "resnet50".
        seed: fixes the initial weights and leaves torch's global generator as it was; None draws from that generator.
        options: passed to the network, as `num_classes=100`.

    Raises:
        DrivetrainError: an unknown name (the nearest is suggested).
        InvalidValue: an option that the network does not take, or a value that it refuses.
    """
    if name not in NETS:
        raise unknown_name("nets: network", name, sorted(NETS))
    try:
        if seed is None:
            return NETS[name](**options)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return NETS[name](**options)
    except (TypeError, ValueError) as error:
        raise InvalidValue(f"nets: {name} could not be built with {options}: {error}") from error
