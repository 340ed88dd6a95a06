"""A CSV file as a header and blocks of whole rows, in one forward pass (files, packed files, standard input)."""

from __future__ import annotations

import csv
import io
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from ..base.errors import InvalidValue, MissingFile
from .dialect import Csv
from .stats import RejectedRow

BLOCK = 16 << 20  # bytes; large, since the labels of string columns are joined once a block
DELIMITERS = ",;\t|"


@dataclass
class Block:
    """Whole rows of a file: their bytes, the line they begin at (from 1), and the rows that could not be read."""

    data: bytes
    line: int
    rejected: list[RejectedRow] = field(default_factory=list)
    rejected_lines: set[int] = field(default_factory=set)

    def lines(self) -> list[int]:
        """Line number of each row that was read."""
        numbers, inside = [], False
        for number, line in enumerate(self.data.split(b"\n"), self.line):
            begins = not inside
            inside ^= line.count(b'"') % 2 == 1
            if begins and line.strip(b"\r") and number not in self.rejected_lines:
                numbers.append(number)
        return numbers

    def line_at(self, position: int) -> int:
        """Line number of a byte of the block."""
        return self.line + count_byte(self.data, b"\n", 0, position)


def keep_standard_input() -> IO[bytes]:
    """Standard input as a file on disk that can be read once more; it is gone when closed."""
    kept = tempfile.TemporaryFile()  # noqa: SIM115 (the reader closes it)
    while chunk := sys.stdin.buffer.read(1 << 20):
        kept.write(chunk)
    return kept


@contextmanager
def open_text(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a file for reading, unpacked by its suffix; errors of the packing name the file."""
    if not Path(path).is_file():
        raise MissingFile(f"data: {path}: no such file")
    try:
        with pa.input_stream(str(path), compression="detect") as stream:
            yield stream
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, MissingFile):
            raise
        raise InvalidValue(f"data: {path}: can't be read: {error}") from error


def read_header(file: Csv, stream: IO[bytes]) -> tuple[list[str], bytes, int]:
    """Column names, the bytes read beyond the header, and the line they begin at.

    Raises:
        InvalidValue: an empty file, a name twice, UTF-16, or a delimiter that isn't the file's.
    """
    head = bytes(stream.read(BLOCK))
    where = f"data: {file.path}:1"
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InvalidValue(f"{where}: the file is UTF-16, wanted UTF-8", hint="iconv -f UTF-16 -t UTF-8 IN > OUT")
    head = head.removeprefix(b"\xef\xbb\xbf")
    if b"\n" not in head and b"\r" in head:
        raise InvalidValue(f"{where}: lines end in CR alone", hint="tr '\\r' '\\n' < IN > OUT")
    if not head.strip():
        raise InvalidValue(f"{where}: the file is empty, wanted a header line with the column names")
    if file.names is not None:
        names, rest, line = list(file.names), head, 1
    else:
        end = _row_end(head)
        text = head[:end].decode("utf-8", "backslashreplace")
        names = next(csv.reader(io.StringIO(text, newline=""), delimiter=file.separator))
        rest, line = head[end:], 1 + head.count(b"\n", 0, end)
    _check_names(file, names, where)
    return names, rest, line


def read_blocks(stream: IO[bytes], rest: bytes, line: int, *, quoted: bool = True) -> Iterator[Block]:
    """Cut the stream at row ends; `rest` are bytes already read; `quoted` rows may hold line breaks in quotes."""
    while True:
        more = bytes(stream.read(max(0, BLOCK - len(rest)) or BLOCK))
        rest += more
        if not more:
            if rest:
                yield Block(rest, line)
            return
        if len(rest) < BLOCK:
            continue
        end = _last_row_end(rest) if quoted else rest.rfind(b"\n") + 1
        if end:
            yield Block(rest[:end], line)
            line += count_byte(rest, b"\n", 0, end)
            rest = rest[end:]


def count_byte(data: bytes, byte: bytes, start: int, end: int) -> int:
    """data.count(byte, start, end), four times as fast."""
    view, code = np.frombuffer(data, np.uint8), byte[0]
    cuts = range(start, end, 1 << 16)
    return sum(int(np.count_nonzero(view[cut : min(cut + (1 << 16), end)] == code)) for cut in cuts)


def _row_end(data: bytes) -> int:
    """End of the first row, which may hold quoted line breaks."""
    end = -1
    while (end := data.find(b"\n", end + 1)) >= 0:
        if data.count(b'"', 0, end) % 2 == 0:
            return end + 1
    return len(data)


def _last_row_end(data: bytes) -> int:
    """End of the last whole row: the last line break outside quotes; 0 if there is none."""
    end = data.rfind(b"\n") + 1
    quotes = count_byte(data, b'"', 0, end) if b'"' in data else 0
    tried = end
    while quotes % 2 and tried:
        earlier = data.rfind(b"\n", 0, tried - 1) + 1
        quotes -= data.count(b'"', earlier, tried)
        tried = earlier
    # No break outside quotes: a stray quote, not a quoted text of megabytes; rows end at lines then.
    return tried or end


def _check_names(file: Csv, names: list[str], where: str) -> None:
    places: dict[str, int] = {}
    for place, name in enumerate(names, 1):
        if name in places:
            raise InvalidValue(
                f"{where}: two columns are named {name!r} (columns {places[name]} and {place})",
                hint="rename one of them; features are told apart by name",
            )
        places[name] = place
    if len(names) == 1:
        other: Any = max(DELIMITERS, key=names[0].count)
        if names[0].count(other) and other != file.separator:
            raise InvalidValue(
                f"{where}: the header has one column, {names[0]!r};"
                f" is the delimiter {other!r}, not {file.separator!r}?",
                hint=f"read it as Csv({str(file.path)!r}, delimiter={other!r}), or data stats --delimiter {other!r}",
            )
