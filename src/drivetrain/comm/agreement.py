"""Before any gradient travels: do all ranks train one model with one set of options?"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from drivetrain.base.errors import InvalidValue

from .codec import UnsupportedTensor
from .transport import Transport


def check_models(transport: Transport, named: Sequence[tuple[str, Tensor]], options: str) -> None:
    """The same names, shapes, types and options on every rank.

    Raises:
        InvalidValue: names the first rank and the first thing that differ, on all ranks.
    """
    lines = [f"the options {options}", *(f"{name} {tuple(p.shape)} {p.dtype}" for name, p in named)]
    found = transport.same_everywhere("\n".join(lines))
    for rank, other in enumerate(found):
        if other != found[0]:
            raise InvalidValue(_first_difference(rank, found[0], other))


def refuse_sparse(model: nn.Module) -> None:
    """Refuse layers that make sparse gradients.

    Raises:
        UnsupportedTensor: names the parameter.
    """
    for path, module in model.named_modules():
        if getattr(module, "sparse", False) is True and isinstance(getattr(module, "weight", None), nn.Parameter):
            raise sparse_gradient(f"{path}.weight" if path else "weight")


def sparse_gradient(name: str) -> UnsupportedTensor:
    """The error for a parameter with a sparse gradient."""
    return UnsupportedTensor(
        f"comm: parameter {name!r} has a sparse gradient; the exchange cuts dense ones",
        hint="use sparse=False in the embedding",
    )


def _first_difference(rank: int, first: str, other: str) -> str:
    mine, theirs = first.splitlines(), other.splitlines()
    for a, b in zip(mine, theirs, strict=False):
        if a != b:
            return f"comm: the models differ: rank 0 has {a}, rank {rank} has {b}"
    return f"comm: the models differ: rank 0 has {len(mine) - 1} parameters, rank {rank} has {len(theirs) - 1}"
