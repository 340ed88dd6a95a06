"""What one step works on: the parameters that have a gradient, with their state, as flat lists of plain tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from drivetrain.base.errors import InvalidValue

from .options import YellowFinOptions
from .sharding import Reduction, is_distributed, local

if TYPE_CHECKING:
    from .yellowfin import YellowFin


@dataclass(frozen=True)
class Work:
    """Lists over the P parameters with a gradient.

    Attributes:
        originals: the parameters themselves, DTensors as they are.
        params, grads, averages, buffers: local tensors of them, their gradients (decayed, unscaled) and their state.
        groups: (param_group, slice of the lists).
        places: int64 (P,) positions among all parameters; None when all have a gradient.
        reads: whether the host may read values for free, without waiting for a device.
    """

    originals: list[Tensor]
    params: list[Tensor]
    grads: list[Tensor]
    averages: list[Tensor]
    buffers: list[Tensor]
    groups: list[tuple[dict[str, Any], slice]]
    places: Tensor | None
    reads: bool

    def with_grads(self, grads: list[Tensor]) -> Work:
        """The same work on other gradients."""
        return replace(self, grads=grads)

    def density(self, reduction: Reduction, options: YellowFinOptions) -> Tensor | None:
        """Fraction of nonzero gradient entries, float64; None without the sparsity debias."""
        if not options.sparsity_debias:
            return None
        nonzero = torch.stack([torch.count_nonzero(grad) for grad in self.grads]).double()
        sizes = torch.tensor([grad.numel() for grad in self.grads], dtype=torch.float64, device=nonzero.device)
        return reduction.total(nonzero) / reduction.total(sizes)


def check_parameters(group: dict[str, Any]) -> None:
    """Refuse what YellowFin can't tune: complex parameters, a multiplier or decay out of range."""
    for place, param in enumerate(group["params"]):
        if param.is_complex():
            raise InvalidValue(
                f"optim: YellowFin takes real parameters, parameter {place} of the group is {param.dtype}",
                hint="optimise torch.view_as_real(parameter) instead",
            )
    for name in ("lr", "weight_decay"):
        if not isinstance(group[name], Tensor) and not 0 <= group[name] < float("inf"):
            raise InvalidValue(f"optim: YellowFin needs a group's {name} to be >= 0, got {group[name]!r}")


def collect(optimizer: YellowFin) -> Work:
    """Gather parameters, gradients and state for one step; state is made at a parameter's first gradient."""
    options = optimizer.options
    work = Work([], [], [], [], [], [], None, reads_are_free(optimizer.param_groups[0]["params"][0].device))
    places: list[int] = []
    position = 0
    grad_scale = getattr(optimizer, "grad_scale", None)  # torch.amp.GradScaler sets it for the step and deletes it
    for group in optimizer.param_groups:
        start = len(work.params)
        decay = 0.0 if options.decoupled_weight_decay else group["weight_decay"]
        for param in group["params"]:
            if param.grad is not None:
                grad = _gradient(param, position, options, decay, grad_scale)
                _append(work, param, grad, optimizer.state[param])
                places.append(position)
            position += 1
        work.groups.append((group, slice(start, len(work.params))))
    if len(places) == position or not places:
        return work
    return replace(work, places=torch.tensor(places, device=work.params[0].device))


def reads_are_free(device: torch.device) -> bool:
    """Whether the host reads a value from this device without waiting."""
    return device.type == "cpu"


def _append(work: Work, param: Tensor, grad: Tensor, state: dict[str, Tensor]) -> None:
    for name in ("momentum_buffer", "gradient_average"):
        if state.get(name) is None:
            state[name] = torch.zeros_like(param, memory_format=torch.preserve_format)
    work.originals.append(param)
    work.params.append(local(param))
    work.grads.append(grad)
    work.averages.append(local(state["gradient_average"]))
    work.buffers.append(local(state["momentum_buffer"]))


def _gradient(
    param: Tensor, position: int, options: YellowFinOptions, decay: float, grad_scale: Tensor | None
) -> Tensor:
    """The local gradient, dense, unscaled, with coupled weight decay; `.grad` itself where nothing is to be done."""
    grad = param.grad
    assert grad is not None
    if grad.layout != torch.strided and not is_distributed(grad):
        if not options.sparsity_debias:
            raise InvalidValue(
                f"optim: YellowFin got a sparse gradient for parameter {position} (shape {tuple(param.shape)}) and "
                "sparsity_debias=False",
                hint="set sparsity_debias=True, which corrects the statistics for rarely used weights",
            )
        grad = grad.to_dense()
    grad = local(grad)
    if grad_scale is not None:
        grad = grad / grad_scale.to(grad.device)
    if decay:
        grad = grad.add(local(param), alpha=decay)
    return grad


def masked(grads: Sequence[Tensor], keep: Tensor) -> list[Tensor]:
    """Copies of the gradients, zero where `keep` is false, however infinite they were; no host read."""
    products = torch._foreach_mul(list(grads), keep.to(grads[0].dtype))
    for product in products:
        product.nan_to_num_(0.0)  # infinity times zero
    return list(products)
