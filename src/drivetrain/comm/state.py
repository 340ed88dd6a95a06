"""What an exchange keeps between steps, for checkpoints: by parameter name, so that it survives other buckets,
a restart, and another number of ranks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from drivetrain.base.errors import InvalidValue

from .codec import ErrorFeedback, reshard_push
from .slices import Layout

FORMAT = 2


def save(layout: Layout, rank: int, push: ErrorFeedback, pull: ErrorFeedback) -> dict[str, Any]:
    """One rank's residuals: push as whole parameters; pull as the pieces that this rank owns, with their places."""
    whole = {
        name: torch.cat([push.residuals[piece.key] for piece in slices])
        for name, slices in layout.slices.items()
        if all(piece.key in push for piece in slices)
    }
    owned = {
        piece.name: (piece.begin, pull.residuals[piece.key].clone())
        for piece in layout.owned(rank)
        if piece.key in pull
    }
    return {"format": FORMAT, "world_size": layout.world_size, "trust": layout.trust, "push": whole, "pull": owned}


def load(state: Mapping[str, Any], layout: Layout, rank: int, push: ErrorFeedback, pull: ErrorFeedback) -> None:
    """Take up what `save` gave.

    Raises:
        InvalidValue: another format, number of ranks or trust; nothing was changed.
    """
    found = tuple(state.get(key) for key in ("format", "world_size", "trust"))
    wanted = (FORMAT, layout.world_size, layout.trust)
    if found != wanted:
        raise InvalidValue(
            f"comm: this state is of format {found[0]}, {found[1]} ranks, trust {found[2]!r}; here are format "
            f"{FORMAT}, {layout.world_size} ranks, trust {layout.trust!r}",
            hint="reshard_states(states, world_size) keeps the sum of all residuals",
        )
    push.load_state_dict(
        {
            piece.key: state["push"][name][piece.begin : piece.end]
            for name, slices in layout.slices.items()
            if name in state["push"]
            for piece in slices
        }
    )
    # Pull residuals may have been cut for another number of ranks: each is known by its place.
    pieces = {}
    for piece in layout.owned(rank):
        if piece.name in state["pull"]:
            begin, values = state["pull"][piece.name]
            pieces[piece.key] = values[piece.begin - begin : piece.end - begin]
    pull.load_state_dict(pieces)


def reshard_states(states: Sequence[Mapping[str, Any]], world_size: int) -> list[dict[str, Any]]:
    """The `state_dict`s of all ranks for another number of ranks.

    What the residuals still owe the parameters stays the same: push residuals are averaged, pull residuals cut anew.

    Raises:
        InvalidValue: not one state a rank of the old world, or states that depend on the number of ranks.
    """
    if not states or any(state["world_size"] != len(states) for state in states):
        raise InvalidValue(
            f"comm: {len(states)} states, but they are of {states[0]['world_size'] if states else 0} ranks"
        )
    if "delta" in states[0]:
        raise InvalidValue("comm: pull=\"delta\" can't move to other ranks: each owner's optimizer has its own part")
    push = reshard_push([state["push"] for state in states], world_size, "mean")
    whole: dict[str, Tensor] = {}
    for name in dict.fromkeys(name for state in states for name in state["pull"]):
        parts = sorted((state["pull"][name] for state in states if name in state["pull"]), key=lambda part: part[0])
        whole[name] = torch.cat([values for _, values in parts])
    # Every rank gets the whole and takes its own part of it when it loads: only the new layout knows the cut.
    pull = {name: (0, values) for name, values in whole.items()}
    shared = {"format": FORMAT, "world_size": world_size, "trust": states[0]["trust"]}
    return [{**shared, "push": push[rank], "pull": dict(pull)} for rank in range(world_size)]


def digest(tensors: Iterable[Tensor]) -> str:
    """A hash of tensors' exact bits, to compare replicas."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
