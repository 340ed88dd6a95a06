"""What stands in for values that were lost (AggregaThor §2.3; spec 06 §2.5).

    mask     nothing: the rule is told where values are missing, and each coordinate uses those that came
    stale    the value that the same rank sent last in this place; masked where it never sent one
    zero     0
    drop     a vector with any loss counts as wholly missing
    random   normal noise as large as what came of this vector: one more hostile vector, for a rule that can bear it

A rank of which nothing came is missing under every policy. Shapes: n ranks, w values of a vector.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from drivetrain.base.errors import unknown_name
from drivetrain.base.seeds import torch_generator

LossPolicy = Literal["mask", "stale", "zero", "drop", "random"]


class Fill:
    """One policy over the steps of a channel.

    Args:
        policy: see above.
        seed: of the noise.

    Raises:
        InvalidValue: an unknown policy.
    """

    def __init__(self, policy: LossPolicy, seed: int = 0) -> None:
        if policy not in get_args(LossPolicy):
            raise unknown_name("comm: udp: loss", str(policy), get_args(LossPolicy))
        self.policy = policy
        self._noise = torch_generator(seed, "udp loss")
        self._last: Tensor | None = None
        self._seen: Tensor | None = None

    def __call__(self, values_nw: Tensor, mask_nw: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Fill what is missing.

        Args:
            values_nw: float32, anything where the mask is False; changed in place.
            mask_nw: bool, True where a value came; None when all did.

        Returns:
            The values and the mask that the rule is to see, None when nothing is missing any more.
        """
        if self.policy == "stale":
            return self._stale(values_nw, mask_nw)
        if mask_nw is None:
            return values_nw, None
        here = mask_nw.any(1, keepdim=True)
        if self.policy == "mask":
            filled = mask_nw
        elif self.policy == "drop":
            filled = mask_nw.all(1, keepdim=True).expand_as(mask_nw).contiguous()
        else:
            stand_in = torch.zeros(()) if self.policy == "zero" else self._random(values_nw, mask_nw)
            values_nw = torch.where(mask_nw, values_nw, stand_in)
            filled = here.expand_as(mask_nw).contiguous()
        values_nw = torch.where(filled, values_nw, 0.0)
        return values_nw, None if bool(filled.all()) else filled

    def _random(self, values: Tensor, mask: Tensor) -> Tensor:
        square = torch.where(mask, values, 0.0).square().sum(1, keepdim=True)
        scale = (square / mask.sum(1, keepdim=True).clamp(min=1)).sqrt()
        return torch.randn(values.shape, generator=self._noise) * torch.nan_to_num(scale, posinf=1.0)

    def _stale(self, values: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if self._last is None or self._seen is None:
            self._last, self._seen = torch.zeros_like(values), torch.zeros(values.shape, dtype=torch.bool)
        came = torch.ones_like(self._seen) if mask is None else mask
        filled = came | (self._seen & came.any(1, keepdim=True))
        values = torch.where(came, values, self._last)
        self._last, self._seen = torch.where(came, values, self._last), self._seen | came
        values = torch.where(filled, values, 0.0)
        return values, None if bool(filled.all()) else filled
