"""A declared signature: Specs instead of examples, one graph for all that fits them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..errors import SpecError
from .binding import Binding
from .key import flatten
from .spec import Spec, describe


@dataclass
class Plan:
    """How a trace treats the sizes of its leaves.

    Attributes:
        examples: tensors to trace with.
        dynamic: for each leaf, which sizes are symbols.
        same: groups of (leaf, dim) that are one size.
        whole_range: symbols include the sizes 0 and 1.
    """

    examples: list[Tensor]
    dynamic: list[list[bool]]
    same: list[list[tuple[int, int]]] = field(default_factory=list)
    whole_range: bool = False


class Signature:
    """The Specs of a function's arguments.

    Raises:
        SpecError: more Specs than arguments.
    """

    def __init__(self, wanted: Sequence[Any], binding: Binding, name: str) -> None:
        if isinstance(wanted, Spec):
            raise SpecError(
                f"graph: {name}: the signature is a tuple of Specs, found one Spec", hint="signature=(spec,)"
            )
        names = binding.names[: len(wanted)]
        if len(names) < len(wanted) or binding.variadic:
            raise SpecError(
                f"graph: {name} has {len(binding.names)} plain arguments, the signature {len(wanted)} entries"
            )
        self.name = name
        self.arguments = list(zip(names, wanted, strict=True))
        self.leaves = [leaf for argument, value in self.arguments for leaf in flatten(value, argument)]

    def check(self, named: Sequence[tuple[str, Any]]) -> None:
        """Hold a call's arguments against the signature.

        Raises:
            SpecError: names the argument, what was found, what is wanted.
        """
        bound: dict[str, int] = {}
        given = dict(named)
        for argument, wanted in self.arguments:
            found = flatten(given[argument], argument)
            wants = flatten(wanted, argument)
            if [path for path, _ in found] != [path for path, _ in wants]:
                raise SpecError(f"graph: {self.name}: {argument} has another structure than the signature says")
            for (path, value), (_, want) in zip(found, wants, strict=True):
                if isinstance(want, Spec):
                    misfit = want.misfit(value, bound)
                    if misfit is not None:
                        raise SpecError(
                            f"graph: {self.name}: the argument {path} is {misfit}, the signature says {want}"
                        )
                elif value != want:
                    raise SpecError(
                        f"graph: {self.name}: the argument {path} is {value!r}, the signature says {want!r}"
                    )
        declared = {argument for argument, _ in self.arguments}
        for argument, value in named:
            if argument not in declared and any(isinstance(leaf, Tensor) for _, leaf in flatten(value, argument)):
                raise SpecError(f"graph: {self.name}: the argument {argument} is {describe(value)}, it has no Spec")

    def plan(self, leaves: Sequence[Tensor]) -> Plan:
        """One trace with symbols for every free size."""
        specs = [want for _, want in self.leaves if isinstance(want, Spec)]
        sizes: dict[str, int] = {}
        places: dict[str, list[tuple[int, int]]] = {}
        examples = []
        for index, spec in enumerate(specs):
            made = spec.example(sizes).requires_grad_(leaves[index].requires_grad).to(leaves[index].device)
            for dim, (size, found) in enumerate(zip(spec.dims, made.shape, strict=True)):
                if size.name is not None:
                    sizes[size.name] = found
                    places.setdefault(size.name, []).append((index, dim))
            examples.append(made)
        dynamic = [[dim.fixed is None for dim in spec.dims] for spec in specs]
        return Plan(examples, dynamic, [group for group in places.values() if len(group) > 1], whole_range=True)

    def check_sizes(self, concrete: Any, leaves: Sequence[Tensor]) -> None:
        """The function itself may allow fewer sizes than its signature.

        Raises:
            SpecError: names the relation that the trace relied on.
        """
        if concrete.sizes is not None and not concrete.sizes.accepts(leaves):
            shown = [describe(leaf) for leaf in leaves]
            names = {f"L{i}_{d}": f"{concrete.argument_names[i]}.shape[{d}]" for i, d in concrete.sizes.free}
            relations = " and ".join(concrete.sizes.relations) or "the traced sizes"
            for short, long in names.items():
                relations = relations.replace(short, long)
            raise SpecError(
                f"graph: {self.name} was called with {', '.join(shown)}; its code needs {relations}",
                hint="the signature promises more sizes than the function takes: narrow it, or drop it",
            )
