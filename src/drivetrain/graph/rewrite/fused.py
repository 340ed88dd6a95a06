"""The normal form's two operators: convolution and matrix product with what oneDNN can do on the way out.

`drivetrain::conv` and `drivetrain::matmul` carry a residual to add and an activation to apply, so that a rule sees
"convolution, add, ReLU" as one thing with attributes, as the paper's operators do. Run directly they are the plain
ATen operators one after another; lowerings replace them by something faster.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .term import Node

aten = torch.ops.aten

_LIBRARY = torch.library.Library("drivetrain", "FRAGMENT")
_LIBRARY.define(
    "conv(Tensor x, Tensor w, Tensor? b, Tensor? residual, int[] stride, int[] padding, int[] dilation, int groups, "
    "str activation) -> Tensor"
)
_LIBRARY.define("matmul(Tensor x, Tensor w, Tensor? b, Tensor? residual, str activation) -> Tensor")

# activation -> its ATen form; "clamp:LOW:HIGH" stands beside them
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "": lambda x: x,
    "relu": aten.relu.default,
    "sigmoid": aten.sigmoid.default,
    "tanh": aten.tanh.default,
    "silu": aten.silu.default,
    "hardswish": aten.hardswish.default,
}


def activate(x: Tensor, activation: str) -> Tensor:
    """Apply an activation by name."""
    if activation.startswith("clamp:"):
        low, high = map(float, activation.split(":")[1:])
        return aten.clamp.default(x, low, high)
    return ACTIVATIONS[activation](x)


def activation_of(node: Node) -> tuple[str, Node] | None:
    """The name of the activation that a node is, and what it is applied to; None for another operator."""
    if not node.args or not isinstance(node.args[0], Node):
        return None
    if node.op in (aten.clamp.default, aten.hardtanh.default):
        default = (None, None) if node.op is aten.clamp.default else (-1.0, 1.0)
        low, high = (node.option(name, i + 1, default[i]) for i, name in enumerate(("min", "max")))
        if isinstance(low, int | float) and isinstance(high, int | float):
            return f"clamp:{float(low)}:{float(high)}", node.args[0]
        return None
    name = next((name for name, op in ACTIVATIONS.items() if op is node.op), None)
    return None if name is None else (name, node.args[0])


def conv(
    x: Tensor, w: Tensor, b: Tensor | None, residual: Tensor | None,
    stride: list[int], padding: list[int], dilation: list[int], groups: int, activation: str,
) -> Tensor:  # fmt: skip
    """activation(convolution(x, w, b) + residual), by ATen; x [N, I, ...], w [O, I / groups, ...]."""
    y = aten.convolution.default(x, w, b, stride, padding, dilation, False, [0] * len(stride), groups)
    return activate(y if residual is None else aten.add.Tensor(y, residual), activation)


def matmul(x: Tensor, w: Tensor, b: Tensor | None, residual: Tensor | None, activation: str) -> Tensor:
    """activation(x @ w + b + residual), by ATen; x [M, I], w [I, O], b [O]."""
    y = aten.mm.default(x, w) if b is None else aten.addmm.default(b, x, w)
    return activate(y if residual is None else aten.add.Tensor(y, residual), activation)


_LIBRARY.impl("conv", conv, "CompositeImplicitAutograd")
_LIBRARY.impl("matmul", matmul, "CompositeImplicitAutograd")
CONV = torch.ops.drivetrain.conv.default
MATMUL = torch.ops.drivetrain.matmul.default


class Conv:
    """A `drivetrain::conv` node by its parts; `with_` makes another one from it.

    Attributes:
        x, w, b, residual, stride, padding, dilation, groups, activation: as in `conv`.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.x, self.w, self.b, self.residual = node.args[:4]
        self.stride, self.padding, self.dilation, self.groups, self.activation = node.args[4:]

    @staticmethod
    def of(node: Any) -> Conv | None:
        """The parts of a node that is one, else None."""
        return Conv(node) if isinstance(node, Node) and node.op is CONV else None

    @property
    def kernel(self) -> tuple[int, ...]:
        """Extent of the kernel by axis."""
        return self.w.shape[2:]

    @property
    def bare(self) -> bool:
        """Nothing happens after the convolution."""
        return self.residual is None and self.activation == ""

    @property
    def centred(self) -> bool:
        """Odd kernel, padded so that output and input positions agree at stride 1."""
        axes = zip(self.kernel, self.padding, self.dilation, strict=True)
        return all(k % 2 == 1 and 2 * p == d * (k - 1) for k, p, d in axes)

    def call(self, arena: Any, **changes: Any) -> Node:
        """The same convolution with some parts changed."""
        return _call(self, arena, CONV, _CONV_PARTS, changes)


class Matmul:
    """A `drivetrain::matmul` node by its parts."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.x, self.w, self.b, self.residual, self.activation = node.args

    @staticmethod
    def of(node: Any) -> Matmul | None:
        """The parts of a node that is one, else None."""
        return Matmul(node) if isinstance(node, Node) and node.op is MATMUL else None

    @property
    def bare(self) -> bool:
        """Nothing happens after the product."""
        return self.residual is None and self.activation == ""

    def call(self, arena: Any, **changes: Any) -> Node:
        """The same product with some parts changed."""
        return _call(self, arena, MATMUL, _MATMUL_PARTS, changes)


_CONV_PARTS = ("x", "w", "b", "residual", "stride", "padding", "dilation", "groups", "activation")
_MATMUL_PARTS = ("x", "w", "b", "residual", "activation")


def product(node: Any) -> Conv | Matmul | None:
    """A convolution or a matrix product by its parts."""
    return Conv.of(node) or Matmul.of(node)


def _call(view: Any, arena: Any, op: Any, parts: tuple[str, ...], changes: dict[str, Any]) -> Node:
    values = [changes.get(part, getattr(view, part)) for part in parts]
    return partial(arena.call, op)(*values, source=view.node.source)
