"""Ways to run a rewritten program; which is fastest is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from drivetrain.base.errors import unknown_name

from ..convert import to_fx
from ..term import Graph
from . import onednn, onnx

Lowering = Callable[[Graph, Mapping[str, Tensor]], nn.Module]

LOWERINGS: dict[str, Lowering] = {"eager": to_fx, "onednn": onednn.lower, "onnxruntime": onnx.lower}
_AVAILABLE = {"onednn": onednn.available, "onnxruntime": onnx.available}


def choose(then: str) -> dict[str, Lowering]:
    """The lowerings to try: one by name, or with "auto" all that are available.

    Raises:
        DrivetrainError: an unknown name.
    """
    if then == "auto":
        return {name: lower for name, lower in LOWERINGS.items() if _AVAILABLE.get(name, lambda: True)()}
    if then not in LOWERINGS:
        raise unknown_name("graph: lowering", then, [*LOWERINGS, "auto"])
    return {then: LOWERINGS[then]}
