"""A loader that validates batches as they pass, and adds up their statistics (spec 17 §4)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..base.errors import unknown_name
from ..base.extras import require
from .report import DataAnomalies, Report
from .schema import Schema
from .stats import Stats
from .validate import validate

if TYPE_CHECKING:
    from .analyzer import Analyzer

MODES = ("raise", "warn", "quarantine")
KEPT = 1000  # quarantined batches or rows that are kept


class BadBatch(DataAnomalies):
    """A batch that breaks the schema; `batch` is its number, `report` its anomalies, `offenders` its first bad rows."""

    def __init__(self, batch: int, report: Report, offenders: list[Any]) -> None:
        lines = [
            f"{anomaly.feature}: {anomaly.description}" for anomaly in report.anomalies if anomaly.severity == "ERROR"
        ]
        rows = [f"row {item.row} of the batch: {item.feature} is {item.value!r}" for item in offenders[:3]]
        super().__init__(f"data: batch {batch} breaks the schema", hint="\n".join(lines[:5] + rows))
        self.batch, self.report, self.offenders = batch, report, offenders


class CheckedLoader:
    """Made by `checked`; iterates like the loader inside.

    Attributes:
        stats: statistics of all that passed so far (in "quarantine" mode without the rows taken out).
        quarantined: offenders taken out, as (number of the batch, row in it, feature, type, value); the first 1,000.
        bad_batches: number of batches that broke the schema.
        dropped: number of rows taken out.
    """

    def __init__(self, loader: Any, schema: Schema, on_error: str, environment: str | None) -> None:
        self.loader, self.schema, self.on_error, self.environment = loader, schema, on_error, environment
        self.quarantined: list[tuple[int, int, str, str, Any]] = []
        self.bad_batches = self.dropped = 0
        self._promises = _of_batches(schema)
        self._analyzer = self._new_analyzer()

    @property
    def stats(self) -> Stats:
        """Statistics of the examples that passed since the loader was made."""
        return self._analyzer.stats()

    def report(self, **others: Any) -> Report:
        """Validate all that passed so far against the whole schema; arguments as of `validate`."""
        return validate(self.stats, self.schema, environment=self.environment, **others)

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        if "loader" not in self.__dict__:  # while it is being unpickled
            raise AttributeError(name)
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[Any]:
        from .loaders import batch_of
        from .rows import RowChecks

        checks = RowChecks(self._promises, self.environment)
        for number, batch in enumerate(self.loader):
            rows = batch_of(batch)
            alone = self._new_analyzer()
            alone.add(rows)
            report = validate(alone.stats(), self._promises, environment=self.environment)
            if report.ok:
                self._analyzer.add(rows)
                yield batch
                continue
            self.bad_batches += 1
            offenders = list(checks.offenders(rows.table, int))
            if self.on_error == "raise":
                raise BadBatch(number, report, offenders)
            if self.on_error == "warn":
                warnings.warn(str(BadBatch(number, report, offenders)), stacklevel=2)
                self._analyzer.add(rows)
                yield batch
                continue
            kept = self._quarantine(number, batch, rows, report, offenders)
            if kept is not None:
                yield kept

    def _new_analyzer(self) -> Analyzer:
        from .analyzer import Analyzer

        return Analyzer(schema=self.schema, threads=1)

    def _quarantine(self, number: int, batch: Any, rows: Any, report: Report, offenders: list[Any]) -> Any:
        """The batch without its bad rows; None if nothing is left, or if the batch is bad as a whole."""
        import numpy as np

        bad = sorted({item.row for item in offenders})
        found = [(number, item.row, item.feature, item.type, item.value) for item in offenders]
        total = rows.table.num_rows
        if not bad:  # nothing to point at: a missing column, a wrong dtype, a shape
            bad = list(range(total))
            found = [(number, row, a.feature, a.type, None) for a in report.anomalies for row in bad]
        self.quarantined += found[: max(0, KEPT - len(self.quarantined))]
        self.dropped += len(bad)
        if len(bad) == total:
            return None
        keep = np.setdiff1d(np.arange(total), bad)
        left = selected(batch, keep)
        self._analyzer.add(_batch_of(left))
        return left


def checked(loader: Any, schema: Schema, *, on_error: str = "raise", environment: str | None = None) -> CheckedLoader:
    """Wrap a DataLoader so that every batch is held against the schema on its way.

    Promises about single examples count for each batch; those about whole data sets (statistics, unique, drift,
    fractions below 1, min_count above 1) are for `loader.report()` at the end.

    Args:
        loader: yields collated batches (dicts, tuples, tensors); features are named as by `analyze`.
        on_error: "raise" `BadBatch` at the first bad batch, "warn" and pass it on, or "quarantine": take the bad rows
            out, keep a list of them, and pass the rest on (a batch that is bad as a whole is left out).
        environment: features not expected in it may be missing.

    Raises:
        DrivetrainError: an unknown `on_error`.
    """
    require("pyarrow", extra="data")
    if on_error not in MODES:
        raise unknown_name("data: checked on_error", on_error, MODES)
    return CheckedLoader(loader, schema, on_error, environment)


def _of_batches(schema: Schema) -> Schema:
    """The promises that hold for every batch by itself."""
    promises = schema.copy()
    promises.dataset = type(schema.dataset)()
    for _, feature in promises.walk():
        presence = feature.presence
        if presence.min_fraction != 1.0:
            presence.min_fraction = None
        if presence.min_count:
            presence.min_count = 1 if presence.min_fraction == 1.0 else None
        if feature.min_domain_mass is not None and feature.min_domain_mass < 1:
            feature.min_domain_mass = 0.0
        feature.unique = feature.statistics = feature.drift = feature.skew = feature.scored = None
    promises.sparse.clear()
    promises.weighted.clear()
    return promises


def selected(batch: Any, keep: Any) -> Any:
    """Some rows of a collated batch, in its own form (dict, tuple, named tuple, list, tensor, array)."""
    import torch

    if isinstance(batch, torch.Tensor):
        return batch[torch.as_tensor(keep, device=batch.device)]
    if isinstance(batch, dict):
        return type(batch)({name: selected(value, keep) for name, value in batch.items()})
    if hasattr(batch, "_fields"):
        return type(batch)(*(selected(value, keep) for value in batch))
    if isinstance(batch, list | tuple):
        if batch and any(isinstance(item, torch.Tensor | dict | list | tuple) for item in batch):
            return type(batch)(selected(item, keep) for item in batch)
        return type(batch)(batch[row] for row in keep)
    return batch[keep]


def _batch_of(batch: Any) -> Any:
    from .loaders import batch_of

    return batch_of(batch)
