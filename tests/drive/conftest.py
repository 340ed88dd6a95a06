"""A small real drive: two half moons in a CSV, an MLP, a gate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from drivetrain.base.files import sha256_file
from drivetrain.drive.scaffold import MODEL, example_csv

DRIVE = """name = "moons"
seed = 0

[data]
source = "moons.csv"

[train]
model = "model:Net"
epochs = 3
batch_size = 40
workers = 2

[train.optimizer]
name = "adam"
lr = 0.01

[ci]
condition = "n - o > -0.3 +/- 0.01"
floor = "n > 0.5 +/- 0.01"
"""

# Facts of a run that are not decided by the seed: when and how long.
VARYING = {"run.json", "report.html", ".lock", "exchange_times.json", "compile_times.json"}


@pytest.fixture
def moons(tmp_path) -> Path:
    """A folder with moons.csv, model.py and drive.toml."""
    (tmp_path / "moons.csv").write_text(example_csv())
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "drive.toml").write_text(DRIVE)
    return tmp_path


@pytest.fixture
def hashes() -> Callable[[Path], dict[str, str]]:
    """Name -> SHA-256 of every artifact of a run that the seed decides."""

    def collect(run_folder: Path) -> dict[str, str]:
        files = [path for stage in ("data", "train", "ci") for path in (run_folder / stage).rglob("*")]
        return {str(p.relative_to(run_folder)): sha256_file(p) for p in files if p.is_file() and p.name not in VARYING}

    return collect


@pytest.fixture
def states() -> Callable[[Path], dict[str, str]]:
    """Stage -> how it fared in the last run."""

    def read(run_folder: Path) -> dict[str, str]:
        record = json.loads((run_folder / "run.json").read_text())
        return {step["name"]: step["state"] for step in record["stages"]}

    return read
