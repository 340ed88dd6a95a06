"""The second door: `torch.compile(model, backend="drivetrain", options={...})`.

Dynamo captures, aot_autograd splits into inference, or forward and backward graphs, the passes rewrite each, and a
lowering makes it run. Several forms are made where one may be faster than another; the fastest measured is kept:

    capture -> [training rewrite] -> joint passes -> partition -> forward/backward/inference passes -> lowering
            -> [freeze: weights as constants -> oneDNN | onnxruntime | inductor]            -> run in turn -> keep one
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import fx

from drivetrain.base.errors import DrivetrainError, InvalidValue, unknown_name

from .choice import Choice, choices, choose
from .flat import OWN_OPTIONS, compile_flat
from .lowering import find_lowering
from .passes import check_numbers, check_options

__all__ = ["OWN_OPTIONS", "Choice", "check", "choices", "compile_flat", "drivetrain_backend", "register"]

# option -> values that are no numbers or paths; numbers are checked by who reads them
_VALUES: dict[str, tuple[Any, ...]] = {"rewrite": (True, False, "auto", "always", "off"), "freeze": (True, False)}


def drivetrain_backend(
    module: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    options: Mapping[str, Any] | None = None,
    mode: str | None = None,
) -> Callable[..., Any]:
    """The function behind `backend="drivetrain"`.

    With no options the weights stay arguments, so a later change of a weight is seen. The graph is compiled by Inductor
    where a C++ compiler is there, and at the first call measured against torch's own kernels. The faster one runs, so
    it is not slower than what was given; Dynamo's guards, 10 to 20 us a call, are torch.compile's own. A rewriting
    search of 10 s at most runs over inference and training graphs; where it predicts 5 % or more, the rewritten graph
    is compiled too (which doubles compile time) and kept if it is measured faster. Each measurement takes about two
    seconds, or three runs of each form.

    Graphs whose sizes vary are compiled as they are; `torch.compile(..., dynamic=False)` has each size rewritten.

    Args:
        module: what Dynamo captured.
        example_inputs: its flat inputs.
        options:
            then: "auto" (the above), or one lowering, without a comparison with the original: "eager", "inductor",
                "onednn", "onnxruntime" (inference).
            freeze: weights become constants in inference graphs, as with Inductor's freezing: what is compiled does not
                see a later change of a weight. Costs what `drivetrain.graph.optimize` costs, most of it for
                the ONNX export, and two compilations by Inductor: 40 s for a ResNet-50 where Inductor alone takes 13
                (benchmarks/12_compile.py); then="onednn" is the cheapest that gains.
            rewrite: "auto" (the above), True (a search of up to 60 s, a warning where nothing can be rewritten),
                "always" (rules that need no prices, nothing is measured), False.
            alpha, budget, cost_table: of the search.
            bn: "auto" or "always" (whatever it gains): batch norms of training graphs fused.
            normalise: False leaves inference graphs as aot_autograd made them.
        mode: torch.compile's mode; only None and "default" mean something here.

    Raises:
        InvalidValue: an option or a value that nobody knows (names the nearest), a lowering that does not suit.
    """
    try:
        check(options or {}, mode)
        return choose(module, example_inputs, options or {})
    except DrivetrainError as error:
        from ._torch_compat import raise_plainly

        raise_plainly(error)


def check(options: Mapping[str, Any], mode: str | None = None) -> None:
    """Refuse what the backend would refuse of its options; imports and compiles nothing.

    Raises:
        InvalidValue: names the nearest.
    """
    if mode not in (None, "default"):
        raise InvalidValue(
            f"graph: torch.compile mode {mode!r} means nothing to backend='drivetrain'", hint="options={'then': ...}"
        )
    check_options(options, OWN_OPTIONS)
    check_numbers(options)
    for name, allowed in _VALUES.items():
        value = options.get(name, allowed[0])
        if not any(value is one or (isinstance(one, str) and value == one) for one in allowed):
            raise unknown_name(f"graph: option {name}", str(value), [str(one) for one in allowed])
    find_lowering(str(options.get("then", "auto")))


def register() -> None:
    """Make the name "drivetrain" known to torch.compile where the entry point is not installed."""
    from torch._dynamo.backends.registry import list_backends, register_backend

    if "drivetrain" not in list_backends():
        register_backend(compiler_fn=drivetrain_backend, name="drivetrain")
