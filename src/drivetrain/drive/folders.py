"""Where a stage's artifacts lie: whole or not there, whenever the machine stops.

A stage works in `.<stage>-<key>.partial`, whose name carries the key of its inputs: after a kill, the same stage with
the same inputs finds its own checkpoints there, and a stage with other inputs does not. The marker `stage.json`
is written last; then the folder is renamed to `<stage>`. A kill between any two of these steps is mended by `settle`.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from drivetrain.base.errors import RunFailed
from drivetrain.base.files import write_json

MARKER = "stage.json"


@dataclass(frozen=True)
class Marker:
    """What a finished stage says of itself: the key of its inputs and what it found."""

    key: str
    passed: bool
    summary: str


def read_marker(folder: Path) -> Marker | None:
    """The marker of a finished stage, or None when the folder is absent or its stage did not finish."""
    try:
        return Marker(**json.loads((folder / MARKER).read_text()))
    except FileNotFoundError:
        return None


def work_folder(run_folder: Path, stage: str, key: str) -> Path:
    """The folder in which a stage with these inputs works; its partial work on other inputs is removed."""
    work = run_folder / f".{stage}-{key[:16]}.partial"
    for other in run_folder.glob(f".{stage}-*.partial"):
        if other != work:
            shutil.rmtree(other)
    work.mkdir(parents=True, exist_ok=True)
    return work


def finish(work: Path, stage: str, marker: Marker) -> Path:
    """Mark the stage's work as finished and put it in place of the earlier one."""
    write_json(work / MARKER, asdict(marker))
    settle(work.parent, stage)
    return work.parent / stage


def settle(run_folder: Path, stage: str) -> None:
    """Complete the renames of a stage that finished, from whatever step a kill left them at."""
    place, aside = run_folder / stage, run_folder / f".{stage}.aside"
    for work in run_folder.glob(f".{stage}-*.partial"):
        if read_marker(work) is None:
            continue
        if place.exists():
            if aside.exists():
                shutil.rmtree(aside)
            place.rename(aside)
        work.rename(place)
    if aside.exists():
        if place.exists():
            shutil.rmtree(aside)
        else:
            aside.rename(place)


@contextmanager
def locked(run_folder: Path) -> Iterator[None]:
    """Hold the run's folder against a second drive; the lock goes with the process, however it ends."""
    run_folder.mkdir(parents=True, exist_ok=True)
    with open(run_folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunFailed(
                f"drive: another drive is running in {run_folder}", hint="wait for it, or give --runs another folder"
            ) from None
        yield
