"""The condition language: what must hold of a new model before it may replace the old one (§2.2).

    F    := C | C "/\\" F                      also `and`, `&&`, `∧`
    C    := EXP (">" | "<") number "+/-" number      also `±`, `+-`; the second number is the tolerance
    EXP  := TERM { ("+" | "-") TERM }
    TERM := v | number "*" v | v "*" number | number
    v    := "n" | "o" | "d", and "n[slice]" for a named part of the test set

`n` is the accuracy of the new model, `o` of the old one, `d` the share of items on which their predictions differ.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from ..base.errors import InvalidValue

VARIABLES = ("n", "o", "d")
LABELLED = ("n", "o")


class ConditionError(InvalidValue):
    """Text that is no condition; the message points at the column."""


def exact(number: float) -> Fraction:
    """The decimal a person wrote, as a fraction: 0.1 is 1/10, not the nearest binary number."""
    return Fraction(repr(float(number)))


@dataclass(frozen=True)
class Clause:
    """One comparison `EXP op bound ± tol`.

    Attributes:
        coef: coefficient of each variable that occurs ("n", "o", "d"), never zero.
        op: ">" or "<".
        bound: right-hand side, constants of EXP already moved there.
        tol: tolerance, > 0, in the units of EXP.
        slice: name of the part of the test set it speaks about; None for the whole.
    """

    coef: dict[str, float]
    op: str
    bound: float
    tol: float
    slice: str | None = None

    @property
    def labelled(self) -> bool:
        """Whether its value depends on labels (n or o occurs)."""
        return any(name in self.coef for name in LABELLED)

    @property
    def paired(self) -> bool:
        """Whether it is a multiple of n - o, so that items on which the models agree count zero whatever the label."""
        return set(self.coef) == {"n", "o"} and self.coef["n"] == -self.coef["o"]

    def widened(self, tol: float) -> Clause:
        """The same comparison with another tolerance."""
        return Clause(self.coef, self.op, self.bound, tol, self.slice)

    def __str__(self) -> str:
        text = ""
        for name, coef in self.coef.items():
            sign = "-" if coef < 0 else "+"
            size = abs(coef)
            variable = f"{name}[{self.slice}]" if self.slice else name
            term = variable if size == 1 else f"{_number(size)}*{variable}"
            text += f" {sign} {term}" if text else (f"-{term}" if sign == "-" else term)
        return f"{text} {self.op} {_number(self.bound)} +/- {_number(self.tol)}"


@dataclass(frozen=True)
class Condition:
    """A conjunction of clauses; `str()` gives the canonical text, which parses back to the same condition."""

    clauses: tuple[Clause, ...]

    @property
    def variables(self) -> frozenset[str]:
        """The variables that occur anywhere."""
        return frozenset(name for clause in self.clauses for name in clause.coef)

    @property
    def slices(self) -> tuple[str, ...]:
        """The named parts of the test set that occur, in order of appearance."""
        return tuple(dict.fromkeys(clause.slice for clause in self.clauses if clause.slice is not None))

    def __str__(self) -> str:
        return " /\\ ".join(map(str, self.clauses))


def parse_condition(text: str | Condition) -> Condition:
    """Parse the condition language.

    Args:
        text: e.g. `"d < 0.1 +/- 0.01 /\\ n - o > 0.02 +/- 0.01"`; a Condition is returned as it is.

    Raises:
        ConditionError: anything outside the grammar; points at the column.
    """
    if isinstance(text, Condition):
        return text
    if not isinstance(text, str):
        raise ConditionError(
            f"ci: a condition is text, not {type(text).__name__}", hint="for example 'n > 0.9 +/- 0.01'"
        )
    return _Parser(text).parse()


def _number(value: float) -> str:
    """Shortest decimal that reads back as the same number, without a trailing ".0"."""
    text = repr(float(value))
    return text[:-2] if text.endswith(".0") else text


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    column: int  # from 0


_TOKEN = re.compile(
    r"(?P<blank>\s+)"
    r"|(?P<and>/\\|&&|∧|\band\b)"
    r"|(?P<tolerance>\+/-|±|\+-)"
    r"|(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
    r"|(?P<name>[^\W\d]\w*)"
    r"|(?P<slice>\[[^\[\]]*\])"
    r"|(?P<compare>[<>]=?|==?|!=|≤|≥)"
    r"|(?P<symbol>[-+*/^()|%])"
    r"|(?P<stray>.)"
)


def _tokens(text: str) -> Iterator[_Token]:
    for match in _TOKEN.finditer(text):
        if match.lastgroup != "blank":
            yield _Token(str(match.lastgroup), match.group(), match.start())
    yield _Token("end", "the end", len(text))


class _Parser:
    """Recursive descent, one method per rule of the grammar."""

    def __init__(self, text: str) -> None:
        self.text = text = re.sub(r"\s", " ", text)  # one line, so that the pointer stands under its column
        self.tokens = list(_tokens(text))
        self.at = 0

    @property
    def token(self) -> _Token:
        return self.tokens[self.at]

    def take(self) -> _Token:
        token = self.token
        self.at = min(self.at + 1, len(self.tokens) - 1)
        return token

    def error(self, message: str, token: _Token | None = None, hint: str | None = None) -> ConditionError:
        column = (token or self.token).column
        pointer = f"    {self.text}\n    {' ' * column}^"
        return ConditionError(
            f"ci: condition, column {column + 1}: {message}", hint=f"{pointer}\n{hint}" if hint else pointer
        )

    def parse(self) -> Condition:
        clauses = [self.clause()]
        while self.token.kind == "and":
            self.take()
            clauses.append(self.clause())
        if self.token.kind != "end":
            if self.token.text in ("or", "||", "|", "∨", "not"):
                raise self.error(f"{self.token.text!r}: clauses can only be joined by /\\ (and)")
            raise self.error(f"expected /\\ or the end, found {self.token.text!r}")
        return Condition(tuple(clauses))

    def clause(self) -> Clause:
        start = self.token
        coef, constant, part = self.expression()
        compare = self.token
        if compare.kind != "compare":
            raise self.error(f"expected + - > or <, found {compare.text!r}")
        if compare.text not in "<>":
            raise self.error(f"{compare.text!r} is no comparison here, write > or <", hint="equality counts as UNKNOWN")
        self.take()
        bound = self.number("a number", hint="variables stand on the left: write n - o > 0.02 +/- 0.01")
        if self.token.kind != "tolerance":
            raise self.error(
                f"expected the tolerance, +/- number, found {self.token.text!r}",
                hint="for example n > 0.9 +/- 0.01: how far the estimate may be off",
            )
        self.take()
        place = self.token
        tol = self.number("the tolerance")
        if not tol > 0:
            raise self.error(f"the tolerance must be > 0, found {_number(float(tol))}", place)
        kept = {name: float(value) for name, value in coef.items() if value}
        if not kept:
            found = "the variables cancel out" if coef else "no variable (n, o or d)"
            raise self.error(f"{found}: nothing to measure", start)
        return Clause(kept, compare.text, float(bound - constant), float(tol), part)

    def number(self, what: str, hint: str | None = None) -> Fraction:
        sign = 1
        if self.token.text in ("-", "+"):
            sign = -1 if self.take().text == "-" else 1
        if self.token.kind != "number":
            raise self.error(f"expected {what}, found {self.token.text!r}", hint=hint)
        return sign * Fraction(self.take().text)

    def expression(self) -> tuple[dict[str, Fraction], Fraction, str | None]:
        coef: dict[str, Fraction] = {}
        constant, sign, parts = Fraction(0), 1, []
        if self.token.text in ("-", "+"):
            sign = -1 if self.take().text == "-" else 1
        while True:
            place = self.token
            value, name, part = self.term()
            if name is None:
                constant += sign * value
            else:
                coef[name] = coef.get(name, Fraction(0)) + sign * value
                parts.append(part)
                if part != parts[0]:
                    raise self.error("one clause speaks about one slice", place, hint="split it into two clauses")
            if self.token.text not in ("+", "-"):
                return coef, constant, parts[0] if parts else None
            sign = -1 if self.take().text == "-" else 1

    def term(self) -> tuple[Fraction, str | None, str | None]:
        """One term: (value, variable or None, slice or None)."""
        value, name, part = Fraction(1), None, None
        if self.token.kind == "number":
            value = Fraction(self.take().text)
            if self.token.text == "*":
                self.take()
                if self.token.kind == "number":
                    raise self.error("a product of two numbers: write it as one number")
                name, part = self.variable()
        else:
            name, part = self.variable()
            if self.token.text == "*" and self.tokens[self.at + 1].kind == "number":
                self.take()
                value = Fraction(self.take().text)
        if self.token.text in ("*", "/", "^") or self.token.kind in ("name", "number"):
            if self.token.text in ("or", "not"):
                raise self.error(f"{self.token.text!r}: clauses can only be joined by /\\ (and)")
            raise self.error(f"found {self.token.text!r}: a condition must be linear in n, o, d")
        return value, name, part

    def variable(self) -> tuple[str, str | None]:
        token = self.token
        if token.kind != "name":
            raise self.error(f"expected n, o, d or a number, found {token.text!r}")
        if token.text not in VARIABLES:
            raise self.error(f"unknown variable {token.text!r}", hint="allowed: n (new), o (old), d (differ)")
        self.take()
        if self.token.kind != "slice":
            return token.text, None
        place = self.take()
        if not place.text[1:-1].strip():
            raise self.error("an empty slice name", place)
        return token.text, place.text[1:-1].strip()
