"""A model as two flat vectors: the change of its parameters, and the rest that is averaged beside it.

P values of parameters, R values of the rest: buffers (batch norm's statistics), and the optimizer's momentum where that
is averaged. The vectors are float64 where a parameter is, float32 otherwise.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from drivetrain.base.errors import InvalidValue


class Layout:
    """Where every tensor of a model lies in the vectors.

    Args:
        model: the module; its parameters are found in `optimizer`.
        optimizer: the inner optimizer, whose state may hold momentum.
        buffers: whether the model's buffers are part of the rest.
        momentum: whether the optimizer's state is.

    Raises:
        InvalidValue: the optimizer holds a tensor that is not the model's, or the model has nothing to train.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, *, buffers: bool, momentum: bool) -> None:
        named = dict(model.named_parameters())
        self.names, self.params = list(named), list(named.values())
        known = {id(p) for p in self.params}
        strange = sum(id(p) not in known for group in optimizer.param_groups for p in group["params"])
        if strange:
            raise InvalidValue(
                f"comm: the optimizer holds {strange} tensors that are not parameters of the model",
                hint="give LocalUpdate the module whose parameters() the optimizer was made of",
            )
        if not self.params:
            raise InvalidValue("comm: the model has no parameters, there is nothing to average")
        self.optimizer = optimizer
        self.buffers = [b for _, b in model.named_buffers()] if buffers else []
        self.momentum = momentum
        wide = any(p.dtype == torch.float64 for p in self.params)
        self.dtype = torch.float64 if wide else torch.float32
        self.device = self.params[0].device
        self.numel = sum(p.numel() for p in self.params)

    def describe(self, model: nn.Module) -> list[tuple[str, tuple[int, ...], str]]:
        """Name, shape and type of everything, for comparing ranks."""
        everything = [*model.named_parameters(), *model.named_buffers()]
        return [(name, tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in everything]

    def flat(self, tensors: list[Tensor]) -> Tensor:
        """Tensors one after another, in the vectors' type; a copy."""
        if not tensors:
            return torch.empty(0, dtype=self.dtype, device=self.device)
        return torch.cat([t.detach().reshape(-1).to(self.device, self.dtype) for t in tensors])

    def change(self, anchor: list[Tensor]) -> Tensor:
        """x - anchor, (P,)."""
        change_P = self.flat(list(self.params))
        return change_P.sub_(self.flat(anchor))

    def pieces(self, flat: Tensor, like: list[Tensor]) -> list[Tensor]:
        """Views of a flat vector in the shapes of `like`."""
        return [part.view(t.shape) for part, t in zip(flat.split([t.numel() for t in like]), like, strict=True)]

    def rest(self) -> Tensor:
        """Buffers and momentum, (R,)."""
        return self.flat([*self.buffers, *(t for _, t in self._momentum())])

    def set_params(self, values: list[Tensor], moved: Tensor | None = None) -> None:
        """x <- values (+ what the workers moved since, (P,))."""
        later = self.pieces(moved, list(self.params)) if moved is not None else [None] * len(values)
        with torch.no_grad():
            for p, value, more in zip(self.params, values, later, strict=True):
                p.copy_(value if more is None else value.to(more) + more)

    def set_rest(self, rest: Tensor, moved: Tensor | None = None) -> None:
        """Buffers and momentum <- rest (+ what they moved since). Whole numbers take the rounded mean."""
        held = self._momentum()
        value_R = rest if moved is None else rest + moved
        targets = [*self.buffers, *(t for _, t in held)]
        with torch.no_grad():
            for target, value in zip(targets, self.pieces(value_R, targets), strict=True):
                target.copy_(value if target.is_floating_point() else value.round())
        for (state, slot), tensor in held:
            if state is not None:
                state[slot] = tensor

    def reset_momentum(self) -> None:
        """Zero what the optimizer's state holds in its parameters' shapes."""
        for p in self.params:
            for value in self.optimizer.state.get(p, {}).values():
                if isinstance(value, Tensor) and value.shape == p.shape and value.is_floating_point():
                    value.zero_()

    def _momentum(self) -> list[tuple[tuple[dict | None, str], Tensor]]:
        """Every ((state, slot), tensor) of a parameter's shape; zeros stand where a parameter has no state yet."""
        if not self.momentum:
            return []
        state = self.optimizer.state
        shaped = {
            slot
            for p in self.params
            for slot, value in state.get(p, {}).items()
            if isinstance(value, Tensor) and value.shape == p.shape and value.is_floating_point() and value.dim() > 0
        }
        found: list[tuple[tuple[dict | None, str], Tensor]] = []
        for p in self.params:
            own = state.get(p) or None
            for slot in sorted(shaped):
                value = own.get(slot) if own is not None else None
                missing = not isinstance(value, Tensor) or value.shape != p.shape
                found.append(((own, slot), torch.zeros_like(p) if missing else value))  # type: ignore[arg-type]
        return found
