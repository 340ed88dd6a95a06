"""How results lie in memory, where PyTorch's shape functions for tensors without values say something else.

On the meta device a convolution is contiguous whatever it reads. On a CPU (and in cuDNN) it is channels last as soon
as its image or its weight is, and so is what follows it: a search that believed the shape functions would price
everything after the first convolution in a layout that never occurs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


class RealLayouts(TorchDispatchMode):
    """While it is on, results of operators on the meta device get the strides that they get on a CPU."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        rule = _RULES.get(func)
        return made if rule is None else rule(made, *args)


def _convolution(made: Tensor, x: Tensor, w: Tensor, *_: Any) -> Tensor:
    """Channels last where one of both is; where a tensor lies both ways at once, PyTorch counts it as contiguous."""
    last = _CHANNELS_LAST.get(x.dim(), torch.contiguous_format)
    return _laid_out(made, last if last in (_format(x), _format(w)) else torch.contiguous_format)


def _as_image(made: Tensor, x: Tensor, *_: Any) -> Tensor:
    return _laid_out(made, _format(x))


def _first_as_image(made: tuple[Tensor, ...], x: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return (_as_image(made[0], x), *made[1:])


def _pointwise(made: Tensor, *args: Any) -> Tensor:
    """Contiguous if all operands are, also where one channel makes them channels last at the same time."""
    plain = all(x.shape == made.shape and x.is_contiguous() for x in args if isinstance(x, Tensor))
    return _laid_out(made, torch.contiguous_format) if plain else made


def _two_pointwise(made: Tensor, x: Any, y: Any, *_: Any) -> Tensor:
    return _pointwise(made, x, y) if isinstance(x, Tensor) and isinstance(y, Tensor) else made


def _laid_out(made: Tensor, form: torch.memory_format) -> Tensor:
    return torch.empty(made.shape, dtype=made.dtype, device=made.device, memory_format=form)


def _format(x: Tensor) -> torch.memory_format:
    """The memory format that an operator takes a tensor to have: ATen's `suggest_memory_format`."""
    found: torch.memory_format = torch._prims_common.suggest_memory_format(x)
    return found


_UNARY = ("relu", "silu", "hardswish", "sigmoid", "tanh", "gelu", "hardsigmoid", "clamp", "neg", "exp", "leaky_relu")
_RULES: dict[Any, Callable[..., Any]] = {
    aten.convolution.default: _convolution,
    aten.pixel_shuffle.default: _as_image,
    aten.native_group_norm.default: _first_as_image,
    **{getattr(aten, name).default: _pointwise for name in _UNARY},
    **{getattr(aten, name).Tensor: _two_pointwise for name in ("add", "sub", "mul", "div")},
}
