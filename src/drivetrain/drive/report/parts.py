"""What a stage may put into the report: text, facts, tables, plots. Everything is escaped when it is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Text:
    """A paragraph, or with `level` a heading inside the stage's section."""

    text: str
    level: int = 0


@dataclass(frozen=True)
class Facts:
    """Names and values, set beside each other."""

    facts: dict[str, Any]


@dataclass(frozen=True)
class Table:
    """A table; `wide` ones scroll by themselves on a narrow screen."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    title: str = ""


@dataclass(frozen=True)
class Line:
    """One line of a plot: x and y of equal length; None in y leaves a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]


@dataclass(frozen=True)
class LinePlot:
    """Lines over a shared x axis; `log` draws y by its logarithm."""

    title: str
    lines: Sequence[Line]
    x_label: str
    y_label: str
    log: bool = False


@dataclass(frozen=True)
class Bars:
    """Horizontal bars with labels: shares that are written in per cent, or with `unit` numbers of something."""

    title: str
    labels: Sequence[str]
    values: Sequence[float]
    compare: Sequence[float] | None = None
    legend: tuple[str, str] | None = None
    unit: str = ""


@dataclass(frozen=True)
class Histogram:
    """Buckets (low, high, count) of one or two distributions of the same thing."""

    title: str
    buckets: Sequence[tuple[float, float, float]]
    compare: Sequence[tuple[float, float, float]] = field(default=())
    legend: tuple[str, str] = ("training", "test")


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval against a bound, one row each: (label, low, estimate, high, bound, ">" or "<")."""

    title: str
    rows: Sequence[tuple[str, float, float, float, float, str]]


Part = Text | Facts | Table | LinePlot | Bars | Histogram | Interval
