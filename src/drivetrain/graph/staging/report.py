"""All traces of a run, with time and memory: kept in the process, written to one file on request.

`DRIVETRAIN_TRACES=traces.json python train.py` writes the file at its end; `drivetrain graph report` shows it.
"""

from __future__ import annotations

import atexit
import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drivetrain.base.files import write_json

if TYPE_CHECKING:
    from .concrete import Concrete
    from .function import Function

TRACES: list[dict[str, Any]] = []
_LIMIT = 10_000


def record(function: Function, concrete: Concrete) -> None:
    """Note a new trace."""
    path = os.environ.get("DRIVETRAIN_TRACES")
    if not TRACES and path:
        atexit.register(write, path)
    if len(TRACES) >= _LIMIT:
        return
    line = next(iter(concrete.source_map.values()), None)
    TRACES.append({
        "function": function.name,
        "number": function.trace_count,
        "arguments": [f"{name}: {shown}" for name, shown in concrete.shown_arguments],
        "line": line.short if line is not None else None,
        "nodes": concrete.nodes,
        "seconds": round(concrete.seconds, 6),
        "captures": len(concrete.captures),
        "capture_bytes": sum(capture.tensor.nbytes for capture in concrete.captures),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "backend": concrete.backend,
        "side_effects": [str(effect) for effect in concrete.side_effects],
    })  # fmt: skip


def write(path: str | Path, since: int = 0) -> Path:
    """Write the traces of this process so far as JSON, all or from a number on."""
    write_json(Path(path), {"format": "drivetrain traces 1", "traces": TRACES[since:]})
    return Path(path)
