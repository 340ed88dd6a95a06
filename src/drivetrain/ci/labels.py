"""The label queue: which labels a person must still give, and the store that commits share (§2.6.2)."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from ..base.errors import InvalidValue, MissingFile
from ..base.files import write_text
from .testset import TestSet

NEEDED = "labels-needed.csv"


class LabelStore:
    """Labels given so far, id -> class, in a CSV file beside the ledger.

    Args:
        path: the file; it need not exist yet.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.known: dict[str, int] = _read(self.path) if self.path.exists() else {}

    def add(self, path: str | Path, testset: TestSet | None = None, classes: int | None = None) -> int:
        """Take over labels from a filled-in file with columns id and label; return how many are new.

        Nothing is taken over if any line is wrong. Lines with an empty label are left for later.

        Raises:
            MissingFile; InvalidValue: an unknown id, a label that is no class or contradicts an earlier one.
        """
        if not Path(path).is_file():
            raise MissingFile(f"ci: there is no file {path}")
        given = _read(Path(path))
        for identifier, label in given.items():
            if classes is not None and label >= classes:
                raise InvalidValue(f"ci: {path}: id {identifier!r} has label {label}, there are {classes} classes")
            if self.known.get(identifier, label) != label:
                raise InvalidValue(
                    f"ci: {path}: id {identifier!r} is labelled {label}, it was {self.known[identifier]} before",
                    hint="a label changed mid-life would change past verdicts; correct it in a new test set",
                )
        if testset is not None:
            testset.with_labels(given)
        fresh = [identifier for identifier in given if identifier not in self.known]
        self.known.update(given)
        write_text(self.path, "id,label\n" + "".join(f"{_quote(key)},{label}\n" for key, label in self.known.items()))
        return len(fresh)


def write_needed(path: str | Path, testset: TestSet, rows: np.ndarray) -> None:
    """Write the ids whose labels are missing, with an empty label column to fill in."""
    ids = testset.ids[rows].tolist()
    write_text(path, "id,label\n" + "".join(f"{_quote(str(identifier))},\n" for identifier in ids))


def _quote(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(sign in text for sign in ',"\n\r') else text


def _read(path: Path) -> dict[str, int]:
    with open(path, newline="", encoding="utf-8") as source:
        reader = csv.DictReader(source)
        if not {"id", "label"} <= set(reader.fieldnames or ()):
            raise InvalidValue(f"ci: {path} has columns {', '.join(reader.fieldnames or ['none'])}", hint="id,label")
        found: dict[str, int] = {}
        for row in reader:
            text = (row["label"] or "").strip()
            if not text:
                continue
            if not text.isdigit():
                where = f"{path.name}, line {reader.line_num}"
                raise InvalidValue(f"ci: label {text!r} is no class", hint="a whole number from 0", where=where)
            if found.get(row["id"], int(text)) != int(text):
                raise InvalidValue(f"ci: {path}: id {row['id']!r} has two labels, {found[row['id']]} and {text}")
            found[row["id"]] = int(text)
    return found
