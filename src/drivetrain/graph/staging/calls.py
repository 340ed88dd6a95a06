"""Calls that stay one node of a graph: a staged function in another, a branch, a loop, an autograd.Function, Python.

A `Runner` is the node's target: it runs on real tensors, and says what it would return for fake ones. Gradients inside
a trace go through `_Call`, whose backward is one node, too: for a graph its staged backward (traced on demand, so it
can be differentiated again), for anything else a tape that is run when the graph is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from .. import _torch_compat as compat
from ..errors import CaptureError, Line, current_line


class Runner:
    """The target of a call node.

    Attributes:
        opaque: no compiler can look inside; the graph is cut there.
    """

    opaque = False

    def __init__(self, name: str) -> None:
        self.__name__ = self.__qualname__ = name
        self.line: Line | None = current_line()

    def __call__(self, *tensors: Tensor) -> tuple[Tensor | None, ...]:
        raise NotImplementedError

    def fake(self, tensors: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
        """What it returns, on fake tensors; by default by running on them."""
        with torch.no_grad():
            return self(*tensors)

    def backward(self, inputs: Sequence[Tensor], given: Sequence[bool]) -> Runner:
        """A runner from (inputs, gradients that are given) to gradients of the inputs."""
        return TapeBackward(self, [value.requires_grad for value in inputs], given)


class GraphCall(Runner):
    """A graph with all its tensors as inputs."""

    def __init__(self, module: fx.GraphModule, name: str) -> None:
        super().__init__(name)
        self.module = module
        self._backward: dict[Any, Runner] = {}

    def __call__(self, *tensors: Tensor) -> tuple[Tensor | None, ...]:
        return tuple(self.module(*tensors))

    def backward(self, inputs: Sequence[Tensor], given: Sequence[bool]) -> Runner:
        from .concrete import finish_graph
        from .trace import Out, current, trace

        wants = [value.requires_grad for value in inputs]
        key = (tuple(wants), tuple(given), tuple((value.shape, value.dtype) for value in inputs))
        if key in self._backward:
            return self._backward[key]
        here = current()
        assert here is not None
        with compat.without_recording(here.mode), torch.no_grad():
            outs = [value for value, real in zip(self.fake(inputs), given, strict=True) if real]
        leaves = [compat.stand_in(value) for value in inputs] + [
            compat.stand_in(value) for value in outs if value is not None
        ]

        def body(flat: Sequence[Any]) -> list[Tensor | None]:
            values, gradients = flat[: len(inputs)], flat[len(inputs) :]
            with torch.enable_grad():
                results = [value for value, real in zip(self.module(*values), given, strict=True) if real]
                return _gradients(results, values, wants, gradients)

        made = trace(body, leaves, what=f"the gradient of {self.__name__}")
        graph = finish_graph(made, ambient_grad=True)
        found: Runner = GraphBackward(graph, f"{self.__name__}_backward", [isinstance(o, Out) for o in made.outputs])
        self._backward[key] = found
        return found


class GraphBackward(GraphCall):
    """The staged backward of a graph: some of its results are None, where nothing depends on an input."""

    def __init__(self, module: fx.GraphModule, name: str, present: list[bool]) -> None:
        super().__init__(module, name)
        self.present = present

    def unpack(self, results: Sequence[Tensor]) -> list[Tensor | None]:
        """Put None where there is no gradient."""
        values = iter(results)
        return [next(values) if there else None for there in self.present]


class TapeBackward(Runner):
    """The gradient of anything that runs: run it again under autograd, when the graph runs."""

    opaque = True

    def __init__(self, runner: Runner, wants: Sequence[bool], given: Sequence[bool]) -> None:
        super().__init__(f"{runner.__name__}_backward")
        self.runner, self.wants, self.given = runner, list(wants), list(given)
        self.line = runner.line

    def __call__(self, *tensors: Tensor) -> tuple[Tensor | None, ...]:
        count = len(self.wants)
        keep = torch.is_grad_enabled()
        with torch.enable_grad():
            values = [
                (value if keep and value.requires_grad else value.detach().requires_grad_()) if wanted else value
                for value, wanted in zip(tensors[:count], self.wants, strict=True)
            ]
            results = [value for value, real in zip(self.runner(*values), self.given, strict=True) if real]
            found = _gradients(results, values, self.wants, tensors[count:], keep)
        return tuple(
            torch.zeros_like(value) if gradient is None else gradient
            for gradient, value, wanted in zip(found, values, self.wants, strict=True)
            if wanted
        )

    def fake(self, tensors: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
        return tuple(torch.empty_like(v) for v, wanted in zip(tensors, self.wants, strict=False) if wanted)

    def unpack(self, results: Sequence[Tensor]) -> list[Tensor | None]:
        """Put None where no gradient was wanted."""
        values = iter(results)
        return [next(values) if wanted else None for wanted in self.wants]


def _gradients(
    results: Sequence[Any], values: Sequence[Any], wants: Sequence[bool], gradients: Sequence[Any], keep: bool = True
) -> list[Tensor | None]:
    pairs = [(r, g) for r, g in zip(results, gradients, strict=True) if r is not None and r.requires_grad]
    wanted = [value for value, want in zip(values, wants, strict=True) if want]
    if not pairs or not wanted:
        return [None] * len(values)
    found = iter(
        torch.autograd.grad([r for r, _ in pairs], wanted, [g for _, g in pairs], create_graph=keep, allow_unused=True)
    )
    return [next(found) if want else None for want in wants]


class CustomCall(Runner):
    """A user's torch.autograd.Function: its own backward is kept."""

    def __init__(self, function: Any, arguments: Sequence[Any]) -> None:
        super().__init__(function.__name__)
        self.function = function
        self.arguments = [_Hole if isinstance(value, Tensor) else value for value in arguments]

    def __call__(self, *tensors: Tensor) -> tuple[Tensor | None, ...]:
        values = iter(tensors)
        result = _apply(self.function)(*(next(values) if value is _Hole else value for value in self.arguments))
        self.single = not isinstance(result, tuple)
        return (result,) if self.single else tuple(result)


