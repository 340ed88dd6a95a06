"""Suspicion on disk: an exchange's report as JSON, read back whatever wrote it.

write_json("run/exchange.json", exchange.report().to_dict())        # rank 0
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

from drivetrain.base.errors import InvalidValue, MissingFile

from .suspicion import RankReport

FILE = "exchange.json"


def read_reports(run: str | Path) -> tuple[list[RankReport], list[int]]:
    """What a run's exchange knew of each rank, in rank order, and the ranks in quarantine.

    Args:
        run: a run's folder (the file is looked for in it and in its folder `train`), or the file itself.

    Raises:
        MissingFile: no such file. InvalidValue: no report, or none of its ranks: the run had f = 0.
    """
    path = _find(Path(run))
    try:
        content = json.loads(path.read_text())
        rows = [
            RankReport(**{field.name: row[field.name] for field in fields(RankReport)})
            for row in content.get("suspicion") or ()
        ]
        left_out = [int(rank) for rank in content.get("quarantined") or ()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise InvalidValue(f"comm: {path} is no report of an exchange: {reason}") from None
    if not rows:
        raise InvalidValue(
            f"comm: {path} says nothing of suspects", hint="ranks are watched under a robust rule with f of 1 or more"
        )
    return rows, left_out


def _find(run: Path) -> Path:
    if run.is_file():
        return run
    for folder in (run, run / "train"):
        if (folder / FILE).is_file():
            return folder / FILE
    raise MissingFile(
        f"comm: no {FILE} in {run} or {run / 'train'}",
        hint="a drive with [train.exchange] writes it; elsewhere: write_json(path, exchange.report().to_dict())",
    )
