"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from drivetrain.cli.main import run

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class CommandResult:
    """What a command line did."""

    exit_code: int
    stdout: str
    stderr: str


@pytest.fixture
def cli(capfd, monkeypatch):
    """Run `drivetrain` in this process: cli("data", "stats", path, cwd=folder)."""

    def call(*args: object, cwd: Path | None = None) -> CommandResult:
        monkeypatch.setenv("COLUMNS", "160")
        capfd.readouterr()
        with monkeypatch.context() as patch:
            if cwd is not None:
                patch.chdir(cwd)
            code = run([str(arg) for arg in args])
        out, err = capfd.readouterr()
        return CommandResult(code, out, err)

    return call


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets that is too large for the repository; skips where it is not."""
    folder = Path(os.environ.get("DRIVETRAIN_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("the real data sets are not here (set DRIVETRAIN_DATA to their folder)")
    return folder
