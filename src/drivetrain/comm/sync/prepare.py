"""The sync slot of an exchange: averaging models every tau steps, with the exchange's codec and aggregation rule."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer

from .. import aggregate as aggregation
from .. import codec as codecs
from .local import LocalUpdate
from .rules import PeriodRule


def prepare_local(
    model: nn.Module,
    optimizer: Optimizer,
    rule: PeriodRule | str = "marginal",
    *,
    codec: str | codecs.Codec | codecs.CodecRules | None = None,
    aggregate: str | aggregation.Rule = "average",
    f: int = 0,
    **options: Any,
) -> tuple[nn.Module, LocalUpdate]:
    """A model and the optimizer that trains it by local updates.

    Args:
        model: a plain module; all ranks begin with rank 0's values.
        optimizer: does the local steps.
        rule: a period rule or its name with options; see `names()`.
        codec: carries the model's change both ways, with error feedback; None or "raw": as it is.
        aggregate: "average" is the mean, others are robust rules for `f` hostile ranks.
        options: of `LocalUpdate`.

    Raises:
        InvalidValue: as `LocalUpdate`.
    """
    rule_of_changes = aggregation.get(aggregate) if isinstance(aggregate, str) else aggregate
    plain = getattr(rule_of_changes, "name", None) == "average"
    local = LocalUpdate(
        optimizer, model, rule, codec=None if codec == "raw" else codec, aggregator=None if plain else rule_of_changes,
        f=f, **options,
    )  # fmt: skip
    return model, local
