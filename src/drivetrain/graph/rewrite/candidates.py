"""Forms of a program and ways to run each: built, held against the original, and raced."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from drivetrain.base.timing import Timing, interleave

from ..lower_onnxruntime import Session, export
from ..lowering import LOWERINGS, TermLowering, find_runner
from ..race import SAMPLE_S, fastest, settle_s
from ..verify import difference
from .convert import fold, to_fx
from .meta import Meta
from .optimized import Optimized
from .rule import Rule, simplify
from .term import INPUT, Graph

AS_GIVEN = "onnxruntime as given"


@dataclass(frozen=True)
class Candidates:
    """Forms of a program and ways to run each.

    Attributes:
        forms: the program as it came, simplified; and the searched one where there is one.
        state: what they read.
        lowerings: names of ways to run them.
        images: 4-D arguments are taken channels last where a lowering wants that.
        in_spec, out_spec: structure of the original's arguments and results.
        inputs: what its flat arguments are, lying as they are given.
        layouts: what the original's flat results are; None for what is no tensor.
        given: the original, where it holds layers that capturing takes apart and a backend has whole (an LSTM); it is
            tried in onnxruntime as it is.
    """

    forms: Sequence[Graph]
    state: Mapping[str, Tensor]
    lowerings: Sequence[str]
    images: bool
    in_spec: Any
    out_spec: Any
    inputs: Sequence[Meta]
    layouts: Sequence[Meta | None]
    given: nn.Module | None = None

    def __iter__(self) -> Iterator[tuple[str, Graph, Callable[[], Optimized]]]:
        """Each one's name, its form, and a function that builds it."""
        if self.given is not None and "onnxruntime" in self.lowerings:
            yield AS_GIVEN, self.forms[0], self.session_of_given
        for name in self.lowerings:
            for number, form in enumerate(self.forms):
                label = name if number == 0 else f"{name} after search"
                lower: Any = find_runner(name)
                if not LOWERINGS[name].channels_last:
                    lower = partial(lower, inputs=self.inputs)
                images = self.images and LOWERINGS[name].channels_last
                yield label, form, partial(self.build, form, lower, channels_last=images)

    def build(self, form: Graph, lower: TermLowering, channels_last: bool) -> Optimized:
        """One form under one lowering, called as the original is; where its results lie is set by `fit`."""
        given = {
            index: form.inputs.index(output)
            for index, output in enumerate(form.outputs)
            if getattr(output, "op", None) == INPUT
        }
        runner = lower(*fold(form, self.state))
        return Optimized(runner, self.in_spec, self.out_spec, self.inputs, channels_last=channels_last, given=given)

    def session_of_given(self) -> Optimized:
        """The original in an onnxruntime session, nothing rewritten."""
        assert self.given is not None
        session = Session(export(Flat(self.given, self.in_spec), [meta.empty("cpu").zero_() for meta in self.inputs]))
        return Optimized(session, self.in_spec, self.out_spec, self.inputs)

    def fit(self, module: Optimized, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """Run a module once and make its results lie as the original's; its flat results."""
        got = pytree.tree_leaves(module(*args, **kwargs))
        if len(got) == len(self.layouts):
            module.lie_as(self.layouts, metas_of(got))
        return got


class Flat(nn.Module):
    """A module on flat tensors, with flat results."""

    def __init__(self, module: nn.Module, in_spec: Any) -> None:
        super().__init__()
        self.module, self.in_spec = module, in_spec

    def forward(self, *flat: Tensor) -> tuple[Any, ...]:
        """As the module."""
        args, kwargs = pytree.tree_unflatten(list(flat), self.in_spec)
        return tuple(pytree.tree_leaves(self.module(*args, **kwargs)))


def taken_apart(module: nn.Module) -> bool:
    """Whether a module has layers that capturing takes apart into steps and a backend may have whole."""
    return any(isinstance(layer, nn.RNNBase) for layer in module.modules())


@dataclass
class Compared:
    """What comparing candidates came to.

    Attributes:
        then: name of the fastest right one, "original" where none was clearly faster.
        module: it.
        measured: times of all that were right.
        errors: largest absolute difference of each from the original.
        refused: those that could not be built or whose results were off, and why.
        off: forms whose results were off also by PyTorch's own kernels, so that a rule is at fault.
    """

    then: str
    module: nn.Module
    measured: dict[str, Timing] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    off: list[Graph] = field(default_factory=list)


def compare(
    target: nn.Module, expected: Sequence[Any], args: Sequence[Any], kwargs: Mapping[str, Any], candidates: Candidates,
    tolerance: float, rounds: int,
) -> Compared:  # fmt: skip
    """Run every candidate beside the original.

    Args:
        target: the original.
        expected: its flat results.
        args, kwargs: what it is called with.
        candidates: to hold against it.
        tolerance: largest accepted difference, relative to the largest value of an output.
        rounds: of the race.
    """
    runners: dict[str, nn.Module] = {"original": target}
    found = Compared("original", target, errors={"original": 0.0})
    for label, form, build in candidates:
        try:
            module = build()
            got = candidates.fit(module, args, kwargs)
        except Exception as error:  # whatever a backend can't hold: it is named, and the others go on
            found.refused[label] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            continue
        worst, where = difference(list(expected), got)
        if worst <= tolerance:
            runners[label], found.errors[label] = module, largest_gap(expected, got)
            continue
        found.refused[label] = f"its outputs differ by {worst:.2g} of the largest ({where}); allowed {tolerance:g}"
        if (
            label != AS_GIVEN
            and form not in found.off
            and not _right(candidates, form, expected, args, kwargs, tolerance)
        ):
            found.off.append(form)
    calls = {label: partial(module, *args, **kwargs) for label, module in runners.items()}
    with torch.no_grad():
        found.measured = interleave(calls, rounds=rounds, warmup=2, sample_s=SAMPLE_S, settle_s=settle_s())
    found.then = fastest(found.measured, "original")
    found.module = runners[found.then]
    return found


def culprits(
    whole: Graph, rules: Sequence[Rule], state: Mapping[str, Tensor], inputs: Sequence[Any], tolerance: float
) -> list[str]:
    """Names of the rules that alone make a program compute something else.

    Args:
        whole: the program as it came.
        rules: those that were applied.
        state: its parameters and buffers.
        inputs: flat.
        tolerance: as in `compare`.
    """

    def results(graph: Graph) -> list[Any]:
        return list(to_fx(graph, state)(*inputs))

    def wrong(before: Graph, rule: Rule) -> bool:
        expected = results(before)
        for change in rule.changes(before):
            if not difference(expected, results(before.replace(change.new)))[0] <= tolerance:
                return True
        return False

    named = [rule.name for rule in rules if wrong(whole, rule)]
    for rule in rules if not named else []:
        before, _ = simplify(whole, [other for other in rules if other.always and other is not rule])
        if wrong(before, rule):
            named.append(rule.name)
    return named


def largest_gap(expected: Sequence[Any], got: Sequence[Any]) -> float:
    """Largest absolute difference of any value."""
    gaps = [
        float((one.double() - other.double()).abs().nan_to_num(0.0).max())
        for one, other in zip(expected, got, strict=True)
        if isinstance(one, Tensor) and one.numel()
    ]
    return max(gaps, default=0.0)


def metas_of(values: Sequence[Any]) -> list[Meta | None]:
    """What flat results are; None for what is no tensor."""
    return [Meta.of(value) if isinstance(value, Tensor) else None for value in values]


def _right(
    candidates: Candidates, form: Graph, expected: Sequence[Any], args: Any, kwargs: Any, tolerance: float
) -> bool:
    """Whether a form is right by PyTorch's own kernels, so that what was off is the lowering."""
    got = candidates.fit(candidates.build(form, to_fx, channels_last=False), args, kwargs)
    return difference(list(expected), got)[0] <= tolerance
