"""Whether fusing an edge pays here: both forms are timed once for each shape and kept in the machine's cost table."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from drivetrain.graph._torch_compat import _disable_current_modes
from drivetrain.graph.cost import CostTable, default_path, fastest_of

from . import kernel, ops
from .plan import Match, is_concat, is_product
from .statistics import batch_statistics

if TYPE_CHECKING:
    from .joint import Found

IMAGES = 2  # time is linear in the batch: a few images are enough to compare
ROUNDS = 3
GAIN = 0.98  # the fused form must take at most this share, so that noise does not decide


class Chooser:
    """Answers `faster` from the table of times by hardware, measuring what it lacks."""

    def __init__(self, table: CostTable | None = None) -> None:
        self.table = CostTable(default_path()) if table is None else table

    def faster(self, found: Found, known: bool = False) -> bool:
        """Whether an edge takes less time fused, forward and backward; `known`: its statistics are there already."""
        shape = [int(size) for size in found.bn.meta["val"][0].shape]
        # From 16 images on torch takes other kernels for 1x1 convolutions.
        shape[0] = min(shape[0], 16 if shape[0] >= 16 else IMAGES)
        rows = not found.bn.meta["val"][0].is_contiguous()
        attributes: tuple[Any, ...] = ()
        if found.conv is not None:
            weight = found.conv.args[1].meta["val"]  # type: ignore[union-attr]
            attributes = ([int(size) for size in weight.shape], *found.conv.args[3:6], found.conv.args[8])
        joined = found.residual is not None
        key = f"bn:{shape}:{attributes}:{joined}:{known}:{'rows' if rows else 'planes'}:True"
        return self.decide(key, shape, attributes, joined, known, rows)

    def edge_pays(self, found: Match, traced: fx.GraphModule, value: Tensor, rows: bool) -> bool:
        """The same for an edge of a trace, on its own number of images; rows: in channels_last."""
        attributes: tuple[Any, ...] = ()
        if found.conv is not None:
            conv: Any = traced.get_submodule(str(found.conv.target))
            shape_of = (list(conv.stride), list(conv.padding), list(conv.dilation), conv.groups)
            attributes = ([int(size) for size in conv.weight.shape], *shape_of)
        source, shape = found.bn.args[0], [int(size) for size in value.shape]
        known = is_concat(source) or is_product(source, traced)
        joined = found.residual is not None
        relu = found.last is not found.bn
        key = f"bn:{shape}:{attributes}:{joined}:{known}:{'rows' if rows else 'planes'}:{relu}"
        return self.decide(key, shape, attributes, joined, known, rows, relu)

    def decide(
        self, key: str, shape: list[int], attributes: tuple[Any, ...], joined: bool, known: bool = False,
        rows: bool = False, relu: bool = True,
    ) -> bool:  # fmt: skip
        """The comparison itself, on random values."""
        if kernel.load() is None:
            return False
        if key + ":fused" not in self.table.times:
            # The pass runs while torch traces: numbers are wanted here, not fake tensors.
            with _disable_current_modes(), torch.enable_grad():
                forms = _forms(shape, attributes, joined, known, rows, relu)
                for form, measured in zip(("plain", "fused"), fastest_of(*forms, rounds=ROUNDS), strict=True):
                    self.table.times[f"{key}:{form}"] = measured
                    self.table.added += 1
        return self.table.times[key + ":fused"].us <= GAIN * self.table.times[key + ":plain"].us

    def save(self) -> None:
        """Keep what was measured."""
        self.table.save()


def _forms(
    shape: list[int], attributes: tuple[Any, ...], joined: bool, known: bool, rows: bool = False, relu: bool = True
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    layout = torch.channels_last if rows else torch.contiguous_format

    def leaf(size: list[int]) -> Tensor:
        return torch.randn(size).to(memory_format=layout).requires_grad_()

    x = leaf(shape)
    gamma, beta = torch.ones(shape[1], requires_grad=True), torch.zeros(shape[1], requires_grad=True)
    residual = leaf(shape) if joined else None
    weight = leaf(attributes[0]) if attributes else None
    leaves = [value for value in (x, gamma, beta, residual, weight) if value is not None]
    count = shape[0] * shape[2] * shape[3]

    found = batch_statistics(x) if known else None

    def step(y: Tensor) -> None:
        torch.autograd.grad(y, leaves, torch.ones_like(y))

    def plain() -> None:
        z = torch.nn.functional.batch_norm(x, None, None, gamma, beta, True)
        z = z if residual is None else z + residual
        a = torch.relu(z) if relu else z
        step(a if weight is None else torch.nn.functional.conv2d(a, weight, None, *attributes[1:]))

    def fused() -> None:
        mean, m2 = batch_statistics(x) if found is None else found
        inv = (m2 / count + 1e-5).rsqrt()
        if weight is None:
            step(ops.bn_relu([x], gamma, beta, mean, inv, residual, relu)[0])
        else:
            step(ops.bn_relu_conv([x], gamma, beta, mean, inv, weight, *attributes[1:], True)[0])

    return plain, fused
