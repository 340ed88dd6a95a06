"""Passes: functions from graph to graph, found by name and imported when they are first needed.

A room adds a pass with one file and one line in `PASSES`. The options it understands stand in that line, so that a
misspelt option is refused before anything is imported or compiled.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from torch import fx

from drivetrain.base.errors import InvalidValue, unknown_name

Kind = Literal["forward", "backward", "inference", "joint"]


@dataclass(frozen=True)
class PassContext:
    """What a pass is told about the graph it gets.

    Attributes:
        kind: "inference" (no gradients), "joint" (forward and backward in one graph, before it is partitioned),
            "forward" or "backward" (after).
        options: the options of this pass, checked against its registry line.
        params: positions of the inputs that are parameters or buffers, where that is known.
        then: the lowering that follows, "inductor" for example.
    """

    kind: Kind
    options: Mapping[str, Any] = field(default_factory=dict)
    params: tuple[int, ...] = ()
    then: str = "auto"


class Pass(Protocol):
    """A pass returns the same or another GraphModule with the same inputs and outputs."""

    def __call__(
        self, module: fx.GraphModule, example_inputs: Sequence[Any], context: PassContext
    ) -> fx.GraphModule: ...


@dataclass(frozen=True)
class Registered:
    """A line of the registry.

    Attributes:
        location: "package.module:function".
        kinds: the graphs it wants to see.
        options: names of the options it understands.
        needs: run only when this option is given and not False; None runs it always.
    """

    location: str
    kinds: tuple[Kind, ...]
    options: tuple[str, ...] = ()
    needs: str | None = None

    def load(self) -> Pass:
        """Import the pass."""
        module, _, name = self.location.partition(":")
        found: Pass = getattr(importlib.import_module(module), name)
        return found


# In the order in which they run.
PASSES: dict[str, Registered] = {
    "normalise": Registered("drivetrain.graph.passes:normalise_pass", ("inference",), ("normalise",)),
    "batchnorm": Registered("drivetrain.graph.batchnorm.joint:batchnorm_pass", ("joint",), ("bn",), needs="bn"),
    "rewrite": Registered("drivetrain.graph.rewrite.compiled:rewrite_pass", ("inference",),
        ("rewrite", "alpha", "budget", "cost_table"), "rewrite"),
}  # fmt: skip


def normalise_pass(module: fx.GraphModule, example_inputs: Sequence[Any], context: PassContext) -> fx.GraphModule:
    """The normal form of an inference graph (option normalise=False leaves it out)."""
    from .ir import normalise

    return normalise(module) if context.options.get("normalise", True) else module


def known_options() -> set[str]:
    """Every option that some pass understands."""
    return {name for registered in PASSES.values() for name in registered.options}


def check_options(options: Mapping[str, Any], others: Iterable[str]) -> None:
    """Refuse an option that nobody reads.

    Raises:
        InvalidValue: names the nearest option.
    """
    allowed = known_options() | set(others)
    for name in options:
        if name not in allowed:
            raise unknown_name("graph: option", name, allowed)


def check_numbers(options: Mapping[str, Any]) -> None:
    """Refuse settings of a search that are no numbers or out of range.

    Raises:
        InvalidValue: names the option and what it may be.
    """
    for name, kinds, least in (("alpha", (int, float), 1), ("budget", (int,), 0)):
        value = options.get(name, least)
        if isinstance(value, bool) or not isinstance(value, kinds) or not value >= least:
            what = "a whole number" if kinds == (int,) else "a number"
            raise InvalidValue(f"graph: option {name} must be {what}, {least} or more, found {value!r}")


def run_passes(
    module: fx.GraphModule,
    example_inputs: Sequence[Any],
    kind: Kind,
    options: Mapping[str, Any],
    *,
    params: tuple[int, ...] = (),
    then: str = "auto",
) -> fx.GraphModule:
    """Run the passes that want this kind of graph, in the registry's order."""
    for registered in PASSES.values():
        if kind not in registered.kinds:
            continue
        if registered.needs is not None and options.get(registered.needs) in (None, False, "off"):
            continue
        own = {name: value for name, value in options.items() if name in registered.options}
        module = registered.load()(module, example_inputs, PassContext(kind, own, params, then))
    return module
