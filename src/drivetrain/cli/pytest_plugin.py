"""pytest plugin: a test that holds a model against a condition.

    @pytest.mark.model_gate(condition="n > 0.9 +/- 0.02", reliability=0.999, steps=8)
    def test_model(model_gate):
        model_gate(new=predictions, labels=labels)

The price of every marked plan stands under the collection line, and UNKNOWN is an outcome of its own. Nothing
is planned until a test is marked.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from drivetrain.ci.evaluate import Verdict

PROPERTY = "drivetrain_model_gate"
_PLAN_ARGUMENTS = (
    "reliability", "steps", "adaptivity", "mode", "estimator", "variance_bound", "label_fraction", "score_range",
    "grouped",
)  # fmt: skip
_EVALUATE_ARGUMENTS = ("decide", "slices", "groups", "classes")


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers",
        "model_gate(condition, reliability=0.999, steps=32, ...): terms of the fixture, see drivetrain.ci.plan",
    )


def _terms(item: pytest.Item) -> tuple[str, dict[str, Any]] | None:
    marker = item.get_closest_marker("model_gate")
    if marker is None:
        return None
    terms = dict(marker.kwargs)
    if marker.args:
        terms["condition"] = marker.args[0]
    if "condition" not in terms:
        raise pytest.UsageError(f"{item.nodeid}: model_gate needs condition=")
    unknown = set(terms) - {"condition", *_PLAN_ARGUMENTS, *_EVALUATE_ARGUMENTS}
    if unknown:
        allowed = ", ".join(("condition", *_PLAN_ARGUMENTS, *_EVALUATE_ARGUMENTS))
        raise pytest.UsageError(f"{item.nodeid}: model_gate has no {', '.join(sorted(unknown))}; allowed: {allowed}")
    return terms.pop("condition"), terms


def pytest_report_collectionfinish(items: list[pytest.Item]) -> list[str]:
    """Print the price of each different plan before the tests run."""
    lines: dict[str, None] = {}
    for item in items:
        if item.get_closest_marker("model_gate") is not None and (terms := _terms(item)) is not None:
            from drivetrain.ci.plan import plan

            price = plan(terms[0], **{key: terms[1][key] for key in _PLAN_ARGUMENTS if key in terms[1]})
            lines[f"model gate: {price.condition}: {price.labels:,} labels, {price.unlabelled:,} unlabelled items"] = (
                None
            )
    return list(lines)


@pytest.fixture
def model_gate(request: pytest.FixtureRequest) -> Callable[..., Verdict]:
    """Call it with new=, old=, labels=: returns the Verdict, or fails the test if the model may not pass."""
    terms = _terms(request.node)

    def gate(*, new: Any, old: Any = None, labels: Any = None, condition: str | None = None, **changes: Any) -> Verdict:
        from drivetrain.ci.evaluate import WORDS, evaluate
        from drivetrain.ci.plan import plan

        text, arguments = terms or (None, {})
        text, arguments = condition or text, {**arguments, **changes}
        if text is None:
            raise pytest.UsageError(
                "model_gate: no condition; mark the test with @pytest.mark.model_gate(condition=...)"
            )
        price = plan(text, **{key: value for key, value in arguments.items() if key not in _EVALUATE_ARGUMENTS})
        looking = {key: value for key, value in arguments.items() if key in _EVALUATE_ARGUMENTS}
        verdict = evaluate(text, new, old, labels, plan=price, **looking)
        request.node.user_properties.append((PROPERTY, WORDS[verdict.outcome] if verdict.decided else "UNDECIDED"))
        if not verdict.passed:
            pytest.fail(f"model gate: {verdict}", pytrace=False)
        return verdict

    return gate


@pytest.hookimpl(wrapper=True)
def pytest_report_teststatus(report: Any) -> Generator[None, Any, Any]:
    """Show UNKNOWN as its own outcome; whether the run fails stays as the mode decided."""
    shown = yield
    found = dict(getattr(report, "user_properties", ())).get(PROPERTY)
    if found not in ("UNKNOWN", "UNDECIDED") or report.when != "call":
        return shown
    category, _, _ = shown
    return category, "U", f"{found} ({'accepted' if report.passed else 'rejected'})"
