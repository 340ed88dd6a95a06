"""The pass behind the option `rewrite` of `torch.compile(model, backend="drivetrain")`, for inference graphs.

Weights arrive there as arguments and stay arguments: a rule's weight terms are computed at each call, and priced so.
(`freeze=True` makes them constants: `frozen`. Training graphs are rewritten before autograd sees them: `step`.)
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from .._torch_compat import fake_mode_of, outside_modes, retrace
from ..cost import CostTable, default_path
from ..passes import PassContext, check_numbers
from ..verify import difference
from ..warning import told, warn
from .convert import NotRewritable, from_fx, to_fx
from .emit import by_name, state_as_inputs, with_layouts_of
from .price import Objective, Pricer
from .rule import Rule, simplify
from .rules import RULES
from .strategy import search_program
from .term import Graph

GAIN = 0.05  # what rewrite="auto" wants to see predicted
SHORT_S = 10.0  # and how long it searches
TOLERANCE = 1e-4  # of the largest output: float32's rounding through a deep network


def rewrite_pass(module: fx.GraphModule, example_inputs: Sequence[Any], context: PassContext) -> fx.GraphModule:
    """Rewrite an inference graph; where it can't be, it comes back as it was, with one warning that says why.

    Options: rewrite=True, "auto" (a short search; taken where it predicts a clear gain, silent where it can't) or
    "always" (no search, nothing is measured), alpha, budget, cost_table (a path).
    """
    try:
        with outside_modes(), torch.no_grad():
            found = _rewritten(module, example_inputs, context)
    except NotRewritable as error:
        if context.options.get("rewrite") != "auto":
            warn(f"not rewritten: {told(error)}")
        return module
    except Exception as error:
        if context.options.get("rewrite") != "auto":
            raise
        warn(f"not rewritten: {told(error)}")  # nobody asked for it in particular: the graph is compiled as it is
        return module
    return module if found is None else _finished(*found, example_inputs)


def _rewritten(
    module: fx.GraphModule, example_inputs: Sequence[Any], context: PassContext
) -> tuple[Graph, list[str]] | None:
    """The better program and the names of its placeholders; None where nothing changes."""
    options = context.options
    names = [node.name for node in module.graph.nodes if node.op == "placeholder"]
    states = [names[position] for position in _static(context) if position < len(names)]
    state = _weights(example_inputs, names, states)
    whole = from_fx(module.graph, {name: name for name in states})
    rules = [_priced(rule) for rule in RULES]
    graph, _ = simplify(whole, [rule for rule in rules if rule.always])
    if options.get("rewrite") != "always":
        graph, saved = _search(graph, rules, options)
        if options.get("rewrite") == "auto" and saved < GAIN:
            return None
    if graph.digest == whole.digest:
        return None
    graph = with_layouts_of(graph, module.graph)
    if state is not None:
        _check(whole, state, to_fx(graph, by_name(state, graph)), [str(leaf.args[0]) for leaf in graph.inputs])
    return graph, names


def limits(options: Mapping[str, Any]) -> dict[str, Any]:
    """The search's settings out of a backend's options: alpha, budget, time_limit_s, table.

    Raises:
        InvalidValue: no numbers, or out of range.
    """
    check_numbers(options)
    alpha, budget = options.get("alpha", 1.05), options.get("budget", 300)
    seconds = 60.0 if options.get("rewrite", "auto") is True else SHORT_S
    table = CostTable(Path(options["cost_table"]) if options.get("cost_table") else default_path())
    return {"alpha": float(alpha), "budget": budget, "time_limit_s": seconds, "table": table}


def _search(graph: Graph, rules: Sequence[Rule], options: Mapping[str, Any]) -> tuple[Graph, float]:
    """The best program, and the share of the time that is saved by the prices."""
    found = limits(options)
    pricer, objective = Pricer(found["table"], training=True), Objective("time")
    forms = search_program(
        graph, rules, pricer, objective,
        alpha=found["alpha"], budget=found["budget"], seconds=found["time_limit_s"],
    ).forms  # fmt: skip
    found["table"].save()
    before, after = (objective.of(pricer.graph(form)) for form in (forms[0], forms[-1]))
    return forms[-1], 1 - after / before if before else 0.0


def _check(whole: Graph, state: Mapping[str, Tensor], made: fx.GraphModule, names: Sequence[str]) -> None:
    """Run both on the weights as they are.

    Args:
        whole: the program as it came.
        state: its weights.
        made: what shall run instead.
        names: of what `made` takes.

    Raises:
        NotRewritable: they differ by more than rounding.
    """
    inputs = {str(leaf.args[0]): _example(leaf.meta) for leaf in whole.inputs}
    expected = to_fx(whole, by_name(state, whole))(*inputs.values())
    got = made(*({**state, **inputs}[name] for name in names))
    worst, where = difference(list(expected), list(got))
    if not worst <= TOLERANCE:
        raise NotRewritable(f"graph: rewritten, {where} differs by {worst:.2g} of its largest value")


def _finished(graph: Graph, names: Sequence[str], example_inputs: Sequence[Any]) -> fx.GraphModule:
    """The program as ATen operators on the pass's own arguments."""
    with outside_modes():
        plain = to_fx(state_as_inputs(graph, names), {})
    return retrace(plain, example_inputs, fake_mode_of(example_inputs))


def _static(context: PassContext) -> Sequence[int]:
    """Positions of parameters and buffers."""
    tracing = torch._guards.TracingContext.try_get()
    metadata = tracing.fw_metadata if tracing is not None else None
    return context.params or (metadata.static_input_indices if metadata is not None else ()) or ()


def _weights(
    example_inputs: Sequence[Any], names: Sequence[str], states: Sequence[str]
) -> dict[str, Tensor] | None:  # fmt: skip
    """The real tensors behind the arguments that are parameters or buffers; None where torch doesn't tell all.

    A fake argument shares its (empty) storage with the fake tensor that was made from the real one.
    """
    mode, wanted = fake_mode_of(example_inputs), set(states)
    if mode is None:
        return None
    try:
        converter = mode.fake_tensor_converter.meta_converter
        made = {
            _key(converter.tensor_memo[number]): real
            for real, number in converter.describer.lookup_tensor.items()
            if number in converter.tensor_memo
        }
    except AttributeError:
        return None  # another torch keeps them elsewhere: weights stay arguments
    found = {name: made.get(_key(fake)) for name, fake in zip(names, example_inputs, strict=True) if name in wanted}
    return (
        {name: value.detach() for name, value in found.items() if value is not None}
        if all(value is not None for value in found.values())
        else None
    )


def _key(fake: Tensor) -> Any:
    return fake.untyped_storage()._cdata, f"{tuple(fake.shape)} {fake.stride()} {fake.storage_offset()}"


def _priced(rule: Rule) -> Rule:
    """Weights that stay arguments make folding a cost of each call: the search decides."""
    if not (rule.always and rule.inference_only):
        return rule
    tried = copy.copy(rule)
    tried.always = False
    return tried


def _example(meta: Any) -> Tensor:
    value = meta.empty("cpu")
    return value.normal_() if meta.dtype.is_floating_point else value.zero_()
