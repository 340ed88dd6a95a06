"""Which codec a parameter gets: rules by name, regular expression and size; the first that fits decides."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from drivetrain.base.errors import InvalidValue, nearest

from .errors import CodecError
from .protocol import Codec
from .raw import Raw
from .registry import get


@dataclass(frozen=True)
class Rule:
    """One rule; a parameter must fit all conditions that are set.

    Attributes:
        codec: what the parameter gets, a name or an object.
        match: glob over the parameter's name, e.g. "*.bias".
        regex: regular expression searched for in the name.
        min_numel, max_numel: sizes it is for, both included.
        options: of a codec given by name, e.g. {"s": 1.5}.
    """

    codec: str | Codec
    match: str | None = None
    regex: str | None = None
    min_numel: int = 0
    max_numel: int | None = None
    options: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        get(self.codec, **(self.options or {}))  # refuses what is unknown now, not in the first step
        if self.match is None and self.regex is None and self.min_numel == 0 and self.max_numel is None:
            raise CodecError(
                f"comm: the rule for codec {self._name} has no condition: match, regex, min_numel or max_numel"
            )
        if self.max_numel is not None and self.max_numel < self.min_numel:
            raise CodecError(
                f"comm: a rule from min_numel = {self.min_numel} to max_numel = {self.max_numel} fits nothing"
            )
        try:
            re.compile(self.regex or "")
        except re.error as error:
            raise CodecError(f"comm: regex {self.regex!r} of a rule is not valid: {error}") from None

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Rule:
        """A rule from a TOML table such as {match = "*.bias", codec = "raw"}; further keys are the codec's options."""
        own = {field.name for field in fields(cls)} - {"options"}
        if "codec" not in table:
            close = nearest("codec", table)
            raise CodecError(
                f"comm: the rule {dict(table)} has no codec",
                hint=f"is {close!r} meant to be 'codec'?" if close else None,
            )
        conditions = {key: value for key, value in table.items() if key in own}
        options = {key: value for key, value in table.items() if key not in own}
        return cls(**conditions, options=options or None)

    def fits(self, name: str, numel: int) -> bool:
        """Whether a parameter of this name and size is meant."""
        return (
            (self.match is None or fnmatch.fnmatchcase(name, self.match))
            and (self.regex is None or re.search(self.regex, name) is not None)
            and self.min_numel <= numel
            and (self.max_numel is None or numel <= self.max_numel)
        )

    def build(self) -> Codec:
        """The rule's codec."""
        return get(self.codec, **(self.options or {}))

    @property
    def _name(self) -> str:
        return repr(self.codec if isinstance(self.codec, str) else self.codec.name)


class CodecRules:
    """A codec for every parameter: rules in order, then raw for small ones, then the default.

    Args:
        default: codec of all that no rule names.
        rules: in order; the first that fits decides, also for small parameters.
        min_numel: below this a parameter is sent raw (norm scales and biases are few bytes, and sensitive).
    """

    def __init__(self, default: str | Codec = "3lc", rules: Iterable[Rule] = (), *, min_numel: int = 1024) -> None:
        if min_numel < 0:
            raise CodecError(f"comm: min_numel is {min_numel}, it must be 0 or more")
        self.default = get(default)
        self.rules = tuple(rules)
        self.min_numel = min_numel
        self._codecs = tuple(rule.build() for rule in self.rules)
        self._raw = Raw()

    def __call__(self, name: str, parameter: Tensor | int) -> Codec:
        """The codec of one parameter, given with its name and itself or its number of values."""
        numel = parameter if isinstance(parameter, int) else parameter.numel()
        for rule, codec in zip(self.rules, self._codecs, strict=True):
            if rule.fits(name, numel):
                return codec
        return self._raw if numel < self.min_numel else self.default

    def assign(self, parameters: Iterable[tuple[str, Tensor | int]]) -> dict[str, Codec]:
        """The codec of every parameter of a model (`model.named_parameters()`).

        Raises:
            InvalidValue: a rule with a name that fits no parameter at all, which is most likely misspelt.
        """
        sizes = {name: p if isinstance(p, int) else p.numel() for name, p in parameters}
        for rule in self.rules:
            wanted = rule.match or rule.regex
            if wanted is not None and not any(rule.fits(name, numel) for name, numel in sizes.items()):
                close = nearest(wanted.strip("*^$."), sizes)
                raise InvalidValue(
                    f"comm: the rule {wanted!r} fits none of the {len(sizes)} parameters",
                    hint=f"the nearest name is {close!r}" if close else f"the first is {next(iter(sizes), None)!r}",
                )
        return {name: self(name, numel) for name, numel in sizes.items()}
