"""Rules by name."""

from __future__ import annotations

import inspect
from typing import Any

from drivetrain.base.errors import InvalidValue, check_options, unknown_name

from .bulyan import Bulyan
from .compose import ARC, NNM, Bucketing, Chain, Clip, PreAggregator
from .coordinate import Average, AverageNan, MeaMed, Median, Phocas, TrimmedMean
from .errors import RobustnessError
from .geometric import CGE, CenteredClipping, GeometricMedian
from .krum import Krum, MultiKrum
from .mda import MDA
from .rule import Rule

_RULES: dict[str, type[Rule]] = {
    kind.name: kind
    for kind in (
        *(Average, AverageNan, Median, TrimmedMean, MeaMed, Phocas),
        *(Krum, MultiKrum, Bulyan, MDA),
        *(CGE, GeometricMedian, CenteredClipping),
    )
}
_BEFORE: dict[str, type[PreAggregator]] = {kind.name: kind for kind in (NNM, Bucketing, Clip, ARC)}
_OTHER_NAMES = {"mean": "average", "averaged-median": "meamed", "brute": "mda", "trmean": "trimmed-mean"}


def names() -> tuple[str, ...]:
    """Every rule that `get` knows, sorted."""
    return tuple(sorted(_RULES))


def pre_names() -> tuple[str, ...]:
    """Every pre-aggregator that may stand before a rule, sorted."""
    return tuple(sorted(_BEFORE))


def get(name: str | Rule, **options: Any) -> Rule:
    """A rule by name.

    Args:
        name: one of `names()`, in any case, "_" or "-"; pre-aggregators may stand before it: "nnm+multi-krum". A rule
            object is given back as it is.
        options: the rule's own, e.g. m of "multi-krum"; pre-aggregators with options are written as a `Chain`.

    Raises:
        InvalidValue: an unknown name or option (the nearest is suggested), or a value out of range.
    """
    if not isinstance(name, str):
        if options or not isinstance(name, Rule):
            what = f"options {', '.join(sorted(options))} beside a rule object" if options else f"{name!r} as a rule"
            raise RobustnessError(f"comm: {what}: give a name with options, or an object that is ready")
        return name
    *before, last = (part.strip().casefold().replace("_", "-") for part in name.split("+"))
    last = _OTHER_NAMES.get(last, last)
    if last not in _RULES:
        if last in _BEFORE:
            raise RobustnessError(f"comm: {last} is a step before a rule", hint=f'write "{last}+median"')
        raise unknown_name("comm: rule", last, names())
    rule = _build(last, _RULES[last], options)
    if not before:
        return rule
    for part in before:
        if part not in _BEFORE:
            raise unknown_name("comm: pre-aggregator", part, pre_names())
        if part == "clip":
            raise RobustnessError(
                "comm: clip needs a radius", hint=f'write Chain(Clip(radius), get("{last}")), or "arc+{last}"'
            )
    return Chain(*(_BEFORE[part]() for part in before), rule)


def _build(name: str, kind: type[Rule], options: dict[str, Any]) -> Rule:
    allowed = [] if kind.__init__ is object.__init__ else list(inspect.signature(kind).parameters)
    check_options(f"comm: rule {name!r}", options, allowed, RobustnessError)
    try:
        return kind(**options)
    except InvalidValue:
        raise
    except TypeError as error:
        raise RobustnessError(f"comm: rule {name!r} can't be built with {options}: {error}") from None
