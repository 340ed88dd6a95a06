"""`drivetrain new`: a folder with a drive around the user's own data and module, ready to run."""

from __future__ import annotations

import csv
import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING

from drivetrain.base.errors import InvalidValue, unknown_name
from drivetrain.base.files import write_text
from drivetrain.base.modules import is_spec, load_attribute
from drivetrain.base.seeds import numpy_generator

if TYPE_CHECKING:
    from drivetrain.data import FeatureStats, Stats

MOST_CLASSES = 100
EXAMPLE_COLUMNS = ("x", "y", "label")

DRIVE = """# Paths are relative to this file. Run it with:  drivetrain run {name}/drive.toml
name = "{name}"
seed = 0

[data]
source = "{source}"    # one file (CSV, Parquet, Arrow, JSON lines); or: train = "...", test = "..."
label = "{label}"    # the column to predict
test_fraction = 0.2    # set aside by the seed, never trained on

[train]
model = "{model}"    # module:attribute; gets in_features and num_classes if it takes them
{task}epochs = 20
batch_size = {batch}
workers = 1    # processes; 2 and more train with DistributedDataParallel
schedule = "cosine"

[train.optimizer]
name = "adam"    # or yellowfin (tunes itself), sgd, any of torch.optim, module:attribute; its options follow
lr = 0.003

[ci]    # n, o: accuracy of the new and of the last accepted model; d: share of changed predictions
condition = "n - o > -{margin} +/- 0.01"    # later models: not so much worse; more test rows can show less
floor = "n > {floor} +/- 0.01"    # the first model: {floor_reason}
reliability = 0.95
steps = 4    # a test split wears out: after so many verdicts new test rows are due
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
    from drivetrain.data import analyze

    home = Path(folder) / name
    if not name.isidentifier() and not all(part.isalnum() for part in name.replace("_", "-").split("-")):
        raise InvalidValue(f"drive: {name!r} is no name for a folder", hint="letters, digits, - and _")
    if home.exists() and any(home.iterdir()):
        raise InvalidValue(f"drive: {home} exists and is not empty", hint="choose another name")
    if model is not None:
        if not is_spec(model):
            raise InvalidValue(f"drive: model {model!r} is not of the form module:attribute")
        load_attribute(model, Path(folder))
    if data is None and label not in (None, *EXAMPLE_COLUMNS):
        raise unknown_name("drive: column", label or "", EXAMPLE_COLUMNS)
    if data is None:
        write_text(home / "example.csv", example_csv())
    file = home / "example.csv" if data is None else Path(data)
    stats = analyze(file)
    columns = list(stats.features)
    label = label or ("label" if "label" in columns else columns[-1])
    if label not in columns:
        raise unknown_name("drive: column", label, columns)
    if model is None:
        write_text(home / "model.py", MODEL)
    else:
        _bring(model.partition(":")[0], Path(folder), home)
    text = DRIVE.format(
        name=name,
        source=_relative(file, home),
        label=label,
        model=model or "model:Net",
        batch=min(64, max(1, stats.num_examples // 10)),
        margin=_margin(round(stats.num_examples * 0.2)),
        **_goal(stats, label),
    )
    write_text(home / "drive.toml", text)
    return home


def _goal(stats: Stats, label: str) -> dict[str, str]:
    """What kind of label it is, and the floor that a model must clear to be of any use."""
    seen = stats.features[label]
    numeric = seen.numeric
    if numeric is not None and (
        seen.type == "float" or not 0 <= (numeric.min or 0) <= (numeric.max or 0) <= MOST_CLASSES
    ):
        half = f"{numeric.std_dev / 2:.2g}"
        task = f'task = "regression"\ntolerance = {half}    # an error that still counts as right: half a deviation\n'
        return {"task": task, "floor": "0.4", "floor_reason": "the mean alone is right about 38 % of the time"}
    share = _most_frequent(seen)
    reason = f"always the most frequent label is right {share:.0%} of the time"
    return {"task": "", "floor": f"{min(max(share, 0.01), 0.98):.2f}", "floor_reason": reason}


def _most_frequent(seen: FeatureStats) -> float:
    """Share of the most frequent label; for integers from their distribution function."""
    if seen.text is not None and seen.text.top_values:
        return seen.text.top_values[0][1] / max(seen.text.num_values, 1)
    if seen.numeric is None or seen.numeric.max is None:
        return 0.0
    steps = [float(seen.numeric.cdf(value + 0.5)) for value in range(-1, int(seen.numeric.max) + 1)]
    return max(high - low for low, high in itertools.pairwise(steps))


def _margin(test_rows: int) -> str:
    """How much worse a model may be so that the gate still accepts an equal one, 3 % changed each way.

    The certificate of n - o is an interval for each of the two discordant shares, at one of 2^4 histories, one of the
    two gates and one of the two shares.
    """
    from drivetrain.ci.bounds import clopper_pearson

    changed = max(1, round(0.03 * test_rows))
    low, high = clopper_pearson(changed, test_rows, -math.log(0.05 / 2 / 2**4 / 2))
    return f"{math.ceil((high - low) * 100) / 100:.2f}"


def _relative(data: Path, home: Path) -> str:
    import os

    return Path(os.path.relpath(data.resolve(), home.resolve())).as_posix()


def _bring(module: str, folder: Path, home: Path) -> None:
    """Copy a single-file module beside the drive, which looks for modules there; a package stays where it is."""
    source = folder / f"{module}.py"
    if source.is_file():
        write_text(home / source.name, source.read_text())


def example_csv() -> str:
    """Six hundred points in two interleaved half moons, as CSV text."""
    import io

    random = numpy_generator(0, "example")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(EXAMPLE_COLUMNS)
    for index in range(600):
        kind = index % 2
        angle = random.uniform(0, math.pi)
        x, y = (math.cos(angle), math.sin(angle)) if kind == 0 else (1 - math.cos(angle), 0.5 - math.sin(angle))
        noise = random.normal(0, 0.15, 2)
        writer.writerow([f"{x + noise[0]:.4f}", f"{y + noise[1]:.4f}", ("upper", "lower")[kind]])
    return buffer.getvalue()
