"""The three passes over the weights that a YellowFin step makes, as loops and as multi-tensor operations.

    squares   read g                        ‖g‖² of each tensor
    fold      read g, update m              m = decay m + weight g, and ‖m‖² of each tensor
    move      read g, update v and x        v = mu v + scale g;  x = (1 - shrink) x - rate v

`Loop` is the reference. A scalar argument is a float, or, where the host must not wait for a device, a 0-dim tensor.
All lists hold one plain tensor a parameter; sums come back as float64, one a tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

Scalar = float | Tensor
Tensors = Sequence[Tensor]
HALVES = {torch.float16, torch.bfloat16}


class Passes(Protocol):
    """The passes over the weights; see the module."""

    def squares(self, grads: Tensors) -> Tensor:
        """Squared norm of each tensor, float64 (P,)."""
        ...

    def fold(self, averages: Tensors, grads: Tensors, decay: Scalar, weight: Scalar) -> Tensor:
        """Fold the gradients into their averages, in place; squared norm of each average, float64 (P,)."""
        ...

    def move(
        self,
        params: Tensors,
        buffers: Tensors,
        grads: Tensors,
        *,
        mu: Scalar,
        scale: Scalar,
        rate: Scalar,
        shrink: Scalar,
        nesterov: bool,
    ) -> None:
        """Take the momentum step, in place."""
        ...


class Loop:
    """One tensor after the other, one operation after the other: the reference for the fast versions."""

    def squares(self, grads: Tensors) -> Tensor:
        return torch.stack([_square(grad) for grad in grads])

    def fold(self, averages: Tensors, grads: Tensors, decay: Scalar, weight: Scalar) -> Tensor:
        for average, grad in zip(averages, grads, strict=True):
            average.mul_(decay).add_(grad * weight)
        return self.squares(averages)

    def move(
        self,
        params: Tensors,
        buffers: Tensors,
        grads: Tensors,
        *,
        mu: Scalar,
        scale: Scalar,
        rate: Scalar,
        shrink: Scalar,
        nesterov: bool,
    ) -> None:
        for x, v, g in zip(params, buffers, grads, strict=True):
            v.mul_(mu).add_(g * scale)
            direction = g * scale + v * mu if nesterov else v
            x.mul_(1 - shrink).sub_(direction * rate)


class Foreach:
    """The same passes by torch's multi-tensor operations: a few kernels for all tensors together."""

    def squares(self, grads: Tensors) -> Tensor:
        dtypes = {grad.dtype for grad in grads}
        # a half-precision norm would overflow at 65,504
        wide = torch.float64 if len(dtypes) > 1 else torch.float32 if dtypes <= HALVES else None
        return torch.stack(list(torch._foreach_norm(list(grads), 2, dtype=wide))).double().square()

    def fold(self, averages: Tensors, grads: Tensors, decay: Scalar, weight: Scalar) -> Tensor:
        if isinstance(weight, float) and isinstance(decay, float) and abs(decay + weight - 1) < 1e-15:
            torch._foreach_lerp_(list(averages), list(grads), weight)
        else:
            torch._foreach_mul_(list(averages), decay)
            _add(averages, grads, weight)
        return self.squares(averages)

    def move(
        self,
        params: Tensors,
        buffers: Tensors,
        grads: Tensors,
        *,
        mu: Scalar,
        scale: Scalar,
        rate: Scalar,
        shrink: Scalar,
        nesterov: bool,
    ) -> None:
        torch._foreach_mul_(list(buffers), mu)
        _add(buffers, grads, scale)
        if isinstance(shrink, Tensor) or shrink:
            torch._foreach_mul_(list(params), 1 - shrink)
        if nesterov:
            _add(params, grads, -rate * scale)
            _add(params, buffers, -rate * mu)
        else:
            _add(params, buffers, -rate)


def _add(targets: Tensors, tensors: Tensors, factor: Scalar) -> None:
    """targets += factor * tensors. A tensor factor can't be `alpha`, which the host would have to read."""
    if isinstance(factor, Tensor):
        torch._foreach_add_(list(targets), torch._foreach_mul(list(tensors), factor))
    else:
        torch._foreach_add_(list(targets), list(tensors), alpha=factor)


def _square(tensor: Tensor) -> Tensor:
    wide = tensor.float() if tensor.dtype in HALVES else tensor
    return torch.linalg.vector_norm(wide).double().square()
