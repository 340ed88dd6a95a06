"""Rewriting what is trained: weight rules as differentiable terms over the original parameters.

    model = rewrite_training(model, (x,))      # same parameters (the same objects), same state dict
    optimizer = SGD(model.parameters(), lr)    # gradients go through cat, pad and add to each of them

Only rules that hold while weights change are used; folding running statistics is none of them. Weight terms are
computed in each step and priced so. At last whole steps, forward and backward, are measured in turn, and where the
rewritten program is not clearly faster the original is what runs.

Under torch.compile the same is done to the graph that Dynamo captured, before autograd sees it (`step.rewritten_step`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from drivetrain.base.errors import InvalidValue
from drivetrain.base.timing import Timing

from ..capture import Program, capture
from ..cost import CostTable, default_path
from ..race import fastest, race
from .convert import from_fx, register
from .emit import with_layouts_of
from .gradients import compare_gradients, differentiable, refuse_cut_gradients, runnable
from .price import Objective, Pricer
from .rule import Rule, simplify
from .rules import RULES
from .strategy import search_program
from .term import is_random

TRAINING_RULES: tuple[Rule, ...] = tuple(rule for rule in RULES if not rule.inference_only)


class Trainable(nn.Module):
    """A rewritten module: in training mode it runs the rewritten program, in evaluation mode the original.

    Its parameters and buffers are the original's own, under the same names. A call with other shapes than it was
    rewritten for (the last batch of an epoch) runs the original too.

    Args:
        original: the module; not registered, so that names stay as they are.
        program: how it was captured.
        runner: takes the state that `program` names, then the flat inputs.
        steps: names of the rules that were applied.

    Attributes:
        saved: share of the simplified program's time that the search's prices say is saved.
        then: "rewritten", or "original" where that was not slower.
        measured: seconds of whole steps of both, in turn; empty where nothing was rewritten or measured.
    """

    original: nn.Module
    saved: float
    then: str
    measured: dict[str, Timing]

    def __init__(self, original: nn.Module, program: Program, runner: fx.GraphModule, steps: Sequence[str]) -> None:
        super().__init__()
        self.__dict__["original"] = original  # past nn.Module, which would register it
        self.steps, self._program, self._runner = tuple(steps), program, (runner,)
        self.then, self.measured, self.saved = "rewritten", {}, 0.0
        for name, value in (*original.named_parameters(), *original.named_buffers()):
            register(self, name, value)
        kept = set(original.state_dict())
        for name, _ in original.named_buffers():
            if name not in kept:
                _owner(self, name)._non_persistent_buffers_set.add(name.rpartition(".")[2])
        self.train(original.training)

    @property
    def rewritten(self) -> fx.GraphModule:
        """The program that runs in training."""
        return self._runner[0]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the original."""
        leaves, spec = pytree.tree_flatten((args, kwargs))
        state: dict[str, Tensor] = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        if self.then == "original" or not self.training or spec != self._program.in_spec or not self._suits(leaves):
            self.original.train(self.training)
            return functional_call(self.original, state, args, kwargs)
        program = self._program
        known = [state.get(name, constant) for name, constant in program.state.items()]
        results = self.rewritten(*known, *leaves)
        for name, value in zip(program.writes, results, strict=False):
            with torch.no_grad():
                (leaves[int(name.removeprefix("input:"))] if name.startswith("input:") else state[name]).copy_(value)
        return pytree.tree_unflatten(list(results[len(program.writes) :]), program.out_spec)

    def forms(self, runner: fx.GraphModule) -> dict[str, Callable[..., Sequence[Any]]]:
        """The original and another runner as functions of the state's values and flat inputs, with flat outputs."""
        state, writes = self._program.state, len(self._program.writes)

        def original(*values: Any) -> Sequence[Any]:
            args, kwargs = pytree.tree_unflatten(list(values[len(state) :]), self._program.in_spec)
            known = dict(zip(state, values, strict=False))
            return pytree.tree_leaves(functional_call(self.original, known, args, kwargs))

        return {"original": original, "rewritten": lambda *values: runner(*values)[writes:]}

    def _suits(self, leaves: Sequence[Any]) -> bool:
        return all(
            (one.shape, one.dtype) == (other.shape, other.dtype) if isinstance(one, Tensor) else one == other
            for one, other in zip(leaves, self._program.example_inputs, strict=True)
        )


def rewrite_training(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    rules: Sequence[Rule] = TRAINING_RULES,
    alpha: float = 1.05,
    budget: int = 100,
    time_limit_s: float = 60.0,
    cost: str | Objective = "time",
    table: CostTable | Path | None = None,
    rounds: int | None = None,
) -> Trainable:
    """Rewrite a module that is being trained, for inputs like the given ones.

    Args:
        module: in training mode.
        args, kwargs: an example batch.
        rules: rules to use; `inference_only` ones are refused.
        alpha, budget, time_limit_s, cost, table: of the search, as for `optimize`.
        rounds: of the last comparison, of whole steps on copies of the state; by default as many as fit into two
            seconds, 3 to 15. 0 leaves it out, and the rewritten program is what runs.

    Raises:
        InvalidValue: the module is in evaluation mode; a rule holds for inference only.
        NotRewritable: the captured program mutates tensors, has shapes that depend on data, or stops gradients
            (detach, no_grad, a custom backward): a captured program does not tell where.
    """
    if not module.training:
        raise InvalidValue("graph: the module is in evaluation mode", hint="call .train() first, or use optimize")
    wrong = next((rule.name for rule in rules if rule.inference_only), None)
    if wrong is not None:
        raise InvalidValue(f"graph: the rule {wrong!r} holds for inference only", hint="it would freeze statistics")
    refuse_cut_gradients(capture(module, args, kwargs, decompose=False))
    program = capture(module, args, kwargs)
    names = {node.name: name for name, node in program.state_nodes.items()}
    order = [*program.state, *(node.name for node in program.input_nodes)]
    whole = from_fx(program.module.graph, names)
    always = [rule for rule in rules if rule.always]
    graph, changes = simplify(whole, always)
    steps = [change.rule for change in changes]
    saved = 0.0
    if any(not rule.always for rule in rules):
        objective = cost if isinstance(cost, Objective) else Objective(cost)
        if not isinstance(table, CostTable):
            table = CostTable(table or default_path())
        pricer = Pricer(table, training=True, measured=objective.metric == "time")
        found = search_program(
            graph, rules, pricer, objective, alpha=alpha, budget=budget, seconds=time_limit_s
        )  # fmt: skip
        table.save()
        before, after = (objective.of(pricer.graph(form)) for form in (found.forms[0], found.forms[-1]))
        graph, steps = found.forms[-1], [*steps, *(change.rule for change, _ in found.changes)]
        saved = 1 - after / before if before else 0.0
    made = Trainable(module, program, runnable(with_layouts_of(graph, program.module.graph), order), steps)
    made.saved = saved
    # what a program draws at random comes in another order after a rewrite: only the captured one can be compared
    random = any(is_random(node.op) for node in whole.order)
    leaves = pytree.tree_leaves((args, dict(kwargs or {})))
    both = made.forms(differentiable(program.module) if random else made.rewritten)
    compare_gradients(both["rewritten"], both["original"], program.state, leaves)
    if rounds != 0 and graph.digest != whole.digest:
        made.measured = race(
            made.forms(made.rewritten), [*program.state.values(), *leaves], backward=True, rounds=rounds
        )
        made.then = fastest(made.measured, "original")
    return made


def _owner(module: nn.Module, name: str) -> nn.Module:
    return module.get_submodule(name.rpartition(".")[0])
