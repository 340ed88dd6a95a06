"""The model unit tester: training code against examples that its schema allows (spec 17 §2.7).

A crash or a loss that isn't finite means that the code assumes more than the schema says. Hypothesis finds such a
batch and shrinks it to a minimal one; the remedies are to tighten the schema or to mend the code.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..base.errors import InvalidValue
from ..base.extras import require
from .collate import Example, collate_tensors
from .domains import FloatDomain, IntDomain, StringDomain
from .schema import Feature, Schema


class NonFiniteLoss(ArithmeticError):
    """The step returned NaN or an infinity."""


@dataclass(frozen=True)
class FuzzFailure:
    """What the training code could not bear.

    Attributes:
        error: type and message of the exception, or the value of the loss.
        example: the minimal failing example; None where only a batch of different ones fails.
        batch: the minimal failing batch.
        blamed: features of the example whose value differs from the simplest one that works.
        remedies: what to do about it.
    """

    error: str
    example: Example | None
    batch: tuple[Example, ...]
    blamed: tuple[str, ...] = ()
    remedies: tuple[str, ...] = ()


@dataclass(frozen=True)
class FuzzReport:
    """Result of a fuzzing run: how many examples were tried, and the failure, if any."""

    examples: int
    batches: int
    failure: FuzzFailure | None = None
    generating_s: float = field(default=0.0, compare=False)

    @property
    def ok(self) -> bool:
        """Whether every batch gave a finite loss."""
        return self.failure is None

    def to_json(self) -> dict[str, Any]:
        """Plain data, complete."""
        from .edits import plain

        failure = None if self.failure is None else {**vars(self.failure), "batch": list(self.failure.batch)}
        return {"ok": self.ok, "examples": self.examples, "batches": self.batches, "failure": plain(failure)}

    def __str__(self) -> str:
        tried = f"{self.examples:,} examples in {self.batches:,} batches"
        if self.failure is None:
            return f"no failure: {tried} that the schema allows gave finite losses"
        shown = self.failure.example if self.failure.example is not None else list(self.failure.batch)
        lines = [
            "training code assumes more than the schema says",
            f"  {self.failure.error}",
            f"  minimal example: {shown!r}",
        ]
        return "\n".join(
            [*lines, *(f"  remedy: {remedy}" for remedy in self.failure.remedies), f"  ({tried} were tried)"]
        )


def fuzz(
    schema: Schema,
    step: Callable[[Any], Any],
    *,
    collate: Callable[[list[Example]], Any] | None = None,
    examples: int = 200,
    batch: int = 8,
    iterations: int = 2,
    seed: int = 0,
    environment: str | None = None,
) -> FuzzReport:
    """Feed a training step with examples that satisfy the schema and nothing more.

    Modules and optimizers that the step uses (its own, in its closure, or globals it names) are put back to their state
    before every batch, so that a failure doesn't depend on the batches before it.

    Args:
        schema: the promises; those about whole data sets (statistics, unique) are not used.
        step: takes a collated batch and returns the loss (a tensor, a number, or None).
        collate: list of examples (dicts, None is missing) -> batch; by default `collate_tensors`.
        examples: number of examples to try; a failure adds those of shrinking.
        batch: examples in a batch.
        iterations: times a batch is given to the step, since weights may break in the first step and the loss in the
            next.
        seed: of the generator.
        environment: features not expected in it are left out.
    """
    require("hypothesis", extra="fuzz")
    for name, value in (("examples", examples), ("batch", batch), ("iterations", iterations)):
        if value < 1:
            raise InvalidValue(f"data: fuzz: {name} is {value}, it should be at least 1")
    run = _Run(schema, step, collate or (lambda rows: collate_tensors(rows, schema)), iterations)
    error = _search(run, schema, examples, batch, seed, environment)
    tried, batches, generating = run.found_at or (run.examples, run.batches, run.generating_s)
    if error is None:
        return FuzzReport(tried, batches, None, generating)
    return FuzzReport(tried, batches, _explain(run, error, schema), generating)


def _search(
    run: _Run, schema: Schema, examples: int, batch: int, seed: int, environment: str | None
) -> BaseException | None:
    """Let Hypothesis look for a failing batch and shrink it; the error of the minimal one, or None."""
    import hypothesis
    from hypothesis import HealthCheck, Phase, Verbosity, given, settings
    from hypothesis import strategies as st

    from .strategies import examples as examples_of

    config = settings(
        max_examples=math.ceil(examples / batch),
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
        report_multiple_bugs=False,
        print_blob=False,
    )
    rows = st.lists(examples_of(schema, environment), min_size=batch, max_size=batch)

    @hypothesis.seed(seed)
    @config
    @given(rows)
    def search(found: list[Example]) -> None:
        run(found)

    run.clock()
    try:
        search()
    except Exception as error:
        if run.last is None:
            raise
        return run.last[1] if run.last[1] is not None else error
    return None


class _Run:
    """Runs batches through the step, counts them, remembers the last failing one: Hypothesis ends with the minimal."""

    def __init__(
        self, schema: Schema, step: Callable[[Any], Any], collate: Callable[[list[Example]], Any], iterations: int
    ):
        self.schema, self.step, self.collate, self.iterations = schema, step, collate, iterations
        self.examples = self.batches = 0
        self.generating_s = 0.0
        self.last: tuple[list[Example], BaseException] | None = None
        self.found_at: tuple[int, int, float] | None = None
        self._states = [(item, _copied(item.state_dict())) for item in _stateful(step)]
        self._since = 0.0

    def clock(self) -> None:
        """From now on time counts as spent on generating."""
        self._since = time.perf_counter()

    def __call__(self, rows: list[Example]) -> None:
        self.generating_s += time.perf_counter() - self._since
        if self.found_at is None:
            self.examples += len(rows)
            self.batches += 1
        try:
            error = self.attempt(rows)
            if error is not None:
                self.last = rows, error
                self.found_at = self.found_at or (self.examples, self.batches, self.generating_s)
                raise error
        finally:
            self.clock()

    def attempt(self, rows: list[Example]) -> BaseException | None:
        """The error that a batch causes, or None; state is put back afterwards."""
        try:
            for _ in range(self.iterations):
                _check_finite(self.step(self.collate(rows)))
        except Exception as error:
            return error
        finally:
            for item, state in self._states:
                item.load_state_dict(_copied(state))
        return None


def _check_finite(loss: Any) -> None:
    if loss is None:
        return
    finite = bool(loss.isfinite().all()) if hasattr(loss, "isfinite") else math.isfinite(loss)
    if not finite:
        shown = loss.tolist() if hasattr(loss, "tolist") else loss
        raise NonFiniteLoss(f"the loss is {shown}")


def _copied(state: Any) -> Any:
    import copy

    return copy.deepcopy(state)


def _stateful(step: Any) -> list[Any]:
    """Objects with a state that the step can reach: itself, its object, its closure, the globals it names."""
    near = [step, getattr(step, "__self__", None)]
    near += [cell.cell_contents for cell in getattr(step, "__closure__", None) or () if _filled(cell)]
    code = getattr(step, "__code__", None)
    if code is not None:
        near += [step.__globals__[name] for name in code.co_names if name in step.__globals__]
    keeps = [item for item in near if hasattr(item, "state_dict") and hasattr(item, "load_state_dict")]
    return list({id(item): item for item in keeps if not isinstance(item, type)}.values())


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _explain(run: _Run, error: BaseException, schema: Schema) -> FuzzFailure:
    assert run.last is not None
    rows = run.last[0]
    single = next((row for row in _distinct(rows) if run.attempt([row] * len(rows)) is not None), None)
    blamed: list[str] = []
    if single is not None:
        for name in single:
            if any(run.attempt([{**single, name: other}] * len(rows)) is None for other in _simple(schema, name)):
                blamed.append(name)
    words = str(error) if isinstance(error, NonFiniteLoss) else f"{type(error).__name__}: {error}"
    remedies = [_remedy(name, single[name], schema) for name in blamed] if single is not None else []
    remedies.append("or mend the training code, so that it bears what the schema allows")
    return FuzzFailure(words, single, tuple(rows), tuple(blamed), tuple(remedies))


def _distinct(rows: Sequence[Example]) -> list[Example]:
    return list({repr(row): row for row in rows}.values())[::-1]  # the unusual one is seldom the first


def _simple(schema: Schema, name: str) -> list[Any]:
    """Unremarkable values of a feature that the schema allows."""
    from .strategies import feature_values

    feature = schema.features[name]
    domain = schema.resolve(feature.domain)
    if isinstance(domain, StringDomain):
        return list(domain.values[:20])
    found: list[Any] = []
    for candidate in (1, 0.5, 1.0, 2, "a", 0):
        if _allowed(candidate, feature, schema):
            found.append(candidate)
    if not found:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found.append(feature_values(feature, schema, complete=True).example())
    return found


def _allowed(value: Any, feature: Feature, schema: Schema) -> bool:
    domain = schema.resolve(feature.domain)
    scalar = feature.shape in (None, [1]) and feature.nested_values is None
    if not scalar or {int: "int", float: "float", str: "string"}[type(value)] != feature.type:
        return False
    if domain is None:
        return True
    if not isinstance(domain, IntDomain | FloatDomain) or isinstance(value, str):
        return False
    return (domain.min is None or value >= domain.min) and (domain.max is None or value <= domain.max)


def _remedy(name: str, value: Any, schema: Schema) -> str:
    if value is None:
        return f"promise that {name!r} is never missing: [feature.{name}] presence = {{min_fraction = 1.0}}"
    if isinstance(value, float) and math.isnan(value):
        return f"forbid NaN: [feature.{name}] allow_nan = false"
    if isinstance(value, float) and math.isinf(value):
        return f"forbid infinities: [feature.{name}] allow_inf = false"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"narrow the range, so that it leaves out {value!r}: [feature.{name}] range = [low, high]"
    if isinstance(value, str):
        return f"list only strings that the code knows, without {value[:40]!r}: [feature.{name}] domain = [...]"
    return f"narrow what the schema allows for {name!r}, so that it leaves out {value!r}"
