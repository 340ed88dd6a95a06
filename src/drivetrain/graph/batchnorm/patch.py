"""A patched model: its own modules and keys, another forward, decided by the first training step or an example."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from drivetrain.base.errors import InvalidValue

from .plan import BNPlan
from .rewrite import restructure


def patch_(model: nn.Module, *, example: Tensor | None = None, level: str = "auto", reference: bool = False) -> BNPlan:
    """Restructure a model in place: its forward is replaced, its modules, parameters and state_dict keys stay.

    With level "auto" nobody loses: training steps of the model as it is and of the fused forms, in the layout given and
    in channels_last, run in turn on copies, and the fastest is kept. That happens here if an example is given, else in
    the first training step, on its input (some ten steps' time, once). Another level is applied unmeasured.

    Args:
        model: any model that torch.fx can trace.
        example: an input as it will be trained with: layout and number of images matter. With it the weights may be
            brought into channels_last, too.
        level: see `restructure`.
        reference: run the torch version of the sweeps where the native one can't.

    Returns:
        The plan: a sequence of edges. Without an example it is filled in by the first training step.

    Raises:
        InvalidValue: the model can't be traced, or is patched already; no such level.
    """
    if is_patched(model):
        raise InvalidValue(f"graph: this {type(model).__name__} is patched already", hint="unpatch_(model) first")
    rewritten, plan = restructure(model, level=level, reference=reference)
    if level != "auto":
        model.__dict__["forward"] = PatchedForward(
            model, Form(plan.level, reference=reference), type(rewritten).forward
        )
        return plan
    plan.decided = False
    forward = PatchedForward(model, None, plan=plan, reference=reference)
    if example is not None:
        forward.decide((example,), weights=True)
    model.__dict__["forward"] = forward
    return plan


def unpatch_(model: nn.Module) -> nn.Module:
    """Give a model its own forward back.

    Raises:
        InvalidValue: it is not patched.
    """
    if not is_patched(model):
        raise InvalidValue(f"graph: this {type(model).__name__} is not patched")
    del model.__dict__["forward"]
    return model


@dataclass(frozen=True)
class Form:
    """How a patched model runs: `level` "off" is its own forward; `rows` brings inputs into channels_last."""

    level: str
    keep: frozenset[str] | None = None
    rows: bool = False
    reference: bool = False


class PatchedForward:
    """The forward of a patched model. A deep copy, or what is read from a file, makes its own at its first call."""

    def __init__(
        self, model: nn.Module, form: Form | None, function: Callable[..., Any] | None = None,
        plan: BNPlan | None = None, reference: bool = False,
    ) -> None:  # fmt: skip
        self.model, self.form, self.function, self.plan, self.reference = model, form, function, plan, reference
        self.__signature__ = inspect.signature(MethodType(type(model).forward, model))
        self.__code__ = type(model).forward.__code__  # torch.export reads names of arguments there

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.form is None:
            if not self._trains(args, kwargs):
                return type(self.model).forward(self.model, *args, **kwargs)
            self.decide(args)
        form = self.form
        assert form is not None
        if self.function is None:
            off = form.level == "off"
            made = None if off else restructure(self.model, level=form.level, keep=form.keep, reference=form.reference)
            self.function = type(self.model).forward if made is None else type(made[0]).forward
        if not form.rows or not self.model.training:
            return self.function(self.model, *args, **kwargs)
        args, kwargs = in_rows(args), in_rows(kwargs)
        return pytree.tree_map_only(Tensor, Tensor.contiguous, self.function(self.model, *args, **kwargs))

    def decide(self, args: tuple[Any, ...], weights: bool = False) -> None:
        """Time the forms on these arguments and keep the fastest; tells the plan."""
        from .decision import decide

        self.form, found = decide(self.model, args, self.reference)
        if self.plan is not None:
            self.plan.__dict__.update(found.__dict__)
        if weights and self.form.rows:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _trains(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether this call is one to measure by: a training step on plain tensors."""
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        return (
            self.model.training and torch.is_grad_enabled() and not torch.compiler.is_compiling() and not kwargs
            and len(tensors) == len(args) > 0 and torch._C._functorch.peek_interpreter_stack() is None
            and all(type(tensor) in (Tensor, nn.Parameter) for tensor in tensors)
        )  # fmt: skip

    def __reduce__(self) -> tuple[Any, ...]:
        return PatchedForward, (self.model, self.form, None, None, self.reference)


def in_rows(values: Any) -> Any:
    """Four-dimensional tensors in channels_last, all else as it is."""
    return pytree.tree_map_only(
        Tensor, lambda x: x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x, values
    )


def is_patched(model: nn.Module) -> bool:
    """Whether a model's forward is one of ours."""
    return isinstance(model.__dict__.get("forward"), PatchedForward)
