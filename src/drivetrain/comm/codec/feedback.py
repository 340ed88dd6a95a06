"""Error feedback: what a message lost is added to the next one (3LC §3.1).

    S = T + B        send the code of S        B = S - what the receiver will see

Each context (a parameter and a direction) has its own residual B, kept under a name that outlives DDP's rebuilding of
its buckets: the parameter's. Use one `ErrorFeedback` for push and another for pull; their errors must never mix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from drivetrain.base.errors import InvalidValue

from .errors import CodecError, NonFiniteGradient, nonfinite_error
from .protocol import Codec


class ErrorFeedback:
    """Residuals by key.

    Args:
        dtype: of the residuals; float32, or float64 where the sums must be exact to 1e-12.
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        if dtype not in (torch.float32, torch.float64):
            raise CodecError(f"comm: residuals are float32 or float64, not {dtype}")
        self.dtype = dtype
        self.residuals: dict[str, Tensor] = {}

    def encode(self, codec: Codec, key: str, x: Tensor, *, out: Tensor | None = None) -> Tensor:
        """Encode x plus the residual of `key`, and keep what the message lost; in one pass where the codec can.

        Args:
            codec: any codec.
            key: the context, e.g. the parameter's name.
            x: gradient or change, any shape; the shape must stay the same from call to call.
            out: uint8 buffer for the message.

        Returns:
            The message, uint8, 1-D.

        Raises:
            NonFiniteGradient: names the key; the residual is as it was.
        """
        try:
            fused = getattr(codec, "encode_residual", None)
            if fused is not None and self.dtype == torch.float32:
                return fused(x, self._residual(key, x), out=out)
            total = self.compensate(key, x)
            encoded = codec.encode(total.float(), out=out)
        except NonFiniteGradient:
            raise nonfinite_error(self.compensate(key, x), name=key) from None
        self.update(key, total, encoded.value)
        return encoded.data

    def compensate(self, key: str, x: Tensor) -> Tensor:
        """S = x + B: what is to be encoded; a new tensor in x's shape and the residuals' dtype."""
        return x.detach().to(self.dtype) + self._residual(key, x)

    def update(self, key: str, x: Tensor, sent: Tensor) -> None:
        """B = S - sent.

        Args:
            key: the context.
            x: what `compensate` gave.
            sent: what the receiver will see, `Encoded.value`.
        """
        torch.sub(x.detach().to(self.dtype), sent.view(x.shape).to(self.dtype), out=self._residual(key, x))

    def norm(self, key: str | None = None) -> float:
        """The Euclidean norm of one residual (0 for a key that never sent), or of all together."""
        chosen = self.residuals.values() if key is None else [self.residuals[key]] if key in self.residuals else []
        return sum(float(residual.double().square().sum()) for residual in chosen) ** 0.5

    def reset(self, key: str | None = None) -> None:
        """Forget the residual of `key`, or all."""
        if key is None:
            self.residuals.clear()
        else:
            self.residuals.pop(key, None)

    def __len__(self) -> int:
        return len(self.residuals)

    def __iter__(self) -> Iterator[str]:
        return iter(self.residuals)

    def __contains__(self, key: object) -> bool:
        return key in self.residuals

    def state_dict(self) -> dict[str, Tensor]:
        """key -> residual: a plain mapping of tensors, as torch.save and torch.distributed.checkpoint take it."""
        return {key: residual.clone() for key, residual in self.residuals.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace all residuals by those of `state`; they move to the device of their gradients at first use.

        Raises:
            InvalidValue: an entry is not a floating-point tensor, or not finite; nothing is replaced then.
        """
        loaded = {}
        for key, residual in state.items():
            if not isinstance(residual, Tensor) or not residual.is_floating_point():
                what = str(residual.dtype) if isinstance(residual, Tensor) else type(residual).__name__
                raise InvalidValue(f"comm: residual of {key!r} is {what}, it must be a floating-point tensor")
            if not bool(torch.isfinite(residual).all()):
                raise InvalidValue(f"comm: residual of {key!r} holds non-finite values")
            loaded[key] = residual.detach().to(self.dtype, copy=True).contiguous()
        self.residuals = loaded

    def _residual(self, key: str, x: Tensor) -> Tensor:
        residual = self.residuals.get(key)
        if residual is None:
            residual = torch.zeros(x.shape, dtype=self.dtype, device=x.device)
        elif residual.shape != x.shape:
            raise CodecError(
                f"comm: the residual of {key!r} has shape {tuple(residual.shape)}, its gradient {tuple(x.shape)}",
                hint="a residual belongs to one parameter; after the model or the slices changed, reset or re-shard it",
            )
        elif residual.device != x.device:
            residual = residual.to(x.device)
        self.residuals[key] = residual
        return residual
