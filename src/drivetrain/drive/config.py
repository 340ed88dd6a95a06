"""The drive's TOML file: a head (name, seed) and one table a stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, create_model

from drivetrain.base.config import Section, apply_override, load_toml, read_toml
from drivetrain.base.errors import InvalidValue

from .stage import Stage, all_stages, locator


class Head(Section):
    """What stands above the tables."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="names the run's folder")
    seed: int = Field(0, ge=0, description="every random choice flows from it")


@dataclass(frozen=True)
class DriveFile:
    """A drive as it was read.

    Attributes:
        path: the TOML file.
        name, seed: its head.
        stages: the stages it has a table for, in the order they run, each with its config.
        locate: a key's place in the file, for error messages.
        content: everything as plain values, after `--set`; the report prints it.
    """

    path: Path
    name: str
    seed: int
    stages: dict[Stage, Section]
    locate: Callable[..., str]
    content: dict[str, Any]

    def config(self, stage: str) -> Section | None:
        """The table of one stage, or None when the drive has no such stage."""
        return next((config for known, config in self.stages.items() if known.name == stage), None)


def read_drive(path: str | Path, overrides: Sequence[str] = ()) -> DriveFile:
    """Read and check a drive; `overrides` are assignments such as "train.epochs=2".

    Raises:
        MissingFile, InvalidValue: names file, line, key, value and what is allowed.
    """
    path = Path(path)
    known = all_stages()
    tables: dict[str, Any] = {name: (stage.config | None, None) for name, stage in known.items()}
    whole = create_model("Drive", __base__=Head, **tables)
    config = read_toml(path, whole, overrides=overrides)
    text = path.read_text(encoding="utf-8")
    locate = locator(text, path.name, overrides)
    stages = {stage: table for name, stage in known.items() if (table := getattr(config, name)) is not None}
    names = [stage.name for stage in stages]
    if not stages:
        raise InvalidValue(f"drive: {path.name} has no stage", hint=f"add a table: [{'], ['.join(known)}]")
    for stage in stages:
        for needed in stage.needs:
            if needed not in names:
                raise InvalidValue(
                    f"drive: [{stage.name}] needs [{needed}], which the file lacks", where=locate(stage.name)
                )
    content = load_toml(text, path.name)
    for assignment in overrides:
        apply_override(content, assignment)
    return DriveFile(path.resolve(), config.name, config.seed, stages, locate, content)
