"""pull="delta": the owner runs the optimizer on its part, and what travels back is the change (3LC §2.2, the paper's
form). The optimizer's state is held once in all, a part a rank, as in torch's ZeroRedundancyOptimizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from drivetrain.base.errors import InvalidValue

from .slices import Unit, slices_for

# Each value of a parameter moves by its own gradient alone, so a part of a parameter moves as it would in the whole.
ELEMENTWISE = ("SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "Adagrad", "Adadelta", "RMSprop", "Rprop", "ASGD")


class DeltaOptimizer:
    """An optimizer of this rank's slices with the options of the user's, whatever they are at each step.

    Args:
        optimizer: the user's; its `step` then has nothing to do.
        named: the parameters by name.
        units: of all parameters.
        rank: this owner.

    Raises:
        InvalidValue: an optimizer whose values depend on each other, or that has state already.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, named: dict[str, Tensor], units: Sequence[Unit], rank: int
    ) -> None:
        kind = type(optimizer)
        if kind.__name__ not in ELEMENTWISE or not kind.__module__.startswith("torch.optim"):
            raise InvalidValue(
                f'comm: pull="delta" runs the optimizer on parts of parameters, which {kind.__name__} may not bear',
                hint=f'pull="gradient" works with any; these are known to: {", ".join(ELEMENTWISE)}',
            )
        self.users = optimizer
        self._shards: list[Tensor] = []
        groups: list[dict[str, Any]] = [{**group, "params": []} for group in optimizer.param_groups]
        group_of = {id(p): index for index, group in enumerate(optimizer.param_groups) for p in group["params"]}
        for name, begin, end in _pieces(units, rank):
            parameter = named[name]
            if id(parameter) not in group_of:
                raise InvalidValue(f'comm: pull="delta": the optimizer does not have parameter {name!r}')
            shard = torch.nn.Parameter(parameter.detach().reshape(-1)[begin:end].clone())
            self._shards.append(shard)
            groups[group_of[id(parameter)]]["params"].append(shard)
        self._groups = [index for index, group in enumerate(groups) if group["params"]]
        self._own: torch.optim.Optimizer | None = None
        if self._shards:
            # The constructors of torch.optim check and then do just this; their arguments differ from their defaults.
            self._own = kind.__new__(kind)
            torch.optim.Optimizer.__init__(self._own, [groups[i] for i in self._groups], dict(optimizer.defaults))

    def __call__(self, units: Sequence[Unit], gradient: Tensor) -> Tensor:
        """The change of this rank's slices for their mean gradient, flat, both in the order of messages."""
        if self._own is None:
            return gradient
        sizes = [shard.numel() for shard in self._shards]
        before = [shard.detach().clone() for shard in self._shards]
        for shard, part in zip(self._shards, gradient.split(sizes), strict=True):
            shard.grad = part.to(shard).clone()
        for group, index in zip(self._own.param_groups, self._groups, strict=True):
            group.update({k: v for k, v in self.users.param_groups[index].items() if k != "params"})
        self._own.step()
        changes = [shard.detach().float() - old.float() for shard, old in zip(self._shards, before, strict=True)]
        return torch.cat(changes)

    def state_dict(self) -> dict[str, Any]:
        """This part's values and optimizer state."""
        return {
            "values": [shard.detach().clone() for shard in self._shards],
            "optimizer": self._own.state_dict() if self._own is not None else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        for shard, values in zip(self._shards, state["values"], strict=True):
            shard.detach().copy_(values)
        if self._own is not None:
            self._own.load_state_dict(state["optimizer"])


def _pieces(units: Sequence[Unit], rank: int) -> list[tuple[str, int, int]]:
    """(parameter, begin, end) of all that a rank owns, in the order of messages."""
    members = {unit.name: unit.members for unit in units}
    found = []
    for piece in slices_for(units, rank):
        at = 0
        for name, numel in members[piece.name]:
            begin, end = max(piece.begin, at), min(piece.end, at + numel)
            if begin < end:
                found.append((name, begin - at, end - at))
            at += numel
    return found
