"""Rewriting what is trained: weight rules as differentiable terms over the original parameters.

    model = rewrite_training(model, (x,))      # same parameters (the same objects), same state dict
    optimizer = SGD(model.parameters(), lr)    # gradients go through cat, pad and add to each of them

Only rules that hold while weights change are used; folding running statistics is none of them. Weight terms are
computed in each step and priced so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from drivetrain.base.errors import InvalidValue

from ..capture import Program, capture
from ..cost import CostTable, default_path
from ..ir import copy_graph, source_line
from .convert import NotRewritable, from_fx, register, to_fx
from .emit import state_as_inputs, with_layouts_of
from .optimize import _searched
from .price import Objective, Pricer
from .rule import Rule, simplify
from .rules import RULES
from .term import Graph, is_random, name_of

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
    """

    original: nn.Module

    def __init__(self, original: nn.Module, program: Program, runner: fx.GraphModule, steps: Sequence[str]) -> None:
        super().__init__()
        self.__dict__["original"] = original  # past nn.Module, which would register it
        self.steps, self._program, self._runner = tuple(steps), program, (runner,)
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
        if not self.training or spec != self._program.in_spec or not self._suits(leaves):
            self.original.train(self.training)
            return functional_call(self.original, state, args, kwargs)
        program = self._program
        known = [state.get(name, constant) for name, constant in program.state.items()]
        results = self.rewritten(*known, *leaves)
        for name, value in zip(program.writes, results, strict=False):
            with torch.no_grad():
                (leaves[int(name.removeprefix("input:"))] if name.startswith("input:") else state[name]).copy_(value)
        return pytree.tree_unflatten(list(results[len(program.writes) :]), program.out_spec)

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
) -> Trainable:
    """Rewrite a module that is being trained, for inputs like the given ones.

    Args:
        module: in training mode.
        args, kwargs: an example batch.
        rules: rules to use; `inference_only` ones are refused.
        alpha, budget, time_limit_s, cost, table: of the search, as for `optimize`.

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
    _refuse_cut_gradients(capture(module, args, kwargs, decompose=False))
    program = capture(module, args, kwargs)
    names = {node.name: name for name, node in program.state_nodes.items()}
    order = [*program.state, *(node.name for node in program.input_nodes)]
    whole = from_fx(program.module.graph, names)
    always = [rule for rule in rules if rule.always]
    graph, changes = simplify(whole, always)
    steps = [change.rule for change in changes]
    if any(not rule.always for rule in rules):
        objective = cost if isinstance(cost, Objective) else Objective(cost)
        if not isinstance(table, CostTable):
            table = CostTable(table or default_path())
        pricer = Pricer(table, training=True, measured=objective.metric == "time")
        forms, path, _ = _searched(graph, rules, pricer, objective, alpha, budget, 30, time_limit_s)
        table.save()
        graph, steps = forms[-1], [*steps, *path]
    made = Trainable(module, program, runnable(with_layouts_of(graph, program.module.graph), order), steps)
    # what a program draws at random comes in another order after a rewrite: only the captured one can be compared
    random = any(is_random(node.op) for node in whole.order)
    _compare_gradients(made, _differentiable(program.module) if random else made.rewritten, args, dict(kwargs or {}))
    return made


def runnable(graph: Graph, order: Sequence[str]) -> fx.GraphModule:
    """A program with state as arguments, in operators that autograd knows."""

    def call(emitter: Any, node: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.Node:
        made: fx.Node = emitter.graph.call_function(_DIFFERENTIABLE.get(name_of(node.op), node.op), args, kwargs)
        return made

    return to_fx(state_as_inputs(graph, order), {}, call)


def batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor,
    training: bool, momentum: float, eps: float,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Batch norm that returns new running statistics, by the operator that has a derivative."""
    mean, variance = mean.clone(), variance.clone()
    return (*torch.native_batch_norm(x, weight, bias, mean, variance, training, momentum, eps), mean, variance)


# what torch.export functionalises to and autograd has no derivative for
_DIFFERENTIABLE = {"aten._native_batch_norm_legit_functional.default": batch_norm}


def _owner(module: nn.Module, name: str) -> nn.Module:
    return module.get_submodule(name.rpartition(".")[0])


def _refuse_cut_gradients(program: Program) -> None:
    """Raise NotRewritable where the user's code stops gradients; lowering to core operators loses that."""
    for module in program.module.modules():
        if not isinstance(module, fx.GraphModule):
            continue
        for node in module.graph.nodes:
            name = str(node.target)
            if node.op == "call_function" and ("detach" in name or "set_grad_enabled" in name):
                line = source_line(node)
                raise NotRewritable(
                    f"graph: {name} stops gradients, and a rewritten program would not",
                    hint="rewrite the part of the model without it", where=None if line is None else str(line),
                )  # fmt: skip


def _differentiable(module: fx.GraphModule) -> fx.GraphModule:
    """A captured graph in operators that autograd knows, in the captured order."""
    graph = copy_graph(module.graph)
    for node in graph.nodes:
        node.target = _DIFFERENTIABLE.get(str(node.target), node.target)
    return fx.GraphModule(module, graph)


def _compare_gradients(
    made: Trainable, runner: fx.GraphModule, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:  # fmt: skip
    """One step of the original and of a graph on copies of the state, with the same random numbers.

    Raises:
        NotRewritable: an output or a parameter's gradient differs by more than rounding.
    """
    inputs = pytree.tree_leaves((args, kwargs))
    found: list[dict[Any, Tensor | None]] = []
    for rewritten in (True, False):
        state = {name: value.detach().clone() for name, value in made._program.state.items()}
        wanted = [name for name, value in made.named_parameters() if value.requires_grad and name in state]
        for name in wanted:
            state[name].requires_grad_()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            if rewritten:
                outputs = list(runner(*state.values(), *inputs))[len(made._program.writes) :]
            else:
                outputs = pytree.tree_leaves(functional_call(made.original, state, args, kwargs))
        outputs = [value for value in outputs if isinstance(value, Tensor)]
        lossy = [value.double().square().sum() for value in outputs if value.requires_grad]
        grads = torch.autograd.grad(sum(lossy), [state[name] for name in wanted], allow_unused=True) if lossy else ()
        found.append({**dict(enumerate(outputs)), **dict(zip(wanted, grads, strict=False))})
    largest = max(
        (float(value.detach().abs().max()) for value in found[1].values() if value is not None and value.numel()),
        default=0.0,
    )
    for name, one in found[0].items():
        other = found[1].get(name)
        same = one is other is None or (one is not None and other is not None and _close(one, other, largest))
        if not same:
            what = f"output {name}" if isinstance(name, int) else f"the gradient of {name}"
            raise NotRewritable(f"graph: rewritten for training, {what} is not what the original gives")


def _close(one: Tensor, other: Tensor, largest: float) -> bool:
    """Equal up to rounding of its own values, or of the sums of larger ones that cancelled (a bias before a norm)."""
    if one.shape != other.shape or not one.is_floating_point():
        return one.shape == other.shape and torch.equal(one, other)
    own, all_ = (1e-9, 1e-13) if one.dtype == torch.float64 else (1e-3, 1e-6)
    return not one.numel() or bool((one - other).abs().max() <= own * other.abs().max() + all_ * largest)
