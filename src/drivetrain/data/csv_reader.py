"""CSV in one pass, parsed by Arrow, with types that widen as the data demands (spec 17 §5).

A column starts as what its first values say and widens int -> float -> string when a block can't be read otherwise.
Every block is parsed by itself, so that a widening costs that block only; a column that turns to text after it went out
as numbers is given again by `earlier()`, which reads that one column of the blocks before once more.
Dates stay text. An empty cell is missing; in a column of numbers so are NA, N/A, null, NULL and None.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from ..base.errors import InvalidValue, unknown_name
from .batch import Batch
from .csv_blocks import Block, keep_standard_input, open_text, read_blocks, read_header
from .dialect import Csv
from .stats import Rejected, RejectedRow

GUESS_ROWS = 500
NO_NUMBER = ["", "NA", "N/A", "null", "NULL", "None"]
TEXT = pa.dictionary(pa.int32(), pa.string())
ARROW = {"int": pa.int64(), "float": pa.float64(), "string": TEXT, "null": TEXT}
FAULT = re.compile(r"In CSV column #(\d+): (?:Row #(\d+): )?CSV conversion error to [^:]+: invalid value '(.*)'", re.S)


class CsvReader:
    """Batches of one or more CSV files of like columns.

    Args:
        files: the files with their dialects.
        columns: which columns to read; None for all.
        types: types known beforehand ("int", "float", "string"), by column; they may still widen.
        batch_rows: most rows of a batch.
        threads: blocks parsed at a time.
    """

    def __init__(
        self,
        files: list[Csv],
        *,
        columns: list[str] | None = None,
        types: dict[str, str] | None = None,
        batch_rows: int = 131_072,
        threads: int = 2,
    ) -> None:
        self.files, self.columns, self.batch_rows, self.threads = files, columns, batch_rows, threads
        self.types: dict[str, str] = {}
        self.widened: dict[str, tuple[int, int]] = {}  # column -> (file, block) where its numbers turned to text
        self.rejected = Rejected()
        self.notes: dict[str, list[str]] = {}
        self._known = types or {}
        self._sent: set[str] = set()  # columns of which numbers went out
        self._kept: IO[bytes] | None = None  # what came on standard input

    def batches(self) -> Iterator[Batch]:
        """All rows that can be read, in order; bad rows go to `rejected`."""
        for index, file in enumerate(self.files):
            yield from self._read(index, file)

    def earlier(self, columns: list[str]) -> Iterator[Batch]:
        """Blocks that went out before one of their columns turned to text: that column as text, and `columns`."""
        last = max(self.widened.values())
        chosen = list(dict.fromkeys([*self.widened, *columns]))
        again = CsvReader(
            self.files, columns=chosen, types=self.types, batch_rows=self.batch_rows, threads=self.threads
        )
        again._kept = self._kept
        for batch in again.batches():
            if batch.part >= last:
                return
            done = [name for name, place in self.widened.items() if batch.part >= place and name not in columns]
            batch.table = batch.table.drop_columns(done) if done else batch.table
            yield batch

    def _read(self, index: int, file: Csv) -> Iterator[Batch]:
        with self._open(file) as stream:
            names, rest, line = read_header(file, stream)
            chosen = _choose(file, names, self.columns)
            blocks = read_blocks(stream, rest, line)
            block = next(blocks, None)
            if block is None:
                yield Batch(pa.record_batch({name: pa.nulls(0) for name in chosen}), str(file.path))
                return
            self._guess(file, names, chosen, block)
            row, number = 0, 0
            waiting: deque[tuple[Block, dict[str, str], Future[pa.RecordBatch]]] = deque()
            with ThreadPoolExecutor(self.threads) as pool:
                while block is not None or waiting:
                    while block is not None and len(waiting) < self.threads:
                        types = {name: self.types[name] for name in chosen}
                        waiting.append((block, types, pool.submit(_parse, file, names, types, block)))
                        block = next(blocks, None)
                    parsed, types, future = waiting.popleft()
                    table = self._settle(file, names, types, parsed, future, (index, number))
                    part, again = (index, number), frozenset(self._turned((index, number)))
                    for start in range(0, max(1, table.num_rows), self.batch_rows):
                        piece, lines = table.slice(start, self.batch_rows), _Lines(parsed, start)
                        yield Batch(
                            piece, str(file.path), row + start, lines, part, again if start == 0 else frozenset()
                        )
                    row, number = row + table.num_rows, number + 1

    @contextmanager
    def _open(self, file: Csv) -> Iterator[IO[bytes]]:
        if str(file.path) == "-":
            self._kept = self._kept or keep_standard_input()
            self._kept.seek(0)
            yield self._kept
        else:
            with open_text(file.path) as stream:
                yield stream

    def _turned(self, part: tuple[int, int]) -> list[str]:
        return [name for name, place in self.widened.items() if place == part]

    def _guess(self, file: Csv, names: list[str], chosen: list[str], block: Block) -> None:
        """Types of columns not met before, from the first rows."""
        fresh = [name for name in chosen if name not in self.types]
        if not fresh:
            return
        end = 0
        for _ in range(GUESS_ROWS):
            end = (block.data.find(b"\n", end) + 1) or len(block.data)
        sample = Block(block.data[:end], block.line)
        table = _parse(file, names, dict.fromkeys(fresh, "string"), sample)
        for name in fresh:
            self.types[name] = self._known.get(name) or guess_type(table[name])

    def _settle(
        self,
        file: Csv,
        names: list[str],
        types: dict[str, str],
        block: Block,
        future: Future[pa.RecordBatch],
        part: tuple[int, int],
    ) -> pa.RecordBatch:
        """The parsed block under the types of the moment, widened until it can be read."""
        table: pa.RecordBatch | None = None
        current = {name: self.types[name] for name in types}
        if current == types:
            try:
                table = future.result()
            except pa.ArrowInvalid as error:
                self._widen(file, names, block, part, error)
        else:
            future.exception()  # a type changed while the block was being parsed: read it anew
        while table is None:
            try:
                table = _parse(file, names, {name: self.types[name] for name in types}, block)
            except pa.ArrowInvalid as error:
                self._widen(file, names, block, part, error)
        for name in [name for name in types if self.types[name] == "null"]:
            table = self._first_values(table, name)
        for row in block.rejected:
            self.rejected.add(row)
        self._note_undecodable(file, block)
        self._sent |= {name for name in types if self.types[name] in ("int", "float")}
        return table

    def _widen(self, file: Csv, names: list[str], block: Block, part: tuple[int, int], error: pa.ArrowInvalid) -> None:
        fault = FAULT.search(str(error))
        if fault is None:
            raise InvalidValue(f"data: {file.path}: lines from {block.line}: {error}") from error
        name, value = names[int(fault[1])], fault[3]
        before = self.types[name]
        if before not in ("int", "float"):
            raise InvalidValue(f"data: {file.path}: lines from {block.line}: {error}") from error
        after = "float" if before == "int" and _is_number(value) else "string"
        where = f"{file.path}:{_Lines(block, 0)()[int(fault[2]) - 1]}" if fault[2] else f"{file.path}"
        if after == "float" and value.strip().lstrip("+-").isdigit():
            note = (
                f"{where}: {value} is beyond 64 bits: the column is read as float and its digits beyond 2^53 are lost"
            )
        else:
            note = f"{where}: {value!r} is not {'an integer' if before == 'int' else 'a number'}: read as {after}"
        self.notes.setdefault(name, []).append(note)
        self.types[name] = after
        if after == "string" and name in self._sent:
            self.widened[name] = part

    def _first_values(self, table: pa.RecordBatch, name: str) -> pa.RecordBatch:
        """A column that was empty so far gets its type from the first block with values."""
        column = table[name]
        self.types[name] = kind = guess_type(column)
        if kind == "string":
            return table
        if kind == "null":
            typed = pa.nulls(len(column))
        else:
            text = column.dictionary_decode()
            blank = pc.is_in(text, value_set=pa.array(NO_NUMBER))
            typed = pc.if_else(blank, None, text).cast(ARROW[kind])
        return table.set_column(table.schema.get_field_index(name), name, typed)

    def _note_undecodable(self, file: Csv, block: Block) -> None:
        if block.data.isascii() or "" in self.notes:
            return
        try:
            block.data.decode()
        except UnicodeDecodeError as error:
            byte = block.data[error.start]
            self.notes[""] = [f"{file.path}:{block.line_at(error.start)}: byte 0x{byte:02x} is not UTF-8"]


def guess_type(column: pa.Array) -> str:
    """int, float or string, whichever is the narrowest that reads every value; null where there is none."""
    values = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    values = values.drop_null()
    if len(values) == 0:
        return "null"
    values = values.filter(pc.invert(pc.is_in(values, value_set=pa.array(NO_NUMBER))))
    if len(values) == 0:
        return "string"
    for kind in ("int", "float"):
        try:
            pc.utf8_trim_whitespace(values).cast(ARROW[kind])
        except pa.ArrowInvalid:
            continue
        return kind
    return "string"


class _Lines:
    """Line numbers of the rows of a block from one row on; worked out when asked for."""

    def __init__(self, block: Block, start: int) -> None:
        self._block, self._start = block, start

    def __call__(self) -> list[int]:
        return self._block.lines()[self._start :]


def _parse(file: Csv, names: list[str], types: dict[str, str], block: Block) -> pa.RecordBatch:
    """Parse the columns in `types` of one block; ragged rows are kept in `block.rejected`."""
    block.rejected, block.rejected_lines = [], set()
    position = 0

    def reject(row: pa.csv.InvalidRow) -> str:
        nonlocal position
        raw = row.text.encode("utf-8", "surrogateescape")
        position = max(block.data.find(raw, position), 0)
        line = block.line_at(position)
        block.rejected_lines.add(line)
        reason = f"{row.actual_columns} values where the header has {row.expected_columns}"
        block.rejected.append(RejectedRow(f"{file.path}:{line}", reason, text=row.text[:200]))
        position += len(raw)
        return "skip"

    table = pa.csv.read_csv(
        pa.BufferReader(block.data),
        pa.csv.ReadOptions(use_threads=False, block_size=len(block.data) + 1, column_names=names),
        pa.csv.ParseOptions(
            delimiter=file.separator, newlines_in_values=b'"' in block.data, invalid_row_handler=reject
        ),
        pa.csv.ConvertOptions(
            check_utf8=False,
            column_types={name: ARROW[kind] for name, kind in types.items()},
            include_columns=list(types),
            null_values=[*NO_NUMBER, *file.nulls],
            strings_can_be_null=False,
        ),
    )
    batch = table.combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], schema=table.schema)]
    columns = [_without_blanks(column, ("", *file.nulls)) for column in batch[0].columns]
    return pa.RecordBatch.from_arrays(columns, names=list(types))


def _without_blanks(column: pa.Array, blanks: tuple[str, ...]) -> pa.Array:
    """Text that stands for a missing value becomes null."""
    if not pa.types.is_dictionary(column.type):
        return column
    for blank in blanks:
        code = pc.index(column.dictionary, blank).as_py()
        if code >= 0:
            codes = pc.if_else(pc.equal(column.indices, pa.scalar(code, pa.int32())), None, column.indices)
            column = pa.DictionaryArray.from_arrays(codes, column.dictionary)
    return column


def _choose(file: Csv, names: list[str], columns: list[str] | None) -> list[str]:
    for name in columns or []:
        if name not in names:
            raise unknown_name("data: column", name, names, where=str(file.path))
    return names if columns is None else columns


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text
