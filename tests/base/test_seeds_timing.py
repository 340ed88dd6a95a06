"""Seeds give independent, repeatable streams; timing runs competitors in turn."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from drivetrain.base.seeds import derive, numpy_generator, torch_generator
from drivetrain.base.timing import Timing, interleave, machine


def test_a_stream_is_fixed_for_good():
    """A changed hash would silently change every published figure."""
    assert derive(0, "split") == 66312514701260397


@given(st.integers(0, 2**31), st.text(), st.text())
def test_streams_differ_by_label_and_by_nesting(seed, a, b):
    assert derive(seed, a) == derive(seed, a)
    if a != b:
        assert derive(seed, a) != derive(seed, b)
    assert derive(seed, a, b) != derive(seed, a + b)
    assert derive(seed, 1) != derive(seed, "1")


def test_generators_repeat():
    assert numpy_generator(3, "x").integers(1 << 40) == numpy_generator(3, "x").integers(1 << 40)
    assert torch.equal(
        torch.rand(4, generator=torch_generator(3, "x")), torch.rand(4, generator=torch_generator(3, "x"))
    )


def test_competitors_run_in_turn_and_back():
    order = []
    timings = interleave({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2, warmup=1)
    assert "".join(order) == "abbaab"
    assert {name: len(timing.samples) for name, timing in timings.items()} == {"a": 2, "b": 2}


def test_a_timing_tells_its_median_spread_and_paired_ratio():
    slow, fast = Timing((2.0, 4.0, 60.0)), Timing((1.0, 2.0, 20.0))
    assert (slow.median, slow.low, slow.high) == (4.0, 2.0, 60.0)
    assert slow.ratio(fast) == 2.0  # of the pairs 2, 2, 3: the slow minute cancels
    assert str(slow) == "4 s (2-60)"
    assert str(Timing((0.1, 0.25))) == "175 ms (100-250)"


def test_the_machine_is_named():
    assert {"processor", "cores", "torch", "date"} <= machine().keys()
