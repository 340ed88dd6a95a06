"""Sums over weights that are spread over processes: DTensors (FSDP2, tensor parallel) and plain shards in a group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from drivetrain.base.errors import InvalidValue


def is_distributed(tensor: Tensor) -> bool:
    """Whether this is a DTensor, without importing torch.distributed.tensor."""
    return hasattr(tensor, "device_mesh") and hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds; a plain tensor itself."""
    if not is_distributed(tensor):
        return tensor
    if any(placement.is_partial() for placement in tensor.placements):  # type: ignore[attr-defined]
        raise InvalidValue("optim: YellowFin got a gradient that is a partial sum; redistribute it before the step")
    return tensor.to_local()  # type: ignore[attr-defined]


class Reduction:
    """Adds numbers, one a parameter, over all parameters and all processes that hold a part of them.

    Args:
        params: the parameters that the numbers belong to.
        process_group: group over which plain (non-DTensor) parameters are shards of one model; None: they are whole.
    """

    def __init__(self, params: Sequence[Tensor], process_group: Any = None) -> None:
        self.process_group = process_group
        meshes: dict[int, Any] = {}
        members: dict[int, list[int]] = {}
        for place, param in enumerate(params):
            key = 0
            if is_distributed(param):
                key = id(param.device_mesh)  # type: ignore[attr-defined]
                meshes[key] = param.device_mesh  # type: ignore[attr-defined]
            members.setdefault(key, []).append(place)
        self.plain = members.pop(0, [])
        self.parts = [(meshes[key], places, *_share(params, places)) for key, places in members.items()]
        self.alone = not self.parts and process_group is None

    def total(self, numbers: Tensor) -> Tensor:
        """Sum of `numbers` (P,) over parameters and processes, 0-dim, equal on all processes."""
        if self.alone:
            return numbers.sum()
        import torch.distributed as dist

        result = numbers[self.plain].sum()
        if self.process_group is not None:
            dist.all_reduce(result, group=self.process_group)
        for mesh, places, shares, dimensions in self.parts:
            part = (numbers[places] * torch.tensor(shares, dtype=numbers.dtype, device=numbers.device)).sum()
            for dimension in dimensions:
                dist.all_reduce(part, group=mesh.get_group(dimension))
            result = result + part
        return result

    def mean_known(self, value: Tensor) -> Tensor:
        """Mean of a 0-dim value over the processes on which it is not NaN."""
        if self.alone:
            return value
        import torch.distributed as dist

        pair = torch.stack([value.nan_to_num(0.0), (~value.isnan()).to(value.dtype)])
        groups = [mesh.get_group(dimension) for mesh, _, _, dimensions in self.parts for dimension in dimensions]
        for group in groups if self.process_group is None else [*groups, self.process_group]:
            dist.all_reduce(pair, group=group)
        return pair[0] / pair[1]


def _share(params: Sequence[Tensor], places: Sequence[int]) -> tuple[list[float], list[int]]:
    """What each parameter's local number counts for (1 / copies), and the mesh dimensions that are summed over."""
    mesh = params[places[0]].device_mesh  # type: ignore[attr-defined]
    placements = [params[place].placements for place in places]  # type: ignore[attr-defined]
    dimensions = [d for d in range(mesh.ndim) if any(not placement[d].is_replicate() for placement in placements)]
    shares = []
    for placement in placements:
        copies = 1
        for d in dimensions:
            copies *= mesh.size(d) if placement[d].is_replicate() else 1
        shares.append(1 / copies)
    return shares, dimensions
