"""Before any traffic: do all ranks train one model with one set of options?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from drivetrain.base.errors import InvalidValue

from .layout import Layout

Described = list[tuple[str, tuple[int, ...], str]]


def check_agreement(
    described: Described, options: dict[str, Any], weight: float, group: dist.ProcessGroup | None
) -> Tensor:
    """Compare the ranks of a group.

    Args:
        described: name, shape and type of every parameter and buffer.
        options: what must be equal everywhere, by name.
        weight: this rank's, the only thing that may differ.

    Returns:
        The weights of all ranks, (n,).

    Raises:
        InvalidValue: names the parameter or the option, and two ranks that differ. Raised on all ranks.
    """
    n = dist.get_world_size(group)
    every: list[Any] = [None] * n
    dist.all_gather_object(every, (described, options, weight), group=group)
    first, first_options, _ = every[0]
    for rank, (other, other_options, _) in enumerate(every):
        _same_model(first, other, rank)
        for name, value in first_options.items():
            if other_options.get(name) != value:
                raise InvalidValue(
                    f"comm: {name} is {other_options.get(name)!r} on rank {rank}, {value!r} on rank 0",
                    hint="all ranks must make LocalUpdate with the same options",
                )
    weights = torch.tensor([weight for _, _, weight in every])
    if not bool(torch.isfinite(weights).all()) or bool((weights < 0).any()) or not bool(weights.sum() > 0):
        raise InvalidValue(f"comm: weights of the ranks are {weights.tolist()}, wanted 0 or more, not all 0")
    return weights


def share_model(layout: Layout, group: dist.ProcessGroup | None, clock: Callable[[], float]) -> float:
    """Give all ranks the parameters and buffers of the group's first rank; the seconds until all have them."""
    source = dist.get_process_group_ranks(group)[0] if group is not None else 0
    dist.barrier(group=group)
    began = clock()
    for tensor in [*layout.params, *layout.buffers]:
        dist.broadcast(tensor.detach(), source, group=group)
    dist.barrier(group=group)
    return clock() - began


def _same_model(first: Described, other: Described, rank: int) -> None:
    for (name, shape, dtype), (other_name, other_shape, other_dtype) in zip(first, other, strict=False):
        if (name, shape, dtype) != (other_name, other_shape, other_dtype):
            raise InvalidValue(
                f"comm: parameter {name!r} is {dtype} {list(shape)} on rank 0, and {other_name!r} {other_dtype} "
                f"{list(other_shape)} on rank {rank}",
                hint="all ranks must build the same model",
            )
    if len(first) != len(other):
        longer, where = (first, 0) if len(first) > len(other) else (other, rank)
        extra = longer[min(len(first), len(other))][0]
        raise InvalidValue(
            f"comm: rank 0 has {len(first)} parameters and buffers, rank {rank} {len(other)}: {extra!r} is only on "
            f"rank {where}",
            hint="all ranks must build the same model",
        )
