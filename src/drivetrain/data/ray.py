"""Statistics of many files on a Ray cluster: each worker analyzes files of its own, the parts are joined by `|` (spec
17 §4)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

from ..base.errors import InvalidValue
from ..base.extras import require
from .analyze import analyze
from .sources import list_files
from .stats import Stats


def analyze_files(source: str | Path | Sequence[str | Path], *, parts: int | None = None, **options: Any) -> Stats:
    """The statistics of many files, analyzed in parallel by the workers of a Ray cluster.

    Uses the cluster that `ray.init()` joined, or starts one on this machine. Every worker must see the files by the
    same path.

    Args:
        source: a folder, a glob, or a list of these.
        parts: groups of files, one task each; by default one per CPU of the cluster.
        options: as of `analyze`.

    Returns:
        The same statistics as `analyze(source, **options)`: counts and extremes exactly, quantiles within their error.

    Raises:
        MissingExtra: Ray is not installed.
        InvalidValue: what `analyze` raises; names the file.
    """
    ray = require("ray", extra="ray")
    sources = [source] if isinstance(source, str | Path) else list(source)
    files = [os.path.abspath(file) for item in sources for file in list_files(item)]  # noqa: PTH100 (no links resolved)
    if parts is not None and parts < 1:
        raise InvalidValue(f"data: analyze_files: parts={parts}, wanted at least 1")
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)
    groups = min(len(files), parts or int(ray.cluster_resources().get("CPU", 1)))
    task = ray.remote(_analyze_part)
    # Every n-th file: files of one day or one size then don't meet in one task.
    waiting = [task.remote(files[start::groups], {"threads": 1, **options}) for start in range(groups)]
    return reduce(or_, (Stats.from_json(part) for part in _results(ray, waiting)))


def map_batches(dataset: Any, **options: Any) -> Stats:
    """The statistics of a `ray.data.Dataset`, one Arrow batch at a time where the data lie.

    Raises:
        MissingExtra: Ray is not installed.
    """
    require("ray", extra="ray")
    state = {"threads": 1, **options}
    batches = dataset.map_batches(lambda table: _analyze_table(table, state), batch_format="pyarrow", batch_size=None)
    import json

    return reduce(or_, (Stats.from_json(json.loads(row["stats"])) for row in batches.iter_rows()), Stats())


def _analyze_part(files: list[str], options: dict[str, Any]) -> dict[str, Any]:
    return analyze(files, **options).to_json()


def _analyze_table(table: Any, options: dict[str, Any]) -> dict[str, list[str]]:
    import json

    return {"stats": [json.dumps(analyze(table, **options).to_json())]}


def _results(ray: Any, waiting: list[Any]) -> list[dict[str, Any]]:
    try:
        return list(ray.get(waiting))
    except ray.exceptions.RayTaskError as error:
        cause = error.as_instanceof_cause()
        raise (error.cause if isinstance(getattr(error, "cause", None), InvalidValue) else cause) from error
