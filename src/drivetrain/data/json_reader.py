"""JSON lines in blocks of whole lines, parsed by Arrow; what Arrow refuses is read line by line (spec 17 §5)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.json

from ..base.errors import unknown_name
from .batch import Batch
from .csv_blocks import Block, open_text, read_blocks
from .examples import table_of
from .stats import Rejected, RejectedRow


class JsonReader:
    """Batches of files with one JSON object in a line. Texts that look like dates stay text."""

    def __init__(self, files: list[str], *, columns: list[str] | None = None, batch_rows: int = 131_072) -> None:
        self.files, self.columns, self.batch_rows = files, columns, batch_rows
        self.rejected = Rejected()
        self.notes: dict[str, list[str]] = {}
        self._texts: dict[str, pa.DataType] = {}  # columns that Arrow would take for dates

    def batches(self) -> Iterator[Batch]:
        """All rows that can be read, in order; bad lines go to `rejected`."""
        seen: set[str] = set()
        for index, file in enumerate(self.files):
            row = 0
            with open_text(file) as stream:
                for number, block in enumerate(read_blocks(stream, b"", 1, quoted=False)):
                    table = self._parse(file, block)
                    for row_of_block in block.rejected:
                        self.rejected.add(row_of_block)
                    seen.update(table.column_names)
                    if self.columns is not None:
                        table = table.select([name for name in self.columns if name in table.column_names])
                    start = 0
                    for piece in table.to_batches(max_chunksize=self.batch_rows):
                        yield Batch(piece, file, row + start, _Lines(block, start), (index, number))
                        start += piece.num_rows
                    row += start
        for name in self.columns or []:
            if seen and name not in seen:
                raise unknown_name("data: column", name, seen, where=", ".join(self.files[:3]))

    def _parse(self, file: str, block: Block) -> pa.Table:
        try:
            table = self._arrow(block)
            dates = {f.name: _as_text(f.type) for f in table.schema if _as_text(f.type) != f.type}
            if dates:
                self._texts |= dates
                table = self._arrow(block)
            return table
        except pa.ArrowInvalid:
            return self._by_line(file, block)

    def _arrow(self, block: Block) -> pa.Table:
        schema = pa.schema(list(self._texts.items())) if self._texts else None
        table = pa.json.read_json(
            pa.BufferReader(block.data),
            pa.json.ReadOptions(use_threads=False, block_size=len(block.data) + 1),
            pa.json.ParseOptions(explicit_schema=schema, newlines_in_values=False),
        )
        empty = [name for name in self._texts if f'"{name}"'.encode() not in block.data and name in table.column_names]
        return table.drop_columns(empty)

    def _by_line(self, file: str, block: Block) -> pa.Table:
        examples: list[dict[str, Any]] = []
        for number, line in enumerate(block.data.split(b"\n"), block.line):
            if not line.strip():
                continue
            try:
                example = json.loads(line)
                reason = "" if isinstance(example, dict) else f"a {type(example).__name__}, wanted an object"
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                reason = f"not JSON: {error}"
            if reason:
                block.rejected_lines.add(number)
                text = line[:200].decode("utf-8", "backslashreplace")
                block.rejected.append(RejectedRow(f"{file}:{number}", reason, text=text))
            else:
                examples.append(example)
        table, mixed = table_of(examples)
        for name, what in mixed.items():
            self.notes.setdefault(name, []).append(f"{file}: lines from {block.line}: {what}")
        return table


def _as_text(kind: pa.DataType) -> pa.DataType:
    """The type with every date in it replaced by text."""
    if pa.types.is_temporal(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_as_text(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _as_text(field.type)) for field in kind])
    return kind


class _Lines:
    """Line numbers of the rows of a block from one row on; worked out when asked for."""

    def __init__(self, block: Block, start: int) -> None:
        self._block, self._start = block, start

    def __call__(self) -> list[int]:
        lines = enumerate(self._block.data.split(b"\n"), self._block.line)
        numbers = [n for n, line in lines if line.strip() and n not in self._block.rejected_lines]
        return numbers[self._start :]
