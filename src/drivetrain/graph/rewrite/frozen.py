"""Option `freeze` of `torch.compile(model, backend="drivetrain")`: weights become constants, the fastest form runs.

What Dynamo captured goes through `optimize` (rules fold the weights; oneDNN with packed weights, onnxruntime where
it is installed, torch's own kernels), then through Inductor with its own freezing passes. At last these, what was given
and Inductor without freezing are run in turn, and the fastest is kept. A later change of a weight is not seen until the
model is compiled again, as with Inductor's own freezing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from drivetrain.base.errors import DrivetrainError
from drivetrain.base.timing import Timing

from .._torch_compat import frozen_by_inductor, is_fake, outside_modes, without_tracing_context
from ..capture import Program
from ..ir import copy_graph
from ..lowering import has_compiler
from ..race import Form, fastest, race
from ..verify import difference
from ..warning import told
from .compiled import TOLERANCE, limits
from .convert import NotRewritable, register
from .emit import memory_format_of
from .held import Held
from .meta import Meta
from .optimize import optimize


@dataclass(frozen=True)
class Frozen:
    """A graph with constant weights.

    Attributes:
        run: takes all that the graph takes, reads what is no weight.
        then: how it runs: a lowering's name, "inductor", "not frozen" or "original".
        measured: all forms in the last, interleaved comparison.
        refused: forms that could not be built or whose results were off, and why.
    """

    run: Form
    then: str
    measured: dict[str, Timing]
    refused: dict[str, str] = field(default_factory=dict)


def freeze(
    graph: fx.GraphModule, values: Sequence[Any], options: Mapping[str, Any], unfrozen: Callable[[], Form] | None
) -> Frozen:
    """Make the weights of an inference graph constants.

    Args:
        graph: as Dynamo captured it.
        values: what it is called with now.
        options: then, rewrite, alpha, budget, cost_table.
        unfrozen: compiles the graph as it is; None where that is not to be compared.

    Raises:
        NotRewritable: the graph writes to its inputs, or sizes vary.
        InvalidValue: an option's value.
    """
    then, known = str(options.get("then", "auto")), limits(options)
    held = Held(graph, values, copied=True).eval()  # or what is not folded would follow its weight
    if any(is_fake(values[position]) for position in held.names):
        raise NotRewritable("graph: torch did not hand over the weights' values")
    rules = "default" if options.get("rewrite", "auto") in (True, "auto") else "always"
    with outside_modes(), without_tracing_context(), torch.no_grad():
        by = {"inductor": "eager"}.get(then, then)
        found = optimize(held, held.inputs, rules=rules, then=by, rounds=7, **{**known, "time_limit_s": 60.0})
        refused, expected = dict(found.refused), list(graph(*values))
        forms: dict[str, Form] = {"original": graph.forward}
        if found.then != "original" and then != "inductor":
            forms[found.then] = found.module
        if then == "inductor" or (then == "auto" and has_compiler()):
            try:
                forms["inductor"] = frozen_by_inductor(with_state(found.program()), held.inputs)
            except Exception as error:  # whatever Inductor can't hold: it is named, and the others go on
                refused["inductor"] = told(error)
        for name in [name for name in forms if name != "original"]:
            try:
                forms[name] = _on_all(forms[name], held.others, expected, values)
            except (DrivetrainError, RuntimeError) as error:
                refused[name] = told(error)
                del forms[name]
        if unfrozen is not None:
            forms["not frozen"] = unfrozen()
    measured = race(forms, values)
    chosen = fastest(measured, "original")
    return Frozen(forms[chosen], chosen, measured, refused)


def with_state(program: Program) -> fx.GraphModule:
    """A program's graph with its state inside, flat inputs in and flat outputs out."""
    root, graph = torch.nn.Module(), copy_graph(program.module.graph)
    names = {node.name: name for name, node in program.state_nodes.items()}
    for node in graph.find_nodes(op="placeholder"):
        if node.name in names:
            with graph.inserting_before(node):
                held = graph.get_attr(register(root, names[node.name], program.state[names[node.name]]))
            held.meta = dict(node.meta)
            node.replace_all_uses_with(held)
            graph.erase_node(node)
    return fx.GraphModule(root, graph)


def _on_all(form: Form, others: Sequence[int], expected: Sequence[Any], values: Sequence[Any]) -> Form:
    """A form of the inputs alone as one of all arguments, results laid out in memory as the original's.

    Raises:
        DrivetrainError: its results are not the original's.
    """

    def run(*given: Any) -> Sequence[Any]:
        made = form(*[given[position] for position in others])
        return made if isinstance(made, tuple | list) else (made,)

    got = list(run(*values))
    worst, where = difference(list(expected), got)
    if not worst <= TOLERANCE:
        raise DrivetrainError(f"{where} differs by {worst:.2g} of its largest value")
    change: list[tuple[int, torch.memory_format]] = []
    for index, (one, other) in enumerate(zip(expected, got, strict=True)):
        wanted = memory_format_of(Meta.of(one)) if isinstance(one, Tensor) and one.stride() != other.stride() else None
        change.extend([(index, wanted)] if wanted is not None else [])
    if not change:
        return run

    def laid_out(*given: Any) -> Sequence[Any]:
        results = list(run(*given))
        for index, wanted in change:
            results[index] = results[index].contiguous(memory_format=wanted)
        return results

    return laid_out
