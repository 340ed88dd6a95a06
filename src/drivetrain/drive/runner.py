"""Run the stages of a drive in order; skip what is unchanged, resume what was cut off, stop where a check fails."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from drivetrain import __version__
from drivetrain.base.errors import InvalidValue, unknown_name
from drivetrain.base.files import sha256_bytes, write_json
from drivetrain.base.timing import machine

from .config import DriveFile
from .folders import Marker, finish, locked, read_marker, settle, work_folder
from .stage import Drive, Stage

RECORD = "run.json"


@dataclass(frozen=True)
class StageRun:
    """How one stage fared: "ran", "unchanged", "failed" (its check), or "not reached"."""

    name: str
    state: str
    seconds: float
    summary: str
    key: str


@dataclass(frozen=True)
class RunResult:
    """The whole drive: `passed` is False when a stage's check failed."""

    folder: Path
    passed: bool
    stages: tuple[StageRun, ...]


def run_drive(
    drive_file: DriveFile,
    *,
    runs: str | Path = "runs",
    only: str | None = None,
    start: str | None = None,
    fresh: bool = False,
    tell: Callable[[StageRun], None] = lambda stage: None,
) -> RunResult:
    """Run a drive.

    Args:
        drive_file: from `read_drive`.
        runs: artifacts go to `<runs>/<name>`.
        only: run this stage alone; the stages before it must be finished and up to date.
        start: run this stage and all later ones anew, even where nothing changed.
        fresh: run every stage anew and forget partial work.
        tell: called as each stage ends.

    Raises:
        DrivetrainError: bad input or a failure; artifacts of earlier runs are untouched.
    """
    names = [stage.name for stage in drive_file.stages]
    for wanted in filter(None, (only, start)):
        if wanted not in names:
            raise unknown_name(f"drive: {drive_file.path.name} has no stage, so", wanted, names)
    run_folder = Path(runs).resolve() / drive_file.name
    done: list[StageRun] = []
    with locked(run_folder):
        keys: dict[str, str] = {}
        passed = True
        for position, (stage, config) in enumerate(drive_file.stages.items()):
            settle(run_folder, stage.name)
            drive = Drive(
                drive_file.name, drive_file.seed, drive_file.path.parent, run_folder, run_folder, drive_file.locate
            )
            key = keys[stage.name] = _key(stage, config, drive, keys)
            anew = fresh or (start is not None and position >= names.index(start))
            if not passed:
                step = StageRun(stage.name, "not reached", 0.0, "", key)
            elif only is not None and stage.name != only:
                step = _finished_or_refuse(stage, drive, key, only, before=position < names.index(only))
            else:
                step = _run_stage(stage, config, drive, key, anew=anew)
            passed = passed and step.state != "failed"
            done.append(step)
            tell(step)
        result = RunResult(run_folder, passed, tuple(done))
        _record(result, drive_file)
    return result


def _run_stage(stage: Stage, config: Any, drive: Drive, key: str, *, anew: bool) -> StageRun:
    marker = read_marker(drive.run_folder / stage.name)
    if marker is not None and marker.key == key and not anew:
        state = "unchanged" if marker.passed else "failed"
        return StageRun(stage.name, state, _seconds_before(drive.run_folder, stage.name), marker.summary, key)
    work = work_folder(drive.run_folder, stage.name, key)
    if anew:
        shutil.rmtree(work)
        work.mkdir()
    started = time.perf_counter()
    outcome = stage.run(config, Drive(**{**vars(drive), "work": work}))
    seconds = time.perf_counter() - started
    finish(work, stage.name, Marker(key, outcome.passed, outcome.summary))
    return StageRun(stage.name, "ran" if outcome.passed else "failed", seconds, outcome.summary, key)


def _finished_or_refuse(stage: Stage, drive: Drive, key: str, only: str, *, before: bool) -> StageRun:
    """A stage that --only leaves out: those before must be up to date, those after are not looked at."""
    if not before:
        return StageRun(stage.name, "not reached", 0.0, "", key)
    marker = read_marker(drive.run_folder / stage.name)
    if marker is None or marker.key != key:
        state = "has not run" if marker is None else "is out of date"
        raise InvalidValue(
            f"drive: --only {only} builds on [{stage.name}], which {state}", hint="run the drive without --only first"
        )
    return StageRun(stage.name, "unchanged", _seconds_before(drive.run_folder, stage.name), marker.summary, key)


def _key(stage: Stage, config: Any, drive: Drive, earlier: dict[str, str]) -> str:
    """The fingerprint of everything a stage's artifacts depend on: its config, its inputs, the stages before it."""
    content = {
        "stage": stage.name,
        "version": __version__,
        "seed": drive.seed,
        "config": config.model_dump(mode="json"),
        "inputs": dict(stage.inputs(config, drive)),
        "earlier": earlier,
    }
    return sha256_bytes(json.dumps(content, sort_keys=True).encode())


def _seconds_before(run_folder: Path, stage: str) -> float:
    """How long an unchanged stage took when it ran, from the record of that run."""
    try:
        record = json.loads((run_folder / RECORD).read_text())
    except FileNotFoundError:
        return 0.0
    return next((step["seconds"] for step in record["stages"] if step["name"] == stage), 0.0)


def _record(result: RunResult, drive_file: DriveFile) -> None:
    write_json(
        result.folder / RECORD,
        {
            "name": drive_file.name,
            "seed": drive_file.seed,
            "file": drive_file.path.name,
            "config": drive_file.content,
            "passed": result.passed,
            "stages": [asdict(step) for step in result.stages],
            "machine": machine(),
            "drivetrain": __version__,
            "ended": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        },
    )