class _Hole:
    """Where a tensor argument goes."""


class CondCall(Runner):
    """torch.cond: one of two graphs, chosen when the graph runs."""

    opaque = True

    def __init__(self, branches: Sequence[Any], operands: int) -> None:
        super().__init__("cond")
        self.branches, self.operands = branches, operands

    def __call__(self, *tensors: Tensor) -> tuple[Tensor | None, ...]:
        predicate, rest = tensors[0], tensors[1:]
        if compat.is_fake(predicate):
            return tuple(torch.ops.higher_order.cond(predicate, self._branch(True), self._branch(False), rest))
        return self._branch(bool(predicate))(*rest)

    def _branch(self, taken: bool) -> Callable[..., tuple[Any, ...]]:
        skipped = len(self.branches[0].captured)
        made = self.branches[0 if taken else 1]
        start = self.operands + (0 if taken else skipped)

        def run(*rest: Tensor) -> tuple[Any, ...]:
            captured = rest[start : start + len(made.captured)]
            return tuple(made.graph(*captured, *rest[: self.operands]))

        return run

    def fake(self, tensors: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            return self._branch(True)(*tensors[1:])


class WhileCall(Runner):
    """torch.while_loop: a graph that runs while another one says so."""

    opaque = True

    def __init__(self, condition: Any, body: Any, carried: int) -> None:
        super().__init__("while_loop")
        self.condition, self.body, self.carried = condition, body, carried

    def __call__(self, *tensors: Tensor) -> tuple[Tensor | None, ...]:
        state, rest = tensors[: self.carried], tensors[self.carried :]
        split = len(self.condition.captured)
        while bool(self.condition.graph(*rest[:split], *state)[0]):
            state = tuple(self.body.graph(*rest[split:], *state))
        return state

    def fake(self, tensors: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            split = self.carried + len(self.condition.captured)
            return tuple(self.body.graph(*tensors[split:], *tensors[: self.carried]))


def invoke(runner: Runner, tensors: Sequence[Tensor]) -> tuple[Any, ...]:
    """Record a call in the current trace; returns fake results with their place in autograd."""
    from .trace import current

    here = current()
    assert here is not None
    values = [here.capture.replace(value) for value in tensors]
    if torch.is_grad_enabled() and any(value.requires_grad for value in values):
        return tuple(_apply(_Call)(runner, *values))
    return _emit(here, runner, values, torch.is_grad_enabled())


class _Call(torch.autograd.Function):
    """A recorded call in the autograd graph of a trace."""

    @staticmethod
    def forward(ctx: Any, runner: Runner, *values: Any) -> Any:
        from .trace import current

        ctx.set_materialize_grads(False)
        ctx.runner = runner
        ctx.save_for_backward(*values)
        here = current()
        assert here is not None
        results = _emit(here, runner, values, True)
        ctx.mark_non_differentiable(*(r for r in results if r is not None and not _real_valued(r)))
        return results

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        values = ctx.saved_tensors
        given = [gradient is not None for gradient in gradients]
        if not any(given):
            return (None, *(None for _ in values))
        back: Any = ctx.runner.backward(values, given)
        results = invoke(back, (*values, *(gradient for gradient in gradients if gradient is not None)))
        return (None, *back.unpack(results))


def _real_valued(value: Tensor) -> bool:
    return value.is_floating_point() or value.is_complex()


def _emit(here: Any, runner: Runner, values: Sequence[Any], grad: bool) -> tuple[Any, ...]:
    proxies = compat.proxies_of(values, here.tracer)
    if isinstance(runner, GraphCall):
        name = here.module_name(runner)
        proxy = here.tracer.create_proxy("call_module", name, proxies, {})
    else:
        proxy = here.tracer.create_proxy("call_function", runner, proxies, {}, name=runner.__name__)
    proxy.node.meta["grad"] = grad
    proxy.node.meta["runner"] = runner
    with compat.without_recording(here.mode), torch.no_grad():
        results = tuple(runner.fake([value.detach() for value in values]))
    compat.track(results, proxy, here.tracer)
    return results


_kept_apply = torch.autograd.Function.__dict__["apply"]


def _apply(function: Any) -> Callable[..., Any]:
    """The real `apply` of an autograd.Function, also while it is patched."""
    bound: Callable[..., Any] = _kept_apply.__get__(None, function)
    return bound


@contextmanager
def functions_kept() -> Iterator[None]:
    """While tracing: autograd.Functions, torch.cond and torch.while_loop become one node each in this thread."""
    from .trace import current

    thread = threading.get_ident()
    kept = (torch.autograd.Function.__dict__["apply"], torch.cond, torch.while_loop)

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        own = cls.__module__.startswith(("torch.", "drivetrain.graph."))
        if threading.get_ident() != thread or current() is None or own or kwargs:
            return _apply(cls)(*args, **kwargs)
        runner = CustomCall(cls, args)
        results = invoke(runner, [value for value in args if isinstance(value, Tensor)])
        return results[0] if runner.single else results

    torch.autograd.Function.apply = classmethod(apply)  # type: ignore[assignment,method-assign]
    torch.cond = _cond_in_place_of(kept[1], thread)
    torch.while_loop = _while_in_place_of(kept[2], thread)
    try:
        yield
    finally:
        torch.autograd.Function.apply, torch.cond, torch.while_loop = kept  # type: ignore[method-assign]


@contextmanager
def control_flow_by_value() -> Iterator[None]:
    """While Python runs for real: torch.cond and torch.while_loop look at the value, no compiler is asked."""
    thread = threading.get_ident()
    kept = torch.cond, torch.while_loop

    def cond(pred: Any, true_fn: Any, false_fn: Any, operands: Any = ()) -> Any:
        if threading.get_ident() != thread:
            return kept[0](pred, true_fn, false_fn, operands)
        return (true_fn if bool(pred) else false_fn)(*operands)

    def while_loop(cond_fn: Any, body_fn: Any, carried_inputs: Any) -> Any:
        if threading.get_ident() != thread:
            return kept[1](cond_fn, body_fn, carried_inputs)
        values = tuple(carried_inputs)
        while bool(cond_fn(*values)):
            values = tuple(body_fn(*values))
        return values

    torch.cond, torch.while_loop = cond, while_loop
    try:
        yield
    finally:
        torch.cond, torch.while_loop = kept


def _cond_in_place_of(kept: Any, thread: int) -> Any:
    from .trace import current, trace

    def cond(pred: Any, true_fn: Any, false_fn: Any, operands: Any = ()) -> Any:
        if threading.get_ident() != thread or current() is None:
            return kept(pred, true_fn, false_fn, operands)
        if isinstance(pred, bool):
            return (true_fn if pred else false_fn)(*operands)
        branches = [
            trace(lambda flat, branch=branch: branch(*flat), operands, what="a branch of torch.cond")  # type: ignore[misc]
            for branch in (true_fn, false_fn)
        ]
        if branches[0].out_spec != branches[1].out_spec:
            raise CaptureError(
                f"graph: the branches of torch.cond return {branches[0].out_spec} and {branches[1].out_spec}",
                hint="both branches must return the same structure",
                where=str(current_line()),
            )
        captured = [real for branch in branches for real, _ in branch.captured]
        results = invoke(CondCall(branches, len(operands)), (pred, *operands, *captured))
        return pytree.tree_unflatten(list(results), branches[0].out_spec)

    return cond


def _while_in_place_of(kept: Any, thread: int) -> Any:
    from .trace import current, trace

    def while_loop(cond_fn: Any, body_fn: Any, carried_inputs: Any) -> Any:
        if threading.get_ident() != thread or current() is None:
            return kept(cond_fn, body_fn, carried_inputs)
        values = tuple(carried_inputs)
        condition = trace(lambda flat: cond_fn(*flat), values, what="the condition of torch.while_loop")
        body = trace(lambda flat: tuple(body_fn(*flat)), values, what="the body of torch.while_loop")
        captured = [real for made in (condition, body) for real, _ in made.captured]
        return invoke(WhileCall(condition, body, len(values)), (*values, *captured))

    return while_loop
