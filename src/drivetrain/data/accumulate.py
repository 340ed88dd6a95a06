"""From Arrow columns to statistics: one accumulator for a data set, one for each feature (spec 17 §2.2).

An accumulator sees every column once and keeps bounded state. Which statistics a column gets follows its Arrow type:
numbers sort and summarise, strings count, lists and structs count their valency and hand their contents on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from .counts import ValueCounts
from .numeric import NumericStats
from .presence import CommonStats, TensorStats
from .stats import FeatureStats
from .text import BytesStats, StringStats
from .views import as_numpy

Weights = NDArray[np.float64] | None
Label = tuple[bytes, float]


class FeatureAccumulator:
    """Statistics of one feature, built batch by batch.

    Args:
        name: path of the feature.
        top: most frequent values to report.
        buckets: buckets of its histograms.
        categorical: count the values of an int feature as labels too.
        weighted: every batch comes with weights.
    """

    def __init__(self, name: str, *, top: int, buckets: int, categorical: bool = False, weighted: bool = False) -> None:
        self.stats = FeatureStats(name, "null", CommonStats())
        self.children: dict[str, FeatureAccumulator] = {}
        self._top, self._buckets, self._categorical, self._weighted = top, buckets, categorical, weighted
        self._tally = _Tally()

    def add(self, column: pa.Array, weights: Weights = None) -> None:
        """Add one column of a batch, and the weight of each of its examples."""
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        column = _storage(column)
        missing = column.null_count
        if weights is not None:
            self._add_weights(column, weights)
        if _is_list(column.type):
            self._add_list(column, weights)
            return
        self.stats.common.levels[0].add_scalars(len(column) - missing, missing)
        self._add_values(column, weights)

    def note_tensors(self, tensors: TensorStats) -> None:
        """Remember the dtypes and shapes of the tensors a batch was made of."""
        self.stats.tensor = tensors if self.stats.tensor is None else self.stats.tensor.merge(tensors)

    def finish(self) -> dict[str, FeatureStats]:
        """The statistics, with those of the children of a struct behind them."""
        self._flush()
        features = {self.stats.name: self.stats}
        for child in self.children.values():
            features |= child.finish()
        return features

    def _add_weights(self, column: pa.Array, weights: NDArray[np.float64]) -> None:
        present = as_numpy(column.is_valid())
        lengths = np.ones(len(column))
        if _is_list(column.type):
            lengths = as_numpy(pc.fill_null(pc.list_value_length(column), 0)).astype(np.float64)
        there, absent = float(weights[present].sum()), float(weights[~present].sum())
        self.stats.common.add_weights(there, absent, float((weights * lengths)[present].sum()))

    def _add_list(self, column: pa.Array, weights: Weights) -> None:
        depth = 0
        while True:
            lengths = pc.list_value_length(column).drop_null()
            self._add_lengths(depth, as_numpy(lengths), column.null_count)
            if weights is not None:
                weights = weights[as_numpy(pc.list_parent_indices(column))]
            column = _storage(pc.list_flatten(column))
            if not _is_list(column.type):
                break
            depth += 1
        self.stats.common.num_null_values += column.null_count
        self._add_values(column, weights)

    def _add_lengths(self, depth: int, lengths: NDArray[Any], missing: int) -> None:
        common = self.stats.common
        if depth == 0:
            if common.lengths is None:
                common.lengths = common.constant_lengths()
            common.lengths.update(lengths)
        common.level(depth).add_lists(lengths, missing)

    def _add_values(self, column: pa.Array, weights: Weights) -> None:
        """Add leaf values; nulls have been counted by the caller."""
        if column.null_count:
            if weights is not None:
                weights = weights[as_numpy(column.is_valid())]
            if not pa.types.is_struct(column.type):
                column = column.drop_null()
        kind = column.type
        if len(column) == 0 and not pa.types.is_struct(kind):
            self._note_type(kind)
        elif pa.types.is_struct(kind):
            self._add_struct(column, weights)
        elif pa.types.is_dictionary(kind) and _is_text(kind.value_type):
            self._add_text(column, weights)
        elif pa.types.is_dictionary(kind):
            self._add_values(column.dictionary_decode(), weights)
        elif _is_text(kind):
            self._add_text(pc.dictionary_encode(column), weights)
        elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
            self._widen("bytes")
            self.stats.bytes = self.stats.bytes or BytesStats()
            self.stats.bytes.update(column.to_pylist())
        else:
            self._add_numbers(column, weights)

    def _note_type(self, kind: pa.DataType) -> None:
        """A column of nulls still tells its type, where its source knows it."""
        name = arrow_kind(kind)
        if name != "null":
            self._widen(name)
            if name in ("int", "float"):
                self.stats.logical = self.stats.logical or numbers(pa.nulls(0, kind))[1]
                self._numeric()
            elif name == "string":
                self._text()

    def _add_struct(self, column: pa.StructArray, weights: Weights) -> None:
        self._widen("struct")
        present = column.drop_null() if column.null_count else column
        for index, part in enumerate(column.type):
            if part.name not in self.children:
                child = FeatureAccumulator(
                    f"{self.stats.name}.{part.name}", top=self._top, buckets=self._buckets, weighted=self._weighted
                )
                common = self.stats.common
                earlier = common.levels[-1].tot_num_values - common.num_null_values - len(present)
                child.stats.common.levels[0].num_missing += earlier
                self.children[part.name] = child
            self.children[part.name].add(present.field(index), weights)
        for name in self.children.keys() - {part.name for part in column.type}:
            self.children[name].add(pa.nulls(len(present)), weights)

    def _add_text(self, column: pa.DictionaryArray, weights: Weights) -> None:
        self._widen("string")
        if not self._tally.fits(column.dictionary):
            self._flush()
        self._tally.add(column, weights)

    def _flush(self) -> None:
        counts, weighted = self._tally.take()
        if counts:
            self._text().update(counts, weighted)

    def _add_numbers(self, column: pa.Array, weights: Weights) -> None:
        values, logical = numbers(column)
        if self.stats.type == "null" or self.stats.logical is None:
            self.stats.logical = logical
        self._widen("float" if values.dtype.kind == "f" else "int")
        self._numeric().update(values, weights)
        if self._categorical and values.dtype.kind != "f":
            found, places = np.unique(values, return_inverse=True)
            labels = [str(value).encode() for value in found.tolist()]
            times = np.bincount(places, minlength=len(found)).tolist()
            heavy = None if weights is None else dict(zip(labels, np.bincount(places, weights).tolist(), strict=True))
            self._text().update(dict(zip(labels, times, strict=True)), heavy)

    def _widen(self, kind: str) -> None:
        """Join the type of a batch with what was seen before: int < float < string."""
        before = self.stats.type
        if kind == before or ({before, kind} == {"float", "int"} and before == "float"):
            return
        if before != "null" and {before, kind} != {"int", "float"}:
            wide = "struct" if "struct" in (before, kind) else "bytes" if "bytes" in (before, kind) else "string"
            note = f"read as {before} in one part and as {kind} in another"
            if note not in self.stats.notes:
                self.stats.notes.append(note)
            kind = wide
        self.stats.type = kind

    def _numeric(self) -> NumericStats:
        self.stats.numeric = self.stats.numeric or NumericStats(buckets=self._buckets)
        return self.stats.numeric

    def _text(self) -> StringStats:
        weighted = ValueCounts() if self._weighted else None
        self.stats.text = self.stats.text or StringStats(top=self._top, weighted=weighted)
        return self.stats.text


class _Tally:
    """Counts of dictionary codes, turned into labels only when the dictionary changes."""

    def __init__(self) -> None:
        self._dictionary: pa.Array | None = None
        self._counts: NDArray[np.int64] = np.zeros(0, np.int64)
        self._weights: NDArray[np.float64] | None = None

    def fits(self, dictionary: pa.Array) -> bool:
        return self._dictionary is None or self._dictionary.equals(dictionary)

    def add(self, column: pa.DictionaryArray, weights: Weights) -> None:
        if self._dictionary is None:
            self._dictionary = column.dictionary
            self._counts = np.zeros(len(column.dictionary), np.int64)
            self._weights = None if weights is None else np.zeros(len(column.dictionary))
        codes = as_numpy(column.indices)
        self._counts += np.bincount(codes, minlength=len(self._counts))
        if weights is not None and self._weights is not None:
            self._weights += np.bincount(codes, weights, minlength=len(self._counts))

    def take(self) -> tuple[dict[bytes, float], dict[bytes, float] | None]:
        """The counts of all labels that occurred, and their weights; then start anew."""
        if self._dictionary is None:
            return {}, None
        binary = pa.large_binary() if pa.types.is_large_string(self._dictionary.type) else pa.binary()
        used = np.flatnonzero(self._counts)
        codes = pa.Array.from_buffers(pa.int64(), len(used), [None, pa.py_buffer(used)])
        labels = self._dictionary.take(codes).cast(binary).to_pylist()
        counts = _joined(labels, self._counts[used].tolist())
        weighted = None if self._weights is None else _joined(labels, self._weights[used].tolist())
        self._dictionary = None
        return counts, weighted


class Accumulator:
    """Statistics of all features of one data set or slice."""

    def __init__(self, make: Callable[[str], FeatureAccumulator]) -> None:
        self.num_examples = 0
        self.weight = 0.0
        self.features: dict[str, FeatureAccumulator] = {}
        self._make = make

    def add(self, columns: Mapping[str, pa.Array], rows: int, weights: Weights, pool: Executor | None = None) -> None:
        """Add a batch: its columns, number of rows and weights; columns are shared out among the threads of `pool`."""
        for name in columns:
            self.feature(name)
        work = [(self.features[name], column) for name, column in columns.items()]
        if pool is None:
            for accumulator, column in work:
                accumulator.add(column, weights)
        else:
            list(pool.map(lambda item: item[0].add(item[1], weights), work))
        for name in self.features.keys() - columns.keys():
            self.features[name].add(pa.nulls(rows), weights)
        self.num_examples += rows
        self.weight += 0.0 if weights is None else float(weights.sum())

    def feature(self, name: str) -> FeatureAccumulator:
        """The accumulator of a feature; a new one has missed all examples so far."""
        if name not in self.features:
            made = self._make(name)
            made.stats.common.levels[0].num_missing = self.num_examples
            if self.weight:
                made.stats.common.add_weights(0.0, self.weight, 0.0)
            self.features[name] = made
        return self.features[name]

    def restart(self, name: str) -> None:
        """Forget a feature: all its examples are about to come again, read as another type."""
        if name in self.features:
            self.features[name] = self._make(name)

    def finish(self) -> dict[str, FeatureStats]:
        """Statistics by feature."""
        features: dict[str, FeatureStats] = {}
        for accumulator in self.features.values():
            features |= accumulator.finish()
        return features


def numbers(column: pa.Array) -> tuple[NDArray[Any], str | None]:
    """Values of a column without nulls as a numpy array, and the type they had before they counted as int or float."""
    kind = column.type
    if pa.types.is_boolean(kind):
        return as_numpy(column.cast(pa.uint8())), "bool"
    if pa.types.is_decimal(kind):
        return as_numpy(column.cast(pa.float64())), str(kind)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return as_numpy(column), None
    if pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        width = pa.int32() if kind.bit_width == 32 else pa.int64()
        return as_numpy(column.view(width)), str(kind)
    return np.zeros(0, np.int64), str(kind)


def arrow_kind(kind: pa.DataType) -> str:
    """The feature type of an Arrow type."""
    if _is_list(kind) or pa.types.is_dictionary(kind):
        return arrow_kind(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return arrow_kind(kind.storage_type)
    if pa.types.is_null(kind):
        return "null"
    if pa.types.is_struct(kind):
        return "struct"
    if _is_text(kind):
        return "string"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return "bytes"
    return "float" if pa.types.is_floating(kind) or pa.types.is_decimal(kind) else "int"


def _is_list(kind: pa.DataType) -> bool:
    return (
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
        or pa.types.is_map(kind)
    )


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _storage(column: pa.Array) -> pa.Array:
    """The plain array behind an extension type, a view type or a map."""
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    if pa.types.is_map(column.type):
        return column.cast(pa.list_(pa.struct([column.type.key_field, column.type.item_field])))
    if pa.types.is_string_view(column.type):
        return column.cast(pa.string())
    return column


def _joined(labels: list[bytes], counts: list[float]) -> dict[bytes, float]:
    joined = dict(zip(labels, counts, strict=True))
    if len(joined) < len(labels):  # a dictionary may hold a label twice
        joined = dict.fromkeys(labels, 0)
        for label, count in zip(labels, counts, strict=True):
            joined[label] += count
    return joined
