"""Competitors run in turn, and what is short is repeated within a sample."""

import time

import pytest

from drivetrain.base.timing import Timing, interleave


def test_competitors_run_in_turn_forward_and_backward():
    order = []
    found = interleave({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3, warmup=1)
    assert "".join(order) == "ab" + "ba" + "ab" + "ba"
    assert {name: len(timing.samples) for name, timing in found.items()} == {"a": 3, "b": 3}


def test_a_sample_is_many_calls_of_what_is_short_and_tells_the_seconds_of_one():
    calls = {"short": 0, "long": 0}

    def run(name, seconds):
        calls[name] += 1
        time.sleep(seconds)

    work = {"short": lambda: run("short", 0.001), "long": lambda: run("long", 0.05)}
    found = interleave(work, rounds=2, warmup=0, sample_s=0.02)
    assert calls["long"] == 2 + 2  # two that tell its length, then one a round
    assert calls["short"] > 2 + 2
    assert found["short"].low >= 0.001 and found["long"].low >= 0.05


def test_a_competitor_that_settles_runs_uncounted_before_each_sample():
    calls = []
    found = interleave({"a": lambda: calls.append(time.sleep(0.002))}, rounds=3, warmup=0, settle_s=0.002)
    assert 3 * 2 <= len(calls) <= 3 * (1 + 2)  # 4 ms hold at most two
    assert len(found["a"].samples) == 3


def test_a_ratio_is_the_median_of_pairs():
    slow_second = Timing((1.0, 10.0, 1.0))
    assert Timing((2.0, 20.0, 2.0)).ratio(slow_second) == 2.0
    assert Timing((3.0,)).ratio(slow_second) == pytest.approx(3.0)
