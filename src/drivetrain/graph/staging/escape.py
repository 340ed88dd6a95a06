"""Ways out of a trace: `py_call` runs Python when the graph runs, `init_scope` runs it now, for real (spec §2.6)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from drivetrain.base.errors import InvalidValue

from .. import _torch_compat as compat
from ..errors import SpecError
from .calls import Runner, invoke
from .spec import Spec, describe
from .trace import HERE, current


def is_tracing() -> bool:
    """Whether this code is run for a trace, on tensors without values."""
    return current() is not None


@contextmanager
def init_scope() -> Iterator[None]:
    """Leave the trace for the length of the block: what is computed here is computed once, for real.

    Use it to make the initial value of state: tensors made here are captured when the trace uses them.
    """
    if current() is None:
        yield
        return
    HERE.suspended += 1
    try:
        with compat.outside_modes():
            yield
    finally:
        HERE.suspended -= 1


def py_call(function: Callable[..., Any], args: Any, out: Any, differentiable: bool | Callable[..., Any] = True) -> Any:
    """Call Python from a staged function; it runs once at each call of the graph, in program order.

    Args:
        function: gets `args` with real tensors; may return tensors, numpy arrays or numbers.
        args: a tuple of tensors and other values, in any pytree.
        out: what it returns: a pytree of Specs with fixed sizes, or of tensors like the result.
        differentiable: True records a tape around the call (the function must compute with torch); False gives results
            without gradients; a function `(args, *gradients_of_outputs) -> gradients of the tensors in args` is a rule.

    Raises:
        SpecError: at run time, a result that does not fit `out`.
        InvalidValue: gradients through a function that breaks the tape and has no rule.
    """
    leaves, spec = pytree.tree_flatten(args if isinstance(args, tuple) else (args,))
    wants, out_spec = pytree.tree_flatten(out, is_leaf=lambda value: isinstance(value, Spec))
    for want in wants:
        free = isinstance(want, Spec) and any(dim.fixed is None for dim in want.dims)
        if free or not isinstance(want, Spec | Tensor):
            raise SpecError(
                f"graph: py_call needs the shape of each result, found {want}",
                hint="out=Spec((2, 3), torch.float32), or out=x for a result like x",
            )
    runner = PyCall(function, leaves, spec, wants, differentiable)
    tensors = [value for value in leaves if isinstance(value, Tensor)]
    if current() is not None:
        runner.wants = [value if isinstance(value, Spec) else _Like(value) for value in wants]
        results = invoke(runner, tensors)
        if differentiable is False:
            results = tuple(value.detach() for value in results)
    else:
        results = runner(*tensors)
    return pytree.tree_unflatten(list(results), out_spec)


class _Like:
    """What is known of a result: a symbolic size stays open."""

    def __init__(self, value: Tensor) -> None:
        self.dtype, self.device = value.dtype, value.device
        self.sizes: tuple[Any, ...] = tuple(value.shape)

    def misfit(self, value: Tensor) -> str | None:
        fits = value.dtype is self.dtype and len(value.shape) == len(self.sizes)
        fits = fits and all(
            not isinstance(size, int) or size == found for size, found in zip(self.sizes, value.shape, strict=True)
        )
        return None if fits else describe(value)

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')}[{', '.join(map(str, self.sizes))}]"


class PyCall(Runner):
    """A call of Python in a graph."""

    opaque = True

    def __init__(self, function: Any, leaves: Sequence[Any], spec: Any, wants: Sequence[Any], rule: Any) -> None:
        super().__init__(f"py_{getattr(function, '__name__', 'call').strip('<>')}")
        self.function, self.spec, self.rule = function, spec, rule
        self.leaves = [PyCall if isinstance(value, Tensor) else value for value in leaves]
        self.wants: list[Any] = [value if isinstance(value, Spec) else _Like(value) for value in wants]

    def arguments(self, tensors: Sequence[Tensor]) -> Any:
        """The function's arguments with these tensors in their places."""
        values = iter(tensors)
        return pytree.tree_unflatten([next(values) if leaf is PyCall else leaf for leaf in self.leaves], self.spec)

    def __call__(self, *tensors: Tensor) -> tuple[Tensor | None, ...]:
        needs = torch.is_grad_enabled() and any(value.requires_grad for value in tensors)
        if not needs:
            return self.run(tensors)
        if self.rule is False:
            with torch.no_grad():
                return self.run(tensors)
        return tuple(_PyTape.apply(self, *tensors))

    def run(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Call the function; check and convert what it returns."""
        found = pytree.tree_leaves(self.function(*self.arguments(tensors)))
        if len(found) != len(self.wants):
            raise SpecError(f"graph: {self.__name__} returned {len(found)} values where `out` names {len(self.wants)}")
        results = []
        for value, want in zip(found, self.wants, strict=True):
            if not isinstance(value, Tensor):
                value = torch.as_tensor(value, dtype=want.dtype, device=want.device or "cpu")
            misfit = want.misfit(value, {}) if isinstance(want, Spec) else want.misfit(value)
            if misfit is not None:
                raise SpecError(
                    f"graph: {self.__name__} returned {misfit} where `out` says {want}",
                    where=str(self.line) if self.line else None,
                )
            results.append(value)
        return tuple(results)

    def fake(self, tensors: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
        made = []
        for want in self.wants:
            sizes = [dim.fixed for dim in want.dims] if isinstance(want, Spec) else want.sizes
            made.append(torch.empty(tuple(sizes), dtype=want.dtype, device=want.device or "cpu"))
        return tuple(made)


class _PyTape(torch.autograd.Function):
    """Python under a tape of its own; the tape is differentiated when gradients come back."""

    @staticmethod
    def forward(ctx: Any, call: PyCall, *tensors: Tensor) -> Any:
        ctx.call, ctx.wants = call, [value.requires_grad for value in tensors]
        ctx.save_for_backward(*tensors)
        if callable(call.rule):
            return call.run(tensors)
        with torch.enable_grad():
            ctx.inputs = [v.detach().requires_grad_(want) for v, want in zip(tensors, ctx.wants, strict=True)]
            ctx.results = call.run(ctx.inputs)
        return tuple(value.detach() for value in ctx.results)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        call: PyCall = ctx.call
        saved = ctx.saved_tensors
        if callable(call.rule):
            found = call.rule(call.arguments(saved), *gradients)
            return (None, *(found if isinstance(found, tuple) else (found,)))
        keep = torch.is_grad_enabled()
        inputs, results = (saved, None) if keep else (ctx.inputs, ctx.results)
        with torch.enable_grad():
            # A gradient of this gradient must reach the caller's own tensors: run once more on them.
            results = call.run(saved) if results is None else results
            return (None, *_tape(call, results, inputs, ctx.wants, gradients, keep))


def _tape(
    call: PyCall, results: Sequence[Tensor], inputs: Sequence[Tensor], wants: Sequence[bool], given: Any, keep: bool
) -> list[Tensor | None]:
    pairs = [(r, g) for r, g in zip(results, given, strict=True) if r.requires_grad]
    if not pairs:
        raise InvalidValue(
            f"graph: gradients were asked for through {call.__name__}, which does not compute with torch",
            hint="give a rule: py_call(f, args, out, lambda args, g: gradients), or differentiable=False",
            where=str(call.line) if call.line else None,
        )
    wanted = [value for value, want in zip(inputs, wants, strict=True) if want]
    found = iter(
        torch.autograd.grad([r for r, _ in pairs], wanted, [g for _, g in pairs], create_graph=keep, retain_graph=True,
                            allow_unused=True)
    )  # fmt: skip
    return [next(found) if want else None for want in wants]
