"""What the items show, as whole numbers: the estimate of a clause is an exact fraction (§2.3, §8)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from ..base.errors import InvalidValue
from .condition import Clause, exact


@dataclass(frozen=True)
class Observed:
    """Per-item observations, all of length N.

    Attributes:
        kind: "class", "right" or "score": what was given.
        new: whether the new model is right (bool), or its score (float64). Where a label is missing nothing is right.
        old: the same of the old model; None where there is none.
        unlabelled: bool, where a label is missing; None where none is, which most often spares every mask.
        differs: bool, where new and old differ; None without an old model.
        groups: int64 index of each item's group; None where every row is an item.
    """

    kind: str
    new: np.ndarray
    old: np.ndarray | None
    unlabelled: np.ndarray | None
    differs: np.ndarray | None
    groups: np.ndarray | None = None

    @property
    def rows(self) -> int:
        return len(self.new)

    def values(self, name: str, rows: np.ndarray | slice) -> np.ndarray:
        """The per-row value that variable `name` averages, on the given rows."""
        if name == "d":
            return self._old("d")[1][rows]
        return (self.new if name == "n" else self._old(name)[0])[rows]

    def _old(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        if self.old is None or self.differs is None:
            raise InvalidValue(
                f"ci: the condition speaks about {name!r}, but there is no old model",
                hint="a first model can only be held against a floor, e.g. n > 0.9 +/- 0.01",
            )
        return self.old, self.differs

    def mean(self, name: str, rows: np.ndarray | slice) -> Fraction:
        """Exact mean of a variable over items (groups where there are groups)."""
        values = self.values(name, rows)
        if self.groups is not None:
            return _mean_of_groups(values, self.groups[rows])
        return total(values) / len(values)

    def estimate(self, clause: Clause, rows: np.ndarray | slice) -> Fraction:
        """Exact value of the clause's left side.

        A row on which the models agree adds the same to n and to o, whatever its label and also without one: a paired
        clause comes out the same from the labels of differing rows alone (§2.6.2).
        """
        return sum((exact(coef) * self.mean(name, rows) for name, coef in clause.coef.items()), Fraction(0))

    def discordant(self, rows: np.ndarray | slice) -> tuple[int, int, int]:
        """(items only the new model has right, items only the old one has right, items)."""
        _, differs = self._old("o")
        apart = differs[rows]
        new_right, old_right = self.values("n", rows), self.values("o", rows)
        return int(np.sum(new_right & apart)), int(np.sum(old_right & apart)), len(apart)

    def items(self, rows: np.ndarray | slice) -> int:
        """Independent items among the rows: groups where there are groups."""
        return len(np.unique(self.groups[rows])) if self.groups is not None else len(self.new[rows])


def total(values: np.ndarray) -> Fraction:
    """Sum of values as a fraction: a count of truths, or a correctly rounded sum of scores."""
    if values.dtype.kind == "b":
        return Fraction(int(np.count_nonzero(values)))
    return Fraction(math.fsum(values.tolist()))


def _mean_of_groups(values: np.ndarray, groups: np.ndarray) -> Fraction:
    """Mean over groups of the mean within each, exact: groups of one size share a denominator."""
    _, index, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if values.dtype.kind == "b":
        sums = np.bincount(index, weights=values).round().astype(np.int64)
        parts = (Fraction(int(sums[sizes == size].sum()), int(size)) for size in np.unique(sizes))
    else:
        sums_f = np.bincount(index, weights=values)
        parts = (total(sums_f[sizes == size]) / int(size) for size in np.unique(sizes))
    return sum(parts, Fraction(0)) / len(sizes)


def observe(
    new: Any, old: Any, labels: Any, *, groups: Any = None, classes: int | None = None,
    score_range: tuple[float, float] | None = None,
) -> Observed:  # fmt: skip
    """Check arrays and bring them to one form; every complaint names the array and the first bad row."""
    scored = score_range is not None
    new_N = _array("new", new, score_range)
    rows = len(new_N)
    if rows == 0:
        raise InvalidValue("ci: the test set has no items")
    old_N = None if old is None else _array("old", old, score_range)
    if old_N is not None:
        _same_length("old", old_N, rows)
        if (old_N.dtype.kind == "b") != (new_N.dtype.kind == "b"):
            raise InvalidValue(
                "ci: new holds classes and old correctness, or the reverse", hint="give both the same way"
            )
    labels_N = None
    if new_N.dtype.kind == "i":
        if labels is None:
            raise InvalidValue("ci: predicted classes need labels", hint="use -1 where an item is not labelled")
        labels_N = _array("labels", labels, None)
        _same_length("labels", labels_N, rows)
    if classes is not None and not scored:
        for name, values in (("new", new_N), ("old", old_N), ("labels", labels_N)):
            if values is not None and values.dtype.kind == "i" and (above := np.flatnonzero(values >= classes)).size:
                raise InvalidValue(
                    f"ci: {name}[{above[0]}] is {values[above[0]]}, there are {classes} classes",
                    hint=f"0..{classes - 1}",
                )
    groups_N = None
    if groups is not None:
        _same_length("groups", np.asarray(groups), rows)
        groups_N = np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.int64)
    if labels_N is None:
        kind = "score" if scored else "right"
        return Observed(kind, new_N, old_N, None, None if old_N is None else new_N != old_N, groups_N)
    return _compare(new_N, old_N, labels_N, groups_N)


_BLOCK = 1 << 14  # rows: a block of three int64 arrays stays in the second-level cache while all is read off it


def _compare(new: np.ndarray, old: np.ndarray | None, labels: np.ndarray, groups: np.ndarray | None) -> Observed:
    """Check the classes and compare them, in one pass over memory."""
    rows = len(new)
    new_right = np.empty(rows, dtype=bool)
    old_right, differs = (None, None) if old is None else (np.empty(rows, dtype=bool), np.empty(rows, dtype=bool))
    missing = False
    for start in range(0, rows, _BLOCK):
        part = slice(start, start + _BLOCK)
        n, label = new[part], labels[part]
        np.equal(n, label, out=new_right[part])
        _least("new", n, 0, start)
        missing |= _least("labels", label, -1, start) < 0
        if old is not None and old_right is not None and differs is not None:
            o = old[part]
            np.equal(o, label, out=old_right[part])
            np.not_equal(n, o, out=differs[part])
            _least("old", o, 0, start)
    return Observed("class", new_right, old_right, labels < 0 if missing else None, differs, groups)


def _least(name: str, values: np.ndarray, lowest: int, start: int) -> int:
    least = int(values.min())
    if least < lowest:
        at = int(np.flatnonzero(values < lowest)[0])
        hint = f"classes are numbered from 0; {lowest} is the least"
        raise InvalidValue(f"ci: {name}[{start + at}] is {values[at]}", hint=hint)
    return least


def _array(name: str, given: Any, score_range: tuple[float, float] | None) -> np.ndarray:
    if hasattr(given, "detach"):  # a torch tensor, on whatever device
        given = given.detach().cpu().numpy()
    values = np.asarray(given)
    if values.ndim != 1:
        raise InvalidValue(
            f"ci: {name} has shape {values.shape}", hint="one value per item; take argmax of class scores"
        )
    if values.dtype.kind not in "biuf":
        raise InvalidValue(f"ci: {name} holds {values.dtype}", hint="int classes, bool correctness, or float scores")
    if values.dtype.kind == "f" and (bad := np.flatnonzero(~np.isfinite(values))).size:
        raise InvalidValue(f"ci: {name}[{bad[0]}] is {values[bad[0]]}")
    if score_range is not None:
        values = values.astype(np.float64)
        outside = np.flatnonzero((values < score_range[0]) | (values > score_range[1]))
        if outside.size:
            at = outside[0]
            raise InvalidValue(f"ci: {name}[{at}] is {values[at]:g}, outside score_range {tuple(score_range)}")
        return values
    if values.dtype.kind == "f":
        if (bad := np.flatnonzero(values != np.floor(values))).size:
            raise InvalidValue(
                f"ci: {name}[{bad[0]}] is {values[bad[0]]:g}, not a class",
                hint="for per-item scores plan with score_range=",
            )
        values = values.astype(np.int64)
    return values if values.dtype.kind == "b" else values.astype(np.int64, copy=False)


def _same_length(name: str, values: np.ndarray, rows: int) -> None:
    if len(values) != rows:
        raise InvalidValue(f"ci: {name} has {len(values):,} rows, the test set has {rows:,}")


def slice_rows(slices: Mapping[str, Any] | None, name: str, rows: int) -> np.ndarray:
    """Row indices of a named slice, from a bool mask of all rows."""
    if not slices or name not in slices:
        from ..base.errors import unknown_name

        if not slices:
            raise InvalidValue(f"ci: the condition speaks about the slice {name!r}, no slices were given")
        raise unknown_name("ci: slice", name, slices)
    mask = np.asarray(slices[name])
    if mask.dtype != bool or mask.shape != (rows,):
        raise InvalidValue(
            f"ci: slice {name!r} is {mask.dtype} of shape {mask.shape}", hint=f"bool, one for {rows:,} rows"
        )
    return np.flatnonzero(mask)
