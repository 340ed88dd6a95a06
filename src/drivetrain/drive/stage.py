"""What a stage is, and which stages there are: one file each in `drive/stages`, found by looking there.

A stage is a function `(config, drive) -> passed` that writes its artifacts under `drive.work`. A new file with a
module-level `STAGE` is all that a new stage needs: its table in the drive's TOML, its place in the order, its cache and
its part of the report follow from that.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from drivetrain.base.config import Section
from drivetrain.base.modules import load_attribute

from .report.parts import Part


@dataclass(frozen=True)
class Outcome:
    """What a stage found.

    Attributes:
        passed: False when the stage's check failed: later stages don't run and the drive ends with exit code 1.
        summary: one line for the terminal and the head of the report.
    """

    passed: bool
    summary: str


@dataclass(frozen=True)
class Drive:
    """What a stage may know of the drive it runs in.

    Attributes:
        name, seed: from the head of the TOML file.
        folder: where the TOML file lies; relative paths and user modules are looked up there.
        run_folder: where artifacts go, `runs/<name>`; finished stages are its subfolders.
        work: where the running stage writes; becomes `runs/<name>/<stage>` when it ends.
        locate: gives the "drive.toml, line 14: [train] model" of a key, for error messages.
    """

    name: str
    seed: int
    folder: Path
    run_folder: Path
    work: Path
    locate: Callable[..., str]

    def artifacts(self, stage: str) -> Path:
        """The folder of a finished earlier stage."""
        return self.run_folder / stage

    def path(self, name: str) -> Path:
        """A path of the TOML file, relative to its folder."""
        return self.folder / Path(name).expanduser()

    def load(self, spec: str, *key: str) -> Any:
        """The object that "module:attribute" names; `key` is where it stands, for the error message."""
        return load_attribute(spec, self.folder, where=self.locate(*key))


@dataclass(frozen=True)
class Stage:
    """One stage of the drive.

    Attributes:
        name: its table in the TOML file, named after its room.
        after: the stages that come before it, if they are in the drive.
        config: the class of its table.
        run: does the work; raises a DrivetrainError for bad input or a failure.
        inputs: label -> fingerprint of everything outside the TOML file that the result depends on.
        show: the stage's part of the report, from its finished artifacts alone.
    """

    name: str
    title: str
    after: tuple[str, ...]
    config: type[Section]
    run: Callable[[Any, Drive], Outcome]
    inputs: Callable[[Any, Drive], Mapping[str, str]]
    show: Callable[[Path], Iterable[Part]]
    needs: tuple[str, ...] = field(default=())


@cache
def all_stages() -> dict[str, Stage]:
    """Every stage there is, in the order a drive runs them."""
    from . import stages

    names = sorted(module.name for module in pkgutil.iter_modules(stages.__path__))
    found = {name: importlib.import_module(f"{stages.__name__}.{name}").STAGE for name in names}
    ordered: dict[str, Stage] = {}
    while found:
        ready = next(s for s in found.values() if not any(earlier in found for earlier in s.after))
        ordered[ready.name] = found.pop(ready.name)
    return ordered


def locator(text: str, file: str, overrides: Iterable[str] = ()) -> Callable[..., str]:
    """A function from a key's path to "drive.toml, line 14: [train] model"."""
    return partial(_locate, text, file, tuple(overrides))


def _locate(text: str, file: str, overrides: tuple[str, ...], *key: str) -> str:
    from drivetrain.base.config import line_of

    dotted = ".".join(key)
    if any(assignment.partition("=")[0].strip() == dotted for assignment in overrides):
        return f"--set {dotted}"
    table, last = ".".join(key[:-1]), key[-1]
    place = f"[{table}] {last}" if table else last
    line = line_of(text, key)
    return f"{file}, line {line}: {place}" if line else f"{file}: {place}"
