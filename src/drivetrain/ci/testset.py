"""Test sets: ids, labels that may be missing, and a fingerprint that labels do not change (§4).

CSV, Parquet and NPZ files hold columns `id`, `label` (may be empty, or absent), `group` (optional) and features;
a torch Dataset gives (features, label) items, numbered from 0.
"""

from __future__ import annotations

import csv
import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..base.errors import InvalidValue, MissingFile, unknown_name
from ..base.extras import require

READERS = (".csv", ".parquet", ".npz")


class DuplicateIds(UserWarning):
    """Ids that occur more than once: items that are not independent make every guarantee too strong."""


class TestSet:
    """The items that judge models.

    Args:
        path: a .csv, .parquet or .npz file.
        id: column with the ids; row numbers where the file has none and `id` is None.
        label: column with the integer labels, empty where unknown; None: no item is labelled.
        group: column whose equal values mark rows that are not independent; read if it is there.

    Attributes:
        ids: array [N]. labels: int64 [N], -1 = not labelled. groups: array [N] or None.
        fingerprint: sha256 of everything but the labels. pool_size: N.
        columns: the other columns, for slices.
    """

    __test__ = False

    def __init__(
        self, path: str | Path, id: str | None = "id", label: str | None = "label", group: str = "group"
    ) -> None:
        path = Path(path)
        if not path.is_file():
            raise MissingFile(f"ci: there is no test set {path}")
        if path.suffix not in READERS:
            raise InvalidValue(f"ci: test set {path.name} is no {', '.join(READERS)} file")
        columns = {".csv": _read_csv, ".parquet": _read_parquet, ".npz": _read_npz}[path.suffix](path)
        self._take(columns, path.name, id, label, group)

    @classmethod
    def from_dataset(cls, dataset: Any, *, labelled: bool = True) -> TestSet:
        """A test set from a torch Dataset of (features, label) items, or of features where `labelled` is False."""
        own = cls.__new__(cls)
        digest, labels = hashlib.sha256(), []
        for index in range(len(dataset)):
            item = dataset[index]
            features, label = item if labelled else (item, -1)
            labels.append(-1 if label is None else int(label))
            values = np.asarray(features)
            digest.update(f"{values.dtype.str} {values.shape} ".encode() + np.ascontiguousarray(values).tobytes())
        own.ids, own.groups, own.columns = np.arange(len(labels)), None, {}
        own.labels = _labels(np.array(labels, dtype=np.int64), "dataset")
        own.fingerprint = digest.hexdigest()
        return own

    def _take(self, columns: dict[str, np.ndarray], name: str, id: str | None, label: str | None, group: str) -> None:
        if not columns or not len(next(iter(columns.values()))):
            raise InvalidValue(f"ci: test set {name} has no rows")
        rows = len(next(iter(columns.values())))
        for column, values in columns.items():
            if len(values) != rows:
                raise InvalidValue(
                    f"ci: test set {name}: column {column!r} has {len(values)} rows, the first has {rows}"
                )
        if id is not None and id not in columns:
            raise unknown_name(f"ci: test set {name}: id column", id, columns)
        self.ids = columns[id] if id is not None else np.arange(rows)
        given = columns.pop(label, None) if label is not None else None
        self.labels = np.full(rows, -1, dtype=np.int64) if given is None else _labels(given, name)
        self.groups = columns.get(group)
        self.columns: dict[str, np.ndarray] = columns
        self.fingerprint = _fingerprint(columns)
        doubled = rows - len(np.unique(self.ids))
        if doubled:
            warnings.warn(
                f"ci: test set {name}: {doubled} ids occur more than once; items are assumed independent, "
                f"give related rows one value in a {group!r} column",
                DuplicateIds,
                stacklevel=4,
            )

    @property
    def pool_size(self) -> int:
        return len(self.ids)

    @property
    def rows(self) -> dict[str, int]:
        """Row number of each id, as text."""
        return {str(identifier): row for row, identifier in enumerate(self.ids.tolist())}

    def slice(self, rule: str) -> np.ndarray:
        """Rows where a column has a value, from "column=value": bool [N]."""
        column, _, value = (part.strip() for part in rule.partition("="))
        if column not in self.columns:
            raise unknown_name("ci: slice column", column, self.columns)
        return np.array([str(found) == value for found in self.columns[column].tolist()])

    def with_labels(self, known: Mapping[str, int]) -> np.ndarray:
        """Labels of the file completed from a store of id -> label: int64 [N].

        Raises:
            InvalidValue: an id that is not in the set, or a label that contradicts the file.
        """
        labels, rows = self.labels.copy(), self.rows
        for identifier, label in known.items():
            row = rows.get(identifier)
            if row is None:
                raise InvalidValue(f"ci: a label for id {identifier!r}, which the test set does not have")
            if labels[row] >= 0 and labels[row] != label:
                raise InvalidValue(f"ci: id {identifier!r} is labelled {label}, the test set says {labels[row]}")
            labels[row] = label
        return labels


def _read_csv(path: Path) -> dict[str, np.ndarray]:
    with open(path, newline="", encoding="utf-8") as source:
        reader = csv.reader(source)
        header = next(reader, [])
        rows = []
        for row in reader:
            if len(row) != len(header):
                where = f"{path.name}, line {reader.line_num}"
                raise InvalidValue(f"ci: {len(row)} values where the header has {len(header)}", where=where)
            rows.append(row)
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(header)
    return {name: np.array(values, dtype=object) for name, values in zip(header, columns, strict=True)}


def _read_parquet(path: Path) -> dict[str, np.ndarray]:
    parquet = require("pyarrow.parquet", extra="data")
    try:
        table = parquet.read_table(path)
    except (OSError, ValueError) as error:
        raise InvalidValue(f"ci: test set {path.name}: {str(error).splitlines()[0]}") from None
    columns = {}
    for name in table.column_names:
        column = table.column(name)
        plain = column.null_count == 0 and str(column.type) in _FLAT
        columns[name] = column.to_numpy() if plain else _objects(column.to_pylist())
    return columns


_FLAT = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)} | {"float", "double"}


def _objects(values: list[Any]) -> np.ndarray:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except ValueError as error:
        raise InvalidValue(f"ci: test set {path.name}: {error}") from None


def _labels(values: np.ndarray, name: str) -> np.ndarray:
    if values.dtype.kind in "iu":
        labels = values.astype(np.int64)
    else:
        labels = np.array([_label(value, row, name) for row, value in enumerate(values.tolist())], dtype=np.int64)
    if labels.min(initial=0) < -1:
        row = int(np.flatnonzero(labels < -1)[0])
        raise InvalidValue(f"ci: test set {name}, row {row}: label {labels[row]}", hint="classes are numbered from 0")
    return labels


def _label(value: Any, row: int, name: str) -> int:
    if value is None or value == "" or value != value:  # NaN: an empty cell in a column of floats
        return -1
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = 0.5
    if number != int(number):
        raise InvalidValue(
            f"ci: test set {name}, row {row}: label {value!r} is no integer class", hint="number the classes"
        )
    return int(number)


def _fingerprint(columns: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(columns):
        values = columns[name]
        digest.update(json.dumps([name, values.shape]).encode())
        if values.dtype == object:
            digest.update(json.dumps(values.tolist(), default=str, ensure_ascii=False).encode())
        else:
            digest.update(values.dtype.str.encode() + np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()
