"""How a CSV file is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Csv:
    """A CSV file with its dialect, where that is not the plain one.

    Attributes:
        path: the file; .gz, .bz2 and .zst are unpacked on the way; "-" is standard input.
        delimiter: one character; by default a comma, for .tsv files a tab.
        names: column names, for a file without a header line.
        nulls: further spellings of a missing value, for all columns, e.g. (" ?",).
    """

    path: str | Path
    delimiter: str | None = None
    names: tuple[str, ...] | None = None
    nulls: tuple[str, ...] = ()

    @property
    def separator(self) -> str:
        """The delimiter, by the file's name where none was given."""
        return self.delimiter or ("\t" if ".tsv" in Path(self.path).suffixes else ",")
