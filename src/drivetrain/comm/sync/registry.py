"""Period rules by name."""

from __future__ import annotations

import inspect
from typing import Any

from drivetrain.base.errors import InvalidValue, check_options, unknown_name

from .marginal import Marginal
from .plateau import AdaCommPlateau
from .rules import QSR, AdaComm, Fixed, Paddle, PeriodRule, PostLocal

_RULES: dict[str, Any] = {
    kind.name: kind for kind in (Fixed, PostLocal, AdaComm, AdaCommPlateau, Marginal, QSR, Paddle)
}


def names() -> tuple[str, ...]:
    """Every rule that `get` knows, sorted."""
    return tuple(sorted(_RULES))


def get(rule: str | PeriodRule, **options: Any) -> PeriodRule:
    """A period rule by name.

    Args:
        rule: one of `names()` in any case, "_" or "-". Options may follow a colon: "adacomm:tau0=20,gamma=1"; a value
            without a name is the rule's first option, "fixed:20". A rule object is given back as it is.
        options: the rule's own.

    Raises:
        InvalidValue: an unknown name or option (the nearest is suggested), or a value out of range.
    """
    if not isinstance(rule, str):
        if options or not isinstance(rule, PeriodRule):
            what = f"options {', '.join(sorted(options))} beside a rule object" if options else f"{rule!r} as a rule"
            raise InvalidValue(f"comm: {what}: give a name with options, or an object with tau0, interval_s and next")
        return rule
    name, _, text = rule.partition(":")
    name = name.strip().casefold().replace("_", "-")
    if name not in _RULES:
        raise unknown_name("comm: period rule", name, names())
    kind = _RULES[name]
    allowed = list(inspect.signature(kind).parameters)
    given = {**_parse(name, text, allowed), **options}
    check_options(f"comm: rule {name!r}", given, allowed)
    try:
        return kind(**given)
    except InvalidValue:
        raise
    except TypeError as error:
        raise InvalidValue(
            f"comm: rule {name!r} can't be built with {given or 'no options'}: {error}",
            hint=f'write for example "{name}:{allowed[0]}=..."',
        ) from None


def _parse(name: str, text: str, allowed: list[str]) -> dict[str, Any]:
    """The options after the colon."""
    found: dict[str, Any] = {}
    for place, part in enumerate(filter(None, (part.strip() for part in text.split(",")))):
        option, equals, value = part.partition("=")
        if not equals:
            option, value = allowed[min(place, len(allowed) - 1)], part
        found[option.strip()] = _value(value.strip())
    return found


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None if text.casefold() == "none" else text
