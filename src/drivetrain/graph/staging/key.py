"""The key of a call: what must be equal for two calls to run the same graph (spec §2.2, TF's cache key).

Leaf rules: a tensor counts by dtype, shape, layout, device and requires_grad; a bool, int, float, str, None, enum or
dtype by its value; a numpy array becomes a tensor; another object by its own equality if it defines one, else by
identity. Containers count by their structure. Around them: grad mode, inference mode, autocast, default dtype,
determinism.

The common case, tensors and plain values as positional arguments, is the loop at the top of `call_key`; nothing else
may slow it down.
"""

from __future__ import annotations

import enum
import math
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _pytree as pytree

_PLAIN = frozenset({bool, int, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format, bytes})
_Tensor, _Parameter = Tensor, nn.Parameter
_grad, _inference = torch.is_grad_enabled, torch.is_inference_mode_enabled
_autocast, _default_dtype = torch._C._is_any_autocast_enabled, torch.get_default_dtype
_deterministic = torch._C._get_deterministic_algorithms
CONTEXT = 5  # entries of the key that describe the surroundings


class Identity:
    """A key entry for an object that counts by identity; holds it weakly, so that a cache keeps nothing alive."""

    __slots__ = ("__weakref__", "hash", "ref", "state")

    def __init__(self, value: Any, gone: Callable[[], None]) -> None:
        self.hash = id(value)
        self.state = _modes(value)
        try:
            self.ref: Callable[[], Any] = weakref.ref(value, lambda _: gone())
        except TypeError:
            self.ref = lambda: value

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Identity):
            return NotImplemented
        mine = self.ref()
        return mine is not None and mine is other.ref() and self.state == other.state

    def __repr__(self) -> str:
        value = self.ref()
        return "(gone)" if value is None else f"{type(value).__name__} at {self.hash:#x}"


def _modes(value: Any) -> tuple[bool, ...]:
    return tuple(module.training for module in value.modules()) if isinstance(value, nn.Module) else ()


def call_key(args: tuple[Any, ...], gone: Callable[[], None]) -> tuple[tuple[Any, ...], list[Tensor]]:
    """Key and tensor leaves of canonical arguments.

    Args:
        args: all arguments in the order of the signature.
        gone: called when an object that the key holds by identity dies.
    """
    leaves: list[Tensor] = []
    parts: list[Any] = [_grad(), _inference(), _autocast() and _autocast_state(), _default_dtype(), _deterministic()]
    for value in args:
        kind = type(value)
        if kind is _Tensor or kind is _Parameter:
            leaves.append(value)
            parts += (value.dtype, value.shape, value.requires_grad, value.device, layout(value))
        elif kind in _PLAIN:
            parts += (kind, value)
        else:
            _slow(value, parts, leaves, gone)
    return tuple(parts), leaves


def layout(value: Tensor) -> Any:
    """True for contiguous, the name of another dense format, else the strides."""
    try:
        if value.is_contiguous():
            return True
        if value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last):
            return "channels_last"
        return value.stride()
    except RuntimeError:
        return str(value.layout)


def _autocast_state() -> tuple[Any, ...]:
    return tuple(
        (device, torch.get_autocast_dtype(device)) for device in ("cpu", "cuda") if torch.is_autocast_enabled(device)
    )


