"""What `torch.compile(backend="drivetrain")` makes of a captured graph: several forms, of which the fastest is kept."""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from drivetrain.base.timing import Timing

from .flat import Seen, compile_flat
from .race import fastest, race
from .warning import told, warn


@dataclass
class Choice:
    """What became of one graph that Dynamo captured.

    Attributes:
        kind: "inference" or "training".
        then: the form that is kept: "as captured" (compiled without rewriting), "rewritten", "original" (torch's own
            kernels, as the program came), or with freeze a lowering's name or "not frozen".
        measured: all forms in the last, interleaved comparison; empty where there was but one.
        refused: forms that could not be built, and why.
    """

    kind: str
    then: str
    measured: dict[str, Timing] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


_CHOICES: deque[Choice] = deque(maxlen=64)


def choices() -> list[Choice]:
    """What became of the last graphs that came through torch.compile, the newest last."""
    return list(_CHOICES)


def choose(module: fx.GraphModule, example_inputs: Sequence[Any], options: Mapping[str, Any]) -> Callable[..., Any]:
    """The fastest form of a graph.

    Args:
        module: as Dynamo captured it.
        example_inputs: what it is called with now.
        options: as of `backend.drivetrain_backend`, checked.
    """
    options = dict(options)
    freeze = bool(options.pop("freeze", False))
    training = torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in example_inputs)
    if freeze and training:
        warn("weights not frozen: gradients are wanted; call the model under torch.no_grad() to freeze it")
    elif freeze:
        from .rewrite.convert import NotRewritable
        from .rewrite.frozen import freeze as frozen

        plain = {**options, "rewrite": False, "then": "auto"}
        compare = options.get("then", "auto") == "auto"
        try:
            found = frozen(
                module, example_inputs, options,
                functools.partial(compile_flat, module, example_inputs, plain) if compare else None,
            )  # fmt: skip
            _CHOICES.append(Choice("inference", found.then, found.measured, found.refused))
            return found.run
        except NotRewritable as error:
            warn(f"weights not frozen: {told(error)}")
    return _fastest(module, example_inputs, options, training)


def _fastest(
    module: fx.GraphModule, example_inputs: Sequence[Any], options: dict[str, Any], training: bool
) -> Callable[..., Any]:
    """The forms of a graph whose weights stay arguments; the fastest."""
    level = options.pop("rewrite", "auto")
    varies = any(isinstance(n, torch.SymInt) for x in example_inputs for n in (x, *getattr(x, "shape", ())))
    if level == "auto" and (varies or any(isinstance(x, Tensor) and x.device.type != "cpu" for x in example_inputs)):
        level = False  # prices are measured on this machine's processor
    settings = {name: value for name, value in options.items() if name not in ("alpha", "budget", "cost_table")}
    plain = functools.partial(compile_flat, module, example_inputs, {**settings, "rewrite": False})
    forms: dict[str, Callable[..., Any]] = {}
    seen = Seen()
    if level not in (False, "off"):
        if training:
            again = _rewritten_step(module, example_inputs, options, level)
            made = None if again is None else compile_flat(again, example_inputs, {**settings, "rewrite": False})
        else:
            made = compile_flat(module, example_inputs, {**options, "rewrite": level}, seen=seen)
            if not seen.rewritten:
                forms["as captured"], made = made, None
        if made is not None:
            forms["rewritten"] = made
    if "as captured" not in forms and not ("rewritten" in forms and level == "always"):
        forms["as captured"] = plain(seen=seen)
    if options.get("then", "auto") == "auto" and "always" not in (level, options.get("bn")):
        forms["original"] = module.forward
    kind = "training" if training else "inference"
    if len(forms) > 1:
        return _Undecided(dict(reversed(forms.items())), kind, seen)
    (chosen,) = forms
    _CHOICES.append(Choice(kind, chosen))
    return forms[chosen]


class _Undecided:
    """Forms of a graph; with the first call's values it is measured which one shall run.

    Not while Dynamo compiles: a backward graph is compiled when it is first run, and that is a compilation of its own.

    Args:
        forms: name -> form; the first is kept in a tie.
        kind: "inference" or "training".
        seen: what the graph writes to.
    """

    def __init__(self, forms: dict[str, Callable[..., Any]], kind: str, seen: Seen) -> None:
        self.forms, self.kind, self.seen = forms, kind, seen
        self.chosen: Callable[..., Any] | None = None
        self._lock = threading.Lock()

    def __call__(self, *values: Any) -> Any:
        if self.chosen is None:
            with self._lock:
                if self.chosen is None:
                    self.chosen = self._decide(values)
        return self.chosen(*values)

    def _decide(self, values: Sequence[Any]) -> Callable[..., Any]:
        measured: dict[str, Timing] = {}
        first = next(iter(self.forms))
        try:
            measured = race(self.forms, values, written=self.seen.written, backward=self.kind == "training")
            name = fastest(measured, first)
        except Exception as error:  # a form that fails, or a program that can't be run twice: what was given runs
            warn(f"not measured: {told(error)}")
            name = first
        _CHOICES.append(Choice(self.kind, name, measured))
        chosen, self.forms = self.forms[name], {}
        return chosen


def _rewritten_step(
    module: fx.GraphModule, example_inputs: Sequence[Any], options: Mapping[str, Any], level: Any
) -> fx.GraphModule | None:
    """A training graph rewritten before autograd sees it; None where that is not possible or nothing is gained."""
    from ._torch_compat import outside_modes, without_tracing_context
    from .rewrite.compiled import GAIN, limits
    from .rewrite.convert import NotRewritable
    from .rewrite.step import rewritten_step

    settings = {**limits({**options, "rewrite": level}), **({"cost": "launches"} if level == "always" else {})}
    try:
        with outside_modes(), without_tracing_context(), torch.enable_grad():
            return rewritten_step(module, example_inputs, gain=GAIN if level == "auto" else 0.0, **settings)
    except NotRewritable as error:
        if level != "auto":
            warn(f"not rewritten: {told(error)}")
    except Exception as error:  # nobody asked for it in particular: the graph is compiled as it is
        if level != "auto":
            raise
        warn(f"not rewritten: {told(error)}")
    return None
