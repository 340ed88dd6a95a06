"""Arguments of a Concrete that is called directly, as tensor leaves in the order of its graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from ..errors import SpecError
from ..ir import TensorMeta, tensor_meta
from .key import flatten, is_tensor_leaf
from .spec import describe


def tensor_leaves(concrete: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """Check and flatten the arguments of a direct call; plain values are part of the graph and are not looked at.

    Raises:
        SpecError: names the argument, what was found, what is wanted.
    """
    ordered = [*args, *kwargs.values()]
    leaves = [torch.as_tensor(v) for value in ordered for _, v in flatten(value) if is_tensor_leaf(v)]
    nodes: list[fx.Node] = [n for n in concrete.graph.graph.nodes if n.op == "placeholder"][len(concrete.captures) :]
    if len(leaves) != len(nodes):
        raise SpecError(
            f"graph: {concrete.name} takes {len(nodes)} tensors, got {len(leaves)}",
            hint=", ".join(concrete.structured_inputs),
        )
    for name, leaf, node in zip(concrete.argument_names, leaves, nodes, strict=False):
        want = tensor_meta(node)
        if isinstance(want, TensorMeta) and not _fits(leaf, want):
            raise SpecError(f"graph: {concrete.name}: the argument {name} is {describe(leaf)}, this graph takes {want}")
    return leaves


def _fits(leaf: Tensor, want: TensorMeta) -> bool:
    if leaf.dtype is not want.dtype or leaf.dim() != len(want.shape):
        return False
    return all(not isinstance(size, int) or size == found for size, found in zip(want.shape, leaf.shape, strict=True))
