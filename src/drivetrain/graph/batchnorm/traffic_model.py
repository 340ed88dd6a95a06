"""The memory traffic of batch normalisation: sweeps over a feature map, before and after (spec 19, 2.4).

One sweep reads or writes a feature map of F bytes once. The sweeps of one edge conv1 -> BN -> ReLU -> conv2 are counted
for four forms: the plain one, +RCF (ReLU in the convolution), +MVF (mean and variance in one sweep), BNFF (all fused).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from drivetrain.base.errors import InvalidValue

from .plan import Match, concat_parts, is_concat, match, trace

LEVELS = ("baseline", "rcf", "mvf", "bnff")
# step -> sweeps in each level
FORWARD = {
    "conv1 write": (1, 1, 1, 1),
    "mean and variance read": (2, 2, 1, 0),
    "normalise read and write": (2, 2, 2, 0),
    "ReLU read and write": (2, 0, 0, 0),
    "conv2 read": (1, 1, 1, 1),
}
BACKWARD = {
    "conv2-backward-data write da, or dz and x": (1, 1, 1, 2),
    "ReLU-backward": (3, 1, 1, 0),
    "BN-backward reduce": (2, 2, 2, 0),
    "BN-backward apply": (3, 3, 3, 0),
    "conv1-backward-data and -weights read": (2, 2, 2, 4),
    "conv2-backward-weights read": (1, 1, 1, 1),
}


def sweeps(level: str) -> tuple[int, int]:
    """Sweeps of an edge forward and backward; "baseline" (8, 12), "bnff" (2, 7).

    Raises:
        InvalidValue: another level.
    """
    if level not in LEVELS:
        raise InvalidValue(f"graph: level {level!r}", hint=f"one of {', '.join(LEVELS)}")
    column = LEVELS.index(level)
    return sum(row[column] for row in FORWARD.values()), sum(row[column] for row in BACKWARD.values())


@dataclass(frozen=True)
class Row:
    """An edge's traffic: `feature_bytes` is the BN's input, for the whole batch."""

    bn: str
    shape: tuple[int, ...]
    feature_bytes: int
    shared: bool
    fused: bool
    reason: str


@dataclass(frozen=True)
class Traffic:
    """What a model's batch norms move in a training step.

    Attributes:
        rows: one for each batch norm.
        composite_layers: BN-ReLU-conv pairs whose result joins a concatenation (58 in DenseNet-121).
        distinct_bytes: features behind the `shared` inputs, each counted once.
    """

    rows: tuple[Row, ...]
    composite_layers: int
    distinct_bytes: int

    @property
    def edge_bytes(self) -> int:
        """Inputs of the batch norms with a ReLU and a convolution behind."""
        return sum(row.feature_bytes for row in self.rows if row.fused)

    @property
    def shared_bytes(self) -> int:
        """Of these, inputs whose features other batch norms read, too."""
        return sum(row.feature_bytes for row in self.rows if row.fused and row.shared)

    def step_bytes(self, level: str = "baseline") -> int:
        """Bytes of a forward and backward pass over all edges."""
        return sum(sweeps(level)) * self.edge_bytes


def traffic(model: nn.Module, input_shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Traffic:
    """Table 2.4 applied to a model; runs on shapes alone, nothing is computed.

    Args:
        model: any model that torch.fx can trace.
        input_shape: (N, C, H, W).

    Raises:
        InvalidValue: the model can't be traced, or does not take this shape.
    """
    traced = trace(model)
    shapes = features(traced, [torch.empty(tuple(input_shape), dtype=dtype, device="meta")])
    matches = match(traced)
    read_by = _readers(matches)
    rows, distinct = [], {}
    for found in matches:
        parts = _leaves(found.bn.args[0])
        shared = any(read_by[part] > 1 for part in parts)
        value = shapes[found.bn]
        fused = found.conv is not None and found.edge.applied
        rows.append(
            Row(found.edge.bn, tuple(value.shape), value.nbytes, shared, fused, found.edge.reason)
        )  # fmt: skip
        if fused and shared:
            distinct.update({part: shapes[part].nbytes for part in parts})
    composite = sum(
        found.conv is not None and any(is_concat(user) for user in found.conv.users) for found in matches
    )  # fmt: skip
    return Traffic(tuple(rows), composite, sum(distinct.values()))


def _leaves(node: Any) -> list[fx.Node]:
    """The features behind a tree of concatenations."""
    return [leaf for part in concat_parts(node) for leaf in _leaves(part)] if is_concat(node) else [node]


def _readers(matches: Sequence[Match]) -> dict[fx.Node, int]:
    count: dict[fx.Node, int] = {}
    for found in matches:
        for leaf in _leaves(found.bn.args[0]):
            count[leaf] = count.get(leaf, 0) + 1
    return count


def features(traced: fx.GraphModule, inputs: Sequence[Any]) -> dict[fx.Node, torch.Tensor]:
    """The (fake) tensor behind each node of a trace, for inputs like these; nothing is computed.

    Raises:
        InvalidValue: the model does not take such inputs.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    found: dict[fx.Node, torch.Tensor] = {}

    class Record(fx.Interpreter):
        def run_node(self, node: fx.Node) -> Any:
            value = super().run_node(node)
            if isinstance(value, torch.Tensor):
                found[node] = value
            return value

    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            kept = _evaluating(traced)
            try:
                fakes = [
                    torch.empty_like(value, device="cpu" if value.is_meta else None) if isinstance(value, torch.Tensor)
                    else value for value in inputs
                ]  # fmt: skip
                Record(traced).run(*fakes)
            finally:
                for module in kept:
                    module.training = True
    except InvalidValue:
        raise
    except Exception as error:
        raise InvalidValue(
            f"graph: the model does not take an input of shape {_shape_of(inputs)}: {str(error).splitlines()[0]}"
        ) from error
    return found


def _shape_of(inputs: Sequence[Any]) -> str:
    return ", ".join(str(list(value.shape)) for value in inputs if isinstance(value, torch.Tensor))


def _evaluating(traced: nn.Module) -> list[nn.Module]:
    """Batch norms in training mode would write fake numbers into real buffers: eval for the while; those changed."""
    changed: list[nn.Module] = [
        m for m in traced.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training
    ]
    for module in changed:
        module.training = False
    return changed