def _slow(value: Any, parts: list[Any], leaves: list[Tensor], gone: Callable[[], None]) -> None:
    kind = type(value)
    if kind is float:
        # 0.0 == -0.0 and nan != nan, but a graph that holds one is no graph for the other.
        plain = value != 0 and not math.isnan(value)
        parts += (kind, value if plain else repr(value))
    elif kind is list or kind is tuple:
        parts += (kind, len(value))
        for item in value:
            _any(item, parts, leaves, gone)
    elif kind is dict:
        parts += (kind, tuple(value))
        for item in value.values():
            _any(item, parts, leaves, gone)
    elif isinstance(value, FakeTensor):  # of a trace around this call: it stands for a plain one
        leaves.append(value)
        parts += (value.dtype, value.shape, value.requires_grad, value.device, layout(value))
    elif isinstance(value, Tensor):
        leaves.append(value)
        parts += (kind, value.dtype, value.shape, value.requires_grad, value.device, layout(value))
    elif kind.__module__ == "numpy" and kind.__name__ == "ndarray":
        made = torch.as_tensor(value)
        leaves.append(made)
        parts += ("ndarray", made.dtype, made.shape, False, made.device, layout(made))
    elif kind in pytree.SUPPORTED_NODES:
        items, context = pytree.SUPPORTED_NODES[kind].flatten_fn(value)
        parts += (kind, str(context), len(items))
        for item in items:
            _any(item, parts, leaves, gone)
    elif isinstance(value, enum.Enum) or _equal_by_value(kind, value):
        parts += (kind, value)
    else:
        parts += (kind, Identity(value, gone))


def _any(value: Any, parts: list[Any], leaves: list[Tensor], gone: Callable[[], None]) -> None:
    kind = type(value)
    if kind is _Tensor or kind is _Parameter:
        leaves.append(value)
        parts += (value.dtype, value.shape, value.requires_grad, value.device, layout(value))
    elif kind in _PLAIN:
        parts += (kind, value)
    else:
        _slow(value, parts, leaves, gone)


def _equal_by_value(kind: type, value: Any) -> bool:
    if kind.__hash__ is object.__hash__ or kind.__hash__ is None or isinstance(value, nn.Module):
        return False
    try:
        hash(value)
    except TypeError:
        return False
    return True


def general(key: tuple[Any, ...]) -> tuple[Any, ...]:
    """The key with every shape replaced by its rank: equal for calls that differ in sizes only."""
    return tuple(_Rank(len(part)) if type(part) is torch.Size else part for part in key)


class _Rank(int):
    """A number of dimensions, never equal to a plain int of a key."""

    def __eq__(self, other: object) -> bool:
        return type(other) is _Rank and int(self) == int(other)

    def __hash__(self) -> int:
        return hash(("rank", int(self)))


def flatten(args: Any, name: str = "") -> list[tuple[str, Any]]:
    """Leaves of canonical arguments with their paths, "batch['image'][0]", in the order of `call_key`."""
    found: list[tuple[str, Any]] = []
    kind = type(args)
    if kind is list or kind is tuple:
        for index, item in enumerate(args):
            found += flatten(item, f"{name}[{index}]")
    elif kind is dict:
        for key, item in args.items():
            found += flatten(item, f"{name}[{key!r}]")
    elif kind in pytree.SUPPORTED_NODES:
        items, _ = pytree.SUPPORTED_NODES[kind].flatten_fn(args)
        for index, item in enumerate(items):
            found += flatten(item, f"{name}.{getattr(kind, '_fields', range(len(items)))[index]}")
    else:
        found.append((name, args))
    return found


def rebuild(args: Any, leaf: Callable[[Any], Any]) -> Any:
    """The same containers with every tensor (or array) leaf replaced, in the order of `call_key`."""
    kind = type(args)
    if kind is list or kind is tuple:
        return kind(rebuild(item, leaf) for item in args)
    if kind is dict:
        return {key: rebuild(item, leaf) for key, item in args.items()}
    if kind in pytree.SUPPORTED_NODES:
        items, context = pytree.SUPPORTED_NODES[kind].flatten_fn(args)
        return pytree.SUPPORTED_NODES[kind].unflatten_fn([rebuild(item, leaf) for item in items], context)
    return leaf(args) if is_tensor_leaf(args) else args


def is_tensor_leaf(value: Any) -> bool:
    """Whether a leaf is dynamic: a tensor, or an array that becomes one."""
    return isinstance(value, Tensor) or (type(value).__module__ == "numpy" and type(value).__name__ == "ndarray")
