"""The `[ci]` table of a configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from ..base.config import Section, read_toml
from ..base.errors import InvalidValue
from .condition import parse_condition
from .plan import Plan, plan


class CiConfig(Section):
    """What the gate asks of a new model, and where things are (§4).

    Attributes:
        condition: what must hold; see `parse_condition`.
        reliability, mode, adaptivity, steps, estimator, variance_bound, label_fraction, score_range: see `plan`.
        decide: "tolerance" or "certificate"; see `evaluate`.
        testset: file with columns id, label (may be empty), group (optional), features; None: given by the caller.
        predictions: file of a commit's predictions, `{commit}` is replaced: .npy, or .csv with columns id, prediction.
        predict: command that writes it if it is not there; `{commit}` and `{out}` are replaced, run in the commit's
        tree. ledger: the ledger file. Labels and accepted predictions are kept beside it.
        report_to: file for the whole verdict; with adaptivity "none" and "open" the only place where it goes.
        slices: name -> column of the test set and value that make the slice, e.g. night = "hour=night".
        classes: number of classes, to check labels and predictions.
    """

    condition: str
    reliability: float = 0.999
    mode: str = "fp-free"
    adaptivity: str = "first-change"
    steps: int = 32
    estimator: str = "auto"
    decide: str = "tolerance"
    variance_bound: float | str | None = None
    label_fraction: float | None = None
    score_range: tuple[float, float] | None = None
    testset: str | None = None
    predictions: str = "preds/{commit}.npy"
    predict: str | None = None
    ledger: str = ".drivetrain/ci-ledger.jsonl"
    report_to: str | None = None
    slices: dict[str, str] = Field(default_factory=dict)
    classes: int | None = None

    @field_validator("condition")
    @classmethod
    def _parses(cls, text: str) -> str:
        parse_condition(text)
        return text

    @field_validator("slices")
    @classmethod
    def _names_column(cls, slices: dict[str, str]) -> dict[str, str]:
        for name, rule in slices.items():
            if "=" not in rule:
                raise ValueError(f'slice {name!r} is {rule!r}: write "column=value"')
        return slices

    @model_validator(mode="after")
    def _plans(self) -> CiConfig:
        # Closed forms only, so that every bad value is found at once and where it stands.
        plan(
            self.condition, reliability=self.reliability, steps=self.steps, adaptivity=self.adaptivity, mode=self.mode,
            estimator="hoeffding", variance_bound=self.variance_bound, label_fraction=self.label_fraction,
            score_range=self.score_range,
        )  # fmt: skip
        return self

    def plan(self, *, grouped: bool = False, step: int | None = None) -> Plan:
        """The plan these settings ask for. `step`: for adaptivity "open", the number of the commit to decide."""
        steps = step if step is not None and self.adaptivity == "open" else self.steps
        return plan(
            self.condition, reliability=self.reliability, steps=steps, adaptivity=self.adaptivity, mode=self.mode,
            estimator=self.estimator, variance_bound=self.variance_bound, label_fraction=self.label_fraction,
            score_range=self.score_range, grouped=grouped,
        )  # fmt: skip


def read_config(source: str | Path | dict[str, Any] | CiConfig) -> tuple[CiConfig, Path]:
    """Read the gate's configuration; return it and the folder that its relative paths start from.

    Args:
        source: a TOML file with a `[ci]` table, a legacy `.yml`/`.yaml` file, a dict, or a CiConfig.

    Raises:
        InvalidValue, MissingFile: names file, line, key, value, and what is allowed.
    """
    if isinstance(source, CiConfig):
        return source, Path.cwd()
    if isinstance(source, dict):
        try:
            return CiConfig(**source), Path.cwd()
        except ValueError as error:
            raise InvalidValue(f"ci: {_first_line(error)}") from None
    path = Path(source)
    if path.suffix in (".yml", ".yaml"):
        from .legacy import read_legacy

        return read_legacy(path), path.parent
    return read_toml(path, CiConfig, table="ci"), path.parent


def _first_line(error: ValueError) -> str:
    errors: Any = getattr(error, "errors", None)
    if errors is None:
        return str(error)
    first = errors()[0]
    key = ".".join(map(str, first["loc"]))
    return f"{key + ': ' if key else ''}{first['msg'].removeprefix('Value error, ')}"
