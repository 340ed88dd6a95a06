"""Which of several forms of a program is the fastest: they are run in turn, on the values they will be called with.

A form takes flat inputs and returns flat outputs. With `backward` a run is a whole step: outputs, then the gradients
of all that requires one. What a form writes to is copied first; the caller's random numbers and gradients stay as they
are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from drivetrain.base.timing import Timing, interleave

from ._torch_compat import hint_of, is_fake, outside_modes, without_tracing_context

Form = Callable[..., Sequence[Any]]
TIE = 0.98  # a challenger must take at most this share of the time: noise does not decide
LEAST, MOST = 3, 15  # rounds
SAMPLE_S = 2e-3  # what a counted run takes at least; short ones are repeated


def settle_s() -> float:
    """Seconds between two forms: onnxruntime's and OpenMP's threads spin on, and with two that decides races."""
    return 0.025 if torch.get_num_threads() > 1 else 0.0


def race(
    forms: Mapping[str, Form],
    inputs: Sequence[Any],
    *,
    written: Collection[int] | None = None,
    backward: bool = False,
    seconds: float = 2.0,
    rounds: int | None = None,
) -> dict[str, Timing]:
    """Time forms of one program, interleaved.

    Args:
        forms: name -> form; the first is run first.
        inputs: flat; fake tensors are replaced by made-up values, sizes that may vary by what they were.
        written: positions of inputs that running changes; None copies everything but parameters.
        backward: run forward and backward.
        seconds: about how long to measure, after uncounted runs of each; 3 to 15 rounds.
        rounds: exactly so many instead.
    """
    values = [stand_in_for(value) for value in inputs]
    for position, value in enumerate(values):
        copied = not isinstance(inputs[position], torch.nn.Parameter) if written is None else position in written
        if isinstance(value, Tensor):
            # No hook of the caller's tensors runs, and nothing is added to their gradients.
            wanted, value = value.requires_grad and backward, value.detach()
            values[position] = (value.clone() if copied else value).requires_grad_(wanted)
    leaves = [value for value in values if isinstance(value, Tensor) and value.requires_grad]
    devices = {value.device for value in values if isinstance(value, Tensor) and value.is_cuda}

    def caller(run: Form) -> Callable[[], None]:
        def call() -> None:
            outputs = [value for value in run(*values) if isinstance(value, Tensor) and value.requires_grad]
            if backward and outputs:
                torch.autograd.grad(outputs, leaves, [torch.ones_like(y) for y in outputs], allow_unused=True)
            for device in devices:
                torch.cuda.synchronize(device)

        return call

    calls = {name: caller(run) for name, run in forms.items()}
    with (
        outside_modes(), without_tracing_context(), torch.set_grad_enabled(backward),
        torch.random.fork_rng(devices=list(devices)),
    ):  # fmt: skip
        took: dict[str, float] = {}
        for name, call in calls.items():
            call()  # a backward graph is compiled when it is first run
            start = time.perf_counter()
            call()
            took[name] = max(time.perf_counter() - start, SAMPLE_S)
        counted = rounds or min(MOST, max(LEAST, int(seconds / sum(took.values()))))
        return interleave(calls, rounds=counted, sample_s=SAMPLE_S, settle_s=settle_s())


def fastest(measured: Mapping[str, Timing], first: str) -> str:
    """The form that took least by pairs of neighbouring runs; `first` unless it is clearly beaten."""
    ratios = {name: timing.ratio(measured[first]) for name, timing in measured.items()}
    best = min(ratios, key=ratios.__getitem__)
    return best if ratios[best] <= TIE else first


def stand_in_for(value: Any) -> Any:
    """A real value like a fake one, harmless to any operator: positive numbers, indices in range, the size it was."""
    if isinstance(value, torch.SymInt):
        return hint_of(value)
    if not is_fake(value):
        return value
    with outside_modes():
        shape, stride = ([hint_of(n) if isinstance(n, torch.SymInt) else n for n in some] for some in _extent(value))
        made = torch.empty_strided(shape, stride, dtype=value.dtype, device=value.device)
        made = made.uniform_(0.5, 1.5) if value.dtype.is_floating_point else made.zero_()
        return made.requires_grad_(value.requires_grad)


def _extent(value: Tensor) -> tuple[Sequence[Any], Sequence[Any]]:
    return tuple(value.shape), value.stride()
