"""Residuals for another number of ranks: what was not yet sent must not be lost when a job grows or shrinks.

Pure functions over the `state_dict`s of the old ranks' `ErrorFeedback`s. Push residuals are as long as the parameter,
and each rank has its own; pull residuals are slices with one owner each. Every value keeps its sum over all ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from drivetrain.base.errors import InvalidValue

State = dict[str, Tensor]
Bounds = Callable[[int, int], Sequence[tuple[int, int]]]


def even_bounds(numel: int, world_size: int) -> list[tuple[int, int]]:
    """Cut `numel` values into one slice a rank, (begin, end), whose lengths differ by at most one."""
    cuts = [numel * rank // world_size for rank in range(world_size + 1)]
    return list(pairwise(cuts))


def reshard_push(states: Sequence[State], world_size: int, preserve: Literal["sum", "mean"] = "sum") -> list[State]:
    """Residuals of whole parameters from len(states) ranks to `world_size` ranks.

    Old rank r goes to new rank r mod `world_size`, added to what is there; further new ranks begin at zero (no entry).

    Args:
        states: rank by rank.
        world_size: how many ranks there will be.
        preserve: "sum" over ranks; or their "mean", which scales residuals by n_new / n_old: where the exchange
            averages, what is still to come then moves the parameters as far as it would have on the old ranks.

    Raises:
        InvalidValue: world_size < 1, no states, or a key whose shape differs between ranks.
    """
    _check(states, world_size)
    result: list[State] = [{} for _ in range(world_size)]
    shapes: dict[str, tuple[int, ...]] = {}
    for rank, state in enumerate(states):
        target = result[rank % world_size]
        for key, residual in state.items():
            if shapes.setdefault(key, tuple(residual.shape)) != tuple(residual.shape):
                raise InvalidValue(
                    f"comm: residual of {key!r} has shape {tuple(residual.shape)} on rank {rank}, {shapes[key]} before"
                )
            target[key] = target[key] + residual if key in target else residual.clone()
    if preserve == "mean":
        return [{key: residual * (world_size / len(states)) for key, residual in state.items()} for state in result]
    return result


def reshard_pull(states: Sequence[State], world_size: int, bounds: Bounds = even_bounds) -> list[State]:
    """Residuals of slices from len(states) owners to `world_size` owners.

    Args:
        states: rank by rank; joined in order, the slices of a key are the whole parameter, flat.
        world_size: how many owners there will be.
        bounds: (numel, world_size) -> (begin, end) of each new owner, in order and without gaps.

    Raises:
        InvalidValue: world_size < 1, no states, a key that some ranks don't have, or bounds with gaps.
    """
    _check(states, world_size)
    result: list[State] = [{} for _ in range(world_size)]
    for key in dict.fromkeys(key for state in states for key in state):
        absent = [rank for rank, state in enumerate(states) if key not in state]
        if absent:
            raise InvalidValue(f"comm: rank {absent[0]} has no slice of the residual {key!r}, the other ranks do")
        whole = torch.cat([state[key].reshape(-1) for state in states])
        pieces = bounds(whole.numel(), world_size)
        ends = [0, *(end for _, end in pieces)]
        if [begin for begin, _ in pieces] != ends[:-1] or ends[-1] != whole.numel() or len(pieces) != world_size:
            raise InvalidValue(f"comm: bounds {list(pieces)} don't cut {whole.numel()} values into {world_size} slices")
        for state, (begin, end) in zip(result, pieces, strict=True):
            state[key] = whole[begin:end].clone()
    return result


def _check(states: Sequence[State], world_size: int) -> None:
    if world_size < 1:
        raise InvalidValue(f"comm: world_size is {world_size}, it must be at least 1")
    if not states:
        raise InvalidValue("comm: there are no residuals to re-shard; give the state of every old rank")
