"""[data]: statistics, a schema, and every anomaly against it; nothing is trained on data that breaks it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from drivetrain.base.config import Section
from drivetrain.base.errors import InvalidValue, MissingFile
from drivetrain.base.files import sha256_file, write_json
from drivetrain.base.modules import explain_failure, fingerprint, is_spec

from ..report.data import show
from ..splits import SPLITS, open_split, split_file
from ..stage import Drive, Outcome, Stage


class DataConfig(Section):
    """[data]. Paths are relative to the TOML file."""

    source: str | None = Field(None, description="one file, cut into training and test split by the seed")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="share of `source` set aside for the test split")
    train: str | None = Field(None, description="the training split: a file, or module:attribute of a Dataset")
    test: str | None = Field(None, description="the test split")
    later: list[str] = Field([], description="files or globs of later batches, each checked against the one before")
    on_later: Literal["report", "stop"] = Field("report", description="what anomalies of later batches do")
    label: str = Field("label", description="the column to predict")
    schema_file: str | None = Field(None, alias="schema", description="a kept schema; inferred from train when absent")
    drift: float | None = Field(None, gt=0, le=1, description="most any value's share may move, for features without "
                                "a comparator in the schema")  # fmt: skip
    prepare: str | None = Field(None, description="module:attribute, called with the folder when a file is missing")

    @model_validator(mode="after")
    def _one_way(self) -> DataConfig:
        if (self.source is None) == (self.train is None):
            raise ValueError("give either source, one file to split, or train and test")
        if (self.train is None) != (self.test is None):
            raise ValueError("train and test go together")
        if self.train and self.test and is_spec(self.train) != is_spec(self.test):
            raise ValueError("train and test must both be files or both be module:attribute")
        return self


def run(config: DataConfig, drive: Drive) -> Outcome:
    """Analyze, infer or load the schema, validate every split and later batch."""
    from drivetrain.data import Schema, analyze, infer, validate

    places = _places(config, drive)
    sources = {name: _source(places, name, drive) for name in ("train", "test")}
    kept = Schema.load(drive.path(config.schema_file)) if config.schema_file else None
    train, test = (analyze(sources[name], schema=kept, name=name) for name in ("train", "test"))
    if not is_spec(places["train"]) and config.label not in train.features:
        from drivetrain.base.errors import unknown_name

        raise unknown_name("data: label", config.label, train.features, where=drive.locate("data", "label"))
    schema = kept or infer(train)
    _watch_drift(schema, config.drift)
    reports = {"train": validate(train, schema), "test": validate(test, schema)}
    stats, before = {"train": train, "test": test}, train
    for path in _later(config, drive):
        name = path.stem
        stats[name] = analyze(path, schema=schema, name=name)
        reports[name] = validate(stats[name], schema, previous=before)
        before = stats[name]
    schema.save(drive.work / "schema.toml")
    for name, seen in stats.items():
        seen.save(drive.work / f"{name}-stats.json")
    write_json(drive.work / "reports.json", {name: report.to_json() for name, report in reports.items()})
    write_json(drive.work / "order.json", list(reports))
    write_json(drive.work / SPLITS, places)
    return _outcome(config, reports, train.num_examples, test.num_examples)


def _outcome(config: DataConfig, reports: dict[str, Any], rows_train: int, rows_test: int) -> Outcome:
    binding = {
        name: report for name, report in reports.items() if name in ("train", "test") or config.on_later == "stop"
    }
    broken = {name: report for name, report in binding.items() if not report.ok}
    if broken:
        name, report = next(iter(broken.items()))
        first = report.anomalies[0]
        return Outcome(False, f"{name}: {first.feature}: {first.description}")
    noted = sum(len(report.anomalies) for report in reports.values())
    later = len(reports) - 2
    extra = f", {later} later batches" if later else ""
    return Outcome(True, f"{rows_train} + {rows_test} rows{extra}, {noted} anomalies" + (" noted" if noted else ""))


def _places(config: DataConfig, drive: Drive) -> dict[str, Any]:
    """Where the splits are: in our own folder when we cut them, else where the user keeps them."""
    if config.source is not None:
        split_file(drive.path(config.source), drive.work, test_fraction=config.test_fraction, seed=drive.seed)
        return {"train": "train.parquet", "test": "test.parquet", "inside": True, "label": config.label}
    return {"train": config.train, "test": config.test, "inside": False, "label": config.label}


def _source(places: dict[str, Any], name: str, drive: Drive) -> Any:
    if places["inside"]:
        return drive.work / places[name]
    return open_split(places[name], drive, "data", name)


def _watch_drift(schema: Any, threshold: float | None) -> None:
    from drivetrain.data import Comparator

    if threshold is not None:
        for feature in schema.features.values():
            feature.drift = feature.drift or Comparator(linf=threshold)


def _later(config: DataConfig, drive: Drive) -> list[Path]:
    found: list[Path] = []
    for pattern in config.later:
        matches = (
            sorted(drive.folder.glob(pattern)) if any(sign in pattern for sign in "*?[") else [drive.path(pattern)]
        )
        if not matches:
            raise MissingFile(f"data: no file matches {pattern!r}", where=drive.locate("data", "later"))
        found += [path for path in matches if path not in found]
    return found


def inputs(config: DataConfig, drive: Drive) -> Mapping[str, str]:
    """Hashes of all files, made by `prepare` first where one is missing, and of the user's modules."""
    named = {"source": config.source, "train": config.train, "test": config.test, "schema": config.schema_file}
    files = {key: drive.path(value) for key, value in named.items() if value and not is_spec(value)}
    if config.prepare and not all(path.exists() for path in files.values()):
        _prepare(config.prepare, drive)
    for key, path in files.items():
        if not path.is_file():
            raise MissingFile(f"data: there is no file {path}", where=drive.locate("data", key))
    found = {key: sha256_file(path) for key, path in files.items()}
    found |= {path.name: sha256_file(path) for path in _later(config, drive)}
    found |= {key: fingerprint(value, drive.folder) for key, value in named.items() if value and is_spec(value)}
    return found


def _prepare(spec: str, drive: Drive) -> None:
    where = drive.locate("data", "prepare")
    make = drive.load(spec, "data", "prepare")
    try:
        make(drive.folder)
    except Exception as error:
        raise InvalidValue(f"data: {spec} failed", hint=explain_failure(error), where=where) from error


STAGE = Stage("data", "Data", (), DataConfig, run, inputs, show)
