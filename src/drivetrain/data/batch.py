"""What every source yields: a batch of rows that knows where it came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pyarrow as pa

from .presence import TensorStats


@dataclass
class Batch:
    """Some consecutive rows of a source.

    Attributes:
        table: the rows.
        origin: the file they come from; "" for rows from memory.
        first_row: index of the first row in `origin`, from 0.
        lines: gives the line numbers of all rows, for text files; called only when a line is asked for.
        part: file and block of a CSV source.
        restarts: columns that from here on are read as text and whose earlier values will come again.
        tensors: dtypes and shapes, for columns made of tensors.
    """

    table: pa.RecordBatch
    origin: str = ""
    first_row: int = 0
    lines: Callable[[], list[int]] | None = None
    part: tuple[int, int] = (0, 0)
    restarts: frozenset[str] = frozenset()
    tensors: dict[str, TensorStats] = field(default_factory=dict)

    def where(self, row: int) -> str:
        """Place of a row of this batch: "flights.csv:17" in a text file, else "flights.parquet row 16" or "row 16"."""
        if self.lines is not None:
            return f"{self.origin}:{self.lines()[row]}"
        return f"{self.origin} row {self.first_row + row}".strip()
