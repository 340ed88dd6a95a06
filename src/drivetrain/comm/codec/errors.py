"""What a codec refuses, each with the values found and the values wanted."""

from __future__ import annotations

import torch
from torch import Tensor

from drivetrain.base.errors import DrivetrainError, InvalidValue


class CodecError(InvalidValue):
    """An option, a tensor or a buffer that a codec can't work with."""


class WireError(InvalidValue):
    """A message that was cut, altered, or written by another version; names the field."""


class UnsupportedTensor(DrivetrainError, TypeError):
    """A tensor of a kind that codecs don't take: integers, complex numbers, sparse layouts."""


class NonFiniteGradient(DrivetrainError, FloatingPointError):
    """A tensor holds an infinity or NaN; no residual was changed."""


def nonfinite_error(
    x: Tensor, *, name: str | None = None, rank: int | None = None, step: int | None = None
) -> NonFiniteGradient:
    """The error for a tensor with non-finite values; whoever knows the parameter, rank and step adds them."""
    bad = ~torch.isfinite(x.detach().flatten())
    subject = f"parameter {name!r}" if name is not None else "the tensor"
    place = f" on rank {rank}" if rank is not None else ""
    when = f" (step {step})" if step is not None else ""
    count = int(bad.sum())
    first = f", the first at {int(bad.int().argmax())} of {bad.numel()}" if count else ""
    plural = "value" if count == 1 else "values"
    return NonFiniteGradient(
        f"comm: {subject} has {count} non-finite {plural}{place}{when}{first}",
        hint='is the loss finite? the exchange can skip such a step on all ranks: on_nonfinite="skip"',
    )


def check_finite(x: Tensor) -> None:
    """Raise `NonFiniteGradient` when `x` holds an infinity or NaN; one pass, no copy."""
    if x.numel() == 0:
        return
    low, high = torch.aminmax(x.detach())
    if not (torch.isfinite(low) and torch.isfinite(high)):
        raise nonfinite_error(x)


def as_float32(x: Tensor) -> Tensor:
    """`x` detached, flat and contiguous, in float32; the same memory where it is so already.

    Raises:
        UnsupportedTensor: not a dense tensor of real floating-point values.
        CodecError: more values than a message's header can count.
    """
    if x.layout != torch.strided:
        raise UnsupportedTensor(
            f"comm: codecs take dense tensors, this one is {str(x.layout).removeprefix('torch.')}",
            hint="use sparse=False in the embedding, or a rule that leaves this parameter out of the exchange",
        )
    if not x.is_floating_point():
        raise UnsupportedTensor(
            f"comm: codecs take float32, float16 or bfloat16, this tensor is {str(x.dtype).removeprefix('torch.')}"
        )
    if x.numel() >= 2**32:
        raise CodecError(
            f"comm: a message holds fewer than 2^32 values, this tensor has {x.numel()}; cut it into slices"
        )
    return x.detach().reshape(-1).to(torch.float32).contiguous()
