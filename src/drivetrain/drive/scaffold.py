"""`drivetrain new`: a folder with a drive around the user's own data and module, ready to run."""

from __future__ import annotations

import csv
from pathlib import Path

from drivetrain.base.errors import InvalidValue, unknown_name
from drivetrain.base.files import write_text
from drivetrain.base.seeds import numpy_generator

from .modules import is_spec, load_attribute

DRIVE = """# Paths are relative to this file. Run it with:  drivetrain run {name}/drive.toml
name = "{name}"
seed = 0

[data]
source = "{source}"          # one file (CSV, Parquet, Arrow, JSON lines); or: train = "...", test = "..."
label = "{label}"            # the column to predict
test_fraction = 0.2          # set aside by the seed, never trained on

[train]
model = "{model}"            # module:attribute; gets in_features and num_classes if it takes them
epochs = 20
batch_size = {batch}
workers = 1                  # processes; 2 train with DistributedDataParallel

[train.optimizer]
name = "{optimizer}"         # or yellowfin (tunes itself), sgd, any of torch.optim, module:attribute; options follow
lr = 0.003

[ci]                         # n, o: accuracy of the new and the last accepted model; d: share of changed predictions
condition = "n - o > -0.02 +/- {tolerance}"
floor = "n > 0.5 +/- {tolerance}"      # the first run has no old model
reliability = 0.95
steps = 4                    # test sets wear out: so many decisions, then a new one is due
"""

MODEL = '''"""The model of this drive: change it freely, or point [train] model at your own module."""

from torch import Tensor, nn


class Net(nn.Module):
    """A small multilayer perceptron: rows [B, in_features] -> logits [B, num_classes]."""

    def __init__(self, in_features: int, num_classes: int, hidden: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_features, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
'''


def scaffold(
    name: str,
    *,
    folder: str | Path = ".",
    data: str | Path | None = None,
    label: str | None = None,
    model: str | None = None,
) -> Path:
    """Write `<folder>/<name>/drive.toml` and what it needs; return the new folder.

    Args:
        name: of the drive and its folder.
        data: the user's file; None writes a small example.csv to be replaced.
        label: the column to predict; by default "label", else the last column.
        model: "module:attribute" of the user's own module; None writes model.py.

    Raises:
        InvalidValue: the folder exists, no such column, not a module:attribute.
    """
    home = Path(folder) / name
    if not name.isidentifier() and not all(part.isalnum() for part in name.replace("_", "-").split("-")):
        raise InvalidValue(f"drive: {name!r} is no name for a folder", hint="letters, digits, - and _")
    if home.exists() and any(home.iterdir()):
        raise InvalidValue(f"drive: {home} exists and is not empty", hint="choose another name")
    if model is not None:
        if not is_spec(model):
            raise InvalidValue(f"drive: model {model!r} is not of the form module:attribute")
        load_attribute(model, Path(folder))
    columns, rows = _columns(Path(data)) if data is not None else (["x", "y", "label"], 600)
    label = label or ("label" if "label" in columns else columns[-1])
    if label not in columns:
        raise unknown_name("drive: column", label, columns)
    if data is None:
        write_text(home / "example.csv", _example())
    source = "example.csv" if data is None else _relative(Path(data), home)
    if model is None:
        write_text(home / "model.py", MODEL)
    else:
        _bring(model.partition(":")[0], Path(folder), home)
    test_rows = int(rows * 0.2)
    text = DRIVE.format(
        name=name, source=source, label=label, model=model or "model:Net", optimizer="adam",
        batch=min(64, max(1, (rows - test_rows) // 4)), tolerance=_tolerance(test_rows),
    )  # fmt: skip
    write_text(home / "drive.toml", text)
    return home


def _columns(data: Path) -> tuple[list[str], int]:
    from .splits import read_table

    table = read_table(data)
    return table.column_names, table.num_rows


def _relative(data: Path, home: Path) -> str:
    import os

    return Path(os.path.relpath(data.resolve(), home.resolve())).as_posix()


def _bring(module: str, folder: Path, home: Path) -> None:
    """Copy a single-file module beside the drive, which looks for modules there; a package stays where it is."""
    source = folder / f"{module}.py"
    if source.is_file():
        write_text(home / source.name, source.read_text())


def _tolerance(test_rows: int) -> float:
    """The smallest two-digit tolerance that this test split affords for the scaffold's two conditions."""
    from drivetrain.ci import plan

    for hundredths in range(1, 50):
        tolerance = hundredths / 100
        wanted = [f"n - o > -0.02 +/- {tolerance}", f"n > 0.5 +/- {tolerance}"]
        if all(plan(text, reliability=0.95, steps=4).items <= test_rows for text in wanted):
            return tolerance
    raise InvalidValue(
        f"drive: the test split would have {test_rows} rows, too few for any statistical verdict",
        hint="bring more data",
    )


def _example() -> str:
    """Six hundred points in two interleaved half moons, as CSV text."""
    import io
    import math

    random = numpy_generator(0, "example")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["x", "y", "label"])
    for index in range(600):
        kind = index % 2
        angle = random.uniform(0, math.pi)
        x, y = (math.cos(angle), math.sin(angle)) if kind == 0 else (1 - math.cos(angle), 0.5 - math.sin(angle))
        noise = random.normal(0, 0.15, 2)
        writer.writerow([f"{x + noise[0]:.4f}", f"{y + noise[1]:.4f}", ("upper", "lower")[kind]])
    return buffer.getvalue()
