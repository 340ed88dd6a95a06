"""Why a call is traced again: its key beside the nearest known one, argument by argument."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import torch

from .key import CONTEXT, call_key, is_tensor_leaf
from .spec import describe

if TYPE_CHECKING:
    from .concrete import Concrete
    from .function import Function

_SURROUNDINGS = ("grad mode", "inference mode", "autocast", "default dtype", "deterministic algorithms")


def explain(function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """What a call with these arguments would do, in a few lines; nothing is traced or run."""
    values = function.canonical(args, kwargs)
    key, leaves = call_key(values, lambda: None)
    found = function.find(key, leaves)
    if found is not None:
        lines = [f"{function.name}: runs trace {function.traces.index(found) + 1} of {function.trace_count}: {found!r}"]
        if found.sizes is not None and found.sizes.free:
            free = ", ".join(f"{found.argument_names[leaf]}.shape[{dim}]" for leaf, dim in found.sizes.free)
            lines.append(f"sizes that may vary: {free}")
        return "\n".join(lines + [f"note: {effect}" for effect in found.side_effects])
    if not function.traces:
        return f"{function.name}: not traced yet; this call would be its first trace"
    lines = [f"{function.name}: this call would be trace {function.trace_count + 1} (max_traces {_limit(function)})"]
    nearest = min(function.traces, key=lambda made: len(differences(function, made, values, key)))
    number = function.traces.index(nearest) + 1
    changed = differences(function, nearest, values, key)
    lines += [f"beside trace {number}: {text}" for text in changed]
    return "\n".join(lines)


def _limit(function: Function) -> int:
    return int(function.settings["max_traces"])


def differences(function: Function, made: Concrete, values: tuple[Any, ...], key: tuple[Any, ...]) -> list[str]:
    """What distinguishes a call from a trace, in words."""
    found = [
        f"{name} is {_shown(now)}, the trace has {_shown(then)}"
        for name, now, then in zip(_SURROUNDINGS, key[:CONTEXT], made.key[:CONTEXT], strict=True)
        if now != then
    ]
    now = {name: show(value) for name, value in function.named(values)}
    then = dict(made.shown_arguments)
    for name in now | then:
        if name not in then:
            found.append(f"{name} is new")
        elif name not in now:
            found.append(f"{name} is missing")
        elif now[name] != then[name]:
            found.append(f"{name} is {now[name]}, the trace has {then[name]}")
    if not found and key != made.key:
        found.append("the structure or memory layout of an argument differs (list or tuple, contiguous or not)")
    return found + made.guards.broken()


def _shown(value: Any) -> str:
    return describe(value).removeprefix("torch.")


def show(value: Any) -> str:
    """A leaf as texts have it."""
    if is_tensor_leaf(value):
        return describe(torch.as_tensor(value)) + (" requires_grad" if getattr(value, "requires_grad", False) else "")
    return repr(value)[:80]


def varying(function: Function, values: tuple[Any, ...]) -> str:
    """The argument that made most of the traces, with its values."""
    now = [(name, show(value)) for name, value in function.named(values)]
    seen: dict[str, list[str]] = {}
    for shown in [*(made.shown_arguments for made in function.traces), now]:
        for name, value in shown:
            if value not in seen.setdefault(name, []):
                seen[name].append(value)
    counts = Counter({name: len(found) for name, found in seen.items()})
    if not counts or counts.most_common(1)[0][1] < 2:
        return "what surrounds the calls varies (grad mode, captured tensors, modes of modules)"
    name, count = counts.most_common(1)[0]
    return f"{name} had {count} values: {', '.join(seen[name][-4:])}"
