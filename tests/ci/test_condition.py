"""The condition language: what parses, what it means, and where an error points."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivetrain.ci import Clause, Condition, ConditionError, parse_condition

decimals = st.integers(1, 10**6).map(lambda k: k / 10**4)


@st.composite
def clauses(draw):
    names = draw(st.lists(st.sampled_from("nod"), min_size=1, unique=True))
    signs = st.sampled_from([1, -1])
    coef = {name: draw(signs) * draw(decimals) for name in names}
    part = draw(st.sampled_from([None, "night", "EU west"]))
    return Clause(coef, draw(st.sampled_from("<>")), draw(signs) * draw(decimals), draw(decimals), part)


@given(st.lists(clauses(), min_size=1, max_size=4))
def test_text_round_trips(found):
    condition = Condition(tuple(found))
    assert parse_condition(str(condition)) == condition


@pytest.mark.parametrize(
    "text",
    [
        "d < 0.1 +/- 0.01 /\\ n - o > 0.02 +/- 0.01",
        "d<.1±.01 and n-o>0.02+-1e-2",
        "  d < 0.1 ± 0.01 &&   n-o > 0.02 +/- 0.01  ",
        "d < 0.1 +/- 0.01 ∧ 1*n - o*1 > 0.02 +/- 0.01",
        "0.1 + d < 0.2 +/- 0.01 /\\ n - o - 0.01 > 0.01 +/- 0.01",
        "d < 0.1 +/- 0.01\n/\\ n - o > 0.02 +/- 0.01",
    ],
)
def test_ways_to_write_it(text):
    assert parse_condition(text) == Condition(
        (Clause({"d": 1.0}, "<", 0.1, 0.01), Clause({"n": 1.0, "o": -1.0}, ">", 0.02, 0.01))
    )


def test_terms_of_one_variable_add_up_and_slices_are_named():
    (clause,) = parse_condition("n[night] + 0.5*n[night] > -0.2 +/- 0.1").clauses
    assert clause == Clause({"n": 1.5}, ">", -0.2, 0.1, "night")
    assert parse_condition("n - o > 0 +/- 0.1").clauses[0].paired
    assert not parse_condition("n - 1.1*o > 0 +/- 0.1").clauses[0].paired


@pytest.mark.parametrize(
    ("text", "column", "what"),
    [
        ("n * o > 0.1 +/- 0.01", 3, "linear in n, o, d"),
        ("n / o > 0.1 +/- 0.01", 3, "linear in n, o, d"),
        ("2*n*o > 0.1 +/- 0.01", 4, "linear in n, o, d"),
        ("n > o + 0.1 +/- 0.01", 5, "variables stand on the left"),
        ("n >= 0.1 +/- 0.01", 3, "no comparison"),
        ("n > 0.9", 8, "the tolerance"),
        ("n > 0.9 +/- 0", 13, "must be > 0"),
        ("n > 0.9 +/- -0.1", 13, "must be > 0, found -0.1"),
        ("x > 0.9 +/- 0.1", 1, "unknown variable 'x'"),
        ("n > 0.9 +/- 0.1 or d < 0.1 +/- 0.1", 17, "only be joined by"),
        ("n > 0.9 +/- 0.1 d < 0.1 +/- 0.1", 17, "expected /\\ or the end"),
        ("n - n > 0.9 +/- 0.1", 1, "cancel out"),
        ("0.5 > 0.9 +/- 0.1", 1, "no variable"),
        ("n[a] - o[b] > 0.9 +/- 0.1", 8, "one slice"),
        ("n[ ] > 0.9 +/- 0.1", 2, "empty slice name"),
        ("n > 90% +/- 1%", 7, "the tolerance"),
        ("", 1, "expected n, o, d or a number"),
        ("n > 0.9 +/- 0.1 /\\", 19, "expected n, o, d or a number"),
        ("__import__('os')", 1, "unknown variable"),
    ],
)
def test_error_points_at_the_column(text, column, what):
    with pytest.raises(ConditionError) as error:
        parse_condition(text)
    assert f"column {column}:" in str(error.value)
    assert what in str(error.value)
    *_, pointer = [line for line in str(error.value).splitlines() if line.strip() == "^"]
    assert pointer.index("^") == 4 + column - 1


def test_text_only():
    with pytest.raises(ConditionError, match="not float"):
        parse_condition(0.9)


@given(st.text(alphabet="nod0123456789.+-*/<> ±∧[]\\&e", max_size=40))
def test_any_text_is_a_condition_or_a_condition_error(text):
    with contextlib.suppress(ConditionError):
        parse_condition(text)
