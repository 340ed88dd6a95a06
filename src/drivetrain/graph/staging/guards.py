"""What must still hold around a function for its graph to be right: the same tensors in their places, the same modes.

A graph reads captured tensors by reference, so writes in place are no concern; but `w = other_tensor` makes the graph
one of another function. The check is one compiled expression over identities, about 30 ns a tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .reach import Slot, Surroundings


@dataclass(frozen=True)
class Guard:
    """One condition, with a name for `explain`."""

    name: str
    text: str
    says: str


class Guards:
    """The conditions of one graph.

    Attributes:
        check: a function without arguments, or None if there is nothing to check.
    """

    def __init__(self) -> None:
        self.guards: list[Guard] = []
        self._names: dict[str, Any] = {"grad_of": Tensor.requires_grad.__get__}  # type: ignore[attr-defined]
        self.check: Callable[[], bool] | None = None

    def add_tensor(self, slot: Slot, tensor: Tensor, fixed_grad: bool) -> None:
        """A captured tensor must be where it was; with `fixed_grad` it must need gradients as it did."""
        holder, value = self._name(slot.holder), self._name(tensor)
        place = f"{holder}.cell_contents" if slot.key is None else f"{holder}[{self._key(slot.key)}]"
        self.guards.append(
            Guard(slot.name, f"{place} is {value}", f"{slot.name} is another tensor than the trace holds")
        )
        if fixed_grad:
            self.add_grad(slot.name, tensor)

    def add_grad(self, name: str, tensor: Tensor) -> None:
        """Compiled code is made for captured tensors that need gradients, or do not."""
        text = f"grad_of({self._name(tensor)}) is {tensor.requires_grad}"
        self.guards.append(Guard(name, text, f"{name}.requires_grad is not {tensor.requires_grad} any more"))

    def add_mode(self, name: str, module: nn.Module) -> None:
        """A module must be in the mode, training or evaluation, that was traced."""
        mode = "training" if module.training else "evaluation"
        text = f'{self._name(vars(module))}["training"] is {module.training}'
        self.guards.append(Guard(name, text, f"{name} is not in {mode} mode any more"))

    def compile(self) -> None:
        """Make `check`."""
        if not self.guards:
            return
        # A closure cell that was emptied, a key that was deleted: no longer the same.
        source = (
            "def check():\n    try:\n        return "
            + " and ".join(guard.text for guard in self.guards)
            + "\n    except (KeyError, IndexError, ValueError):\n        return False\n"
        )
        space = dict(self._names)
        exec(source, space)
        self.check = space["check"]

    def broken(self) -> list[str]:
        """The conditions that do not hold, in words."""
        found = []
        for guard in self.guards:
            try:
                holds = eval(guard.text, dict(self._names))
            except (KeyError, IndexError, ValueError):
                holds = False
            if not holds:
                found.append(guard.says)
        return found

    def _name(self, value: Any) -> str:
        name = f"v{id(value)}"
        self._names[name] = value
        return name

    def _key(self, key: Any) -> str:
        return repr(key) if isinstance(key, str | int) else self._name(key)


def guards_for(captured: Sequence[Tensor], around: Surroundings, *, fixed_grad: bool) -> tuple[Guards, list[str]]:
    """Guards of a trace and the names of its captures.

    Args:
        captured: tensors in the order of the graph's inputs.
        around: as it was looked at before the trace.
        fixed_grad: compiled code is specialised on requires_grad.
    """
    guards = Guards()
    places = around.of_tensors()
    names = []
    for index, tensor in enumerate(captured):
        slot = places.get(id(tensor))
        names.append(slot.name if slot is not None else f"capture{index}")
        if slot is not None and (isinstance(slot.holder, dict | list) or slot.key is None) and slot.holder is not None:
            guards.add_tensor(slot, tensor, fixed_grad)
        elif fixed_grad:
            guards.add_grad(names[-1], tensor)
    for name, module in around.modules().values():
        if not isinstance(module, torch.fx.GraphModule):
            guards.add_mode(name, module)
    guards.compile()
    return guards, names
