"""The checker: rules on random legal programs, modules on random inputs, and that it finds what is wrong."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from drivetrain.base.errors import InvalidValue
from drivetrain.graph.capture import capture
from drivetrain.graph.rewrite import RULES, Rule
from drivetrain.graph.rewrite.fused import CONV, Conv, aten
from drivetrain.graph.rewrite.rules.group import PoolIntoConvolution
from drivetrain.graph.rewrite.rules.shape import MAX_POOL, ActivateBeforePool
from drivetrain.graph.rewrite.samples import SAMPLES, Draw
from drivetrain.graph.verify import check, compare, verify_rules

from .programs import BY_NAME


@pytest.mark.parametrize("name", SAMPLES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_rule_holds_for_random_legal_attributes(name, seed):
    graph = SAMPLES[name](Draw(seed))
    for change in BY_NAME[name].changes(graph):
        error, where = compare(graph, graph.replace(change.new), seed)
        assert error <= 1e-12, where


def test_every_rule_has_a_sampler_in_which_it_fires():
    found = verify_rules(trials=4)
    assert {rule.name for rule, _, _ in found} == set(SAMPLES) == {rule.name for rule in RULES}
    assert all(trials == 4 and worst < 1e-12 for _, trials, worst in found)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), name=st.sampled_from(sorted(SAMPLES)))
def test_rules_hold_where_they_fire_by_chance(name, seed):
    graph = SAMPLES[name](Draw(seed))
    for rule in RULES:
        for change in rule.changes(graph):
            assert compare(graph, graph.replace(change.new), seed)[0] <= 1e-12, rule.name


class Careless(Rule):
    """The authors' residual rule: it looks at neither the kernel's centre nor the stride."""

    name, number, says, needs = "careless", "R0", "conv(x) + x = conv'(x)", "nothing"

    def find(self, graph, anchor):
        conv = Conv.of(anchor)
        if conv is not None and conv.residual is conv.x:
            yield {anchor: conv.call(graph.arena, residual=None)}


def test_a_wrong_rule_is_found():
    report = check(Careless(), sample=SAMPLES["absorb-residual"])
    assert not report.ok and report.worst > 1e-3 and "NOT the same" in str(report)
    assert not check(Careless()).ok  # among all samplers one is found in which it fires


def test_a_rule_that_never_fires_is_no_checked_rule():
    class Silent(Rule):
        name, number, says, needs = "silent", "R0", "", ""

        def find(self, graph, anchor):
            return iter(())

    with pytest.raises(InvalidValue, match="fired in none of 100"):
        check(Silent())


def test_dilation_of_a_1x1_kernel_is_not_that_of_the_pool():
    """Found by the sampler: the rule kept the 1x1 convolution's dilation for the 2x2 kernel."""
    draw = Draw(0)
    pool = draw.arena.call(aten.avg_pool2d.default, draw.input(1, 2, 6, 6), [2, 2])
    graph = draw.graph(draw.arena.call(CONV, pool, draw.weight(3, 2, 1, 1), None, None, (1, 1), (0, 0), (2, 2), 1, ""))
    (change,) = PoolIntoConvolution().changes(graph)
    assert compare(graph, graph.replace(change.new), 0)[0] < 1e-12


def test_a_pool_that_may_see_padding_alone_keeps_its_place():
    """Kernel 2, dilation 3, padding 1 on two rows: both taps lie outside, relu of minus infinity is 0."""
    draw = Draw(0)
    pool = draw.arena.call(MAX_POOL, draw.input(1, 1, 2, 2), (2, 2), (1, 1), (1, 1), (3, 3))
    graph = draw.graph(draw.arena.call(aten.relu.default, draw.arena.get(pool, 0)))
    assert not list(ActivateBeforePool().changes(graph))


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()


def test_modules_and_programs_are_compared_in_float64_and_left_alone():
    one, x = net(), torch.randn(2, 4)
    report = check(one, capture(one, (x,)), (x,))
    assert report.ok and report.trials == 5 and one[0].weight.dtype == torch.float32
    other = net()
    other[2].bias.data[1] += 1e-6  # invisible in a float32 comparison with a loose bound
    report = check(one, other, (x,))
    assert not report.ok and 1e-9 < report.worst < 1e-4 and "output 0" in report.where


def test_shapes_dtypes_and_numbers_of_outputs_count():
    class Returns(nn.Module):
        def __init__(self, run):
            super().__init__()
            self.run = run

        def forward(self, x):
            return self.run(x)

    x = torch.arange(6)
    same = Returns(lambda x: x)
    for other in (lambda x: (x, x), lambda x: x[None], lambda x: x.int(), lambda x: x + 1, lambda x: 3):
        assert check(same, Returns(other), (x,)).worst == float("inf")
    assert check(same, Returns(lambda x: x + 0), (x,)).worst == 0
    nan = Returns(lambda x: x.double() / 0)
    assert check(nan, nan, (x,)).ok and not check(nan, Returns(lambda x: x.double()), (x,)).ok


def test_bad_input():
    with pytest.raises(InvalidValue, match="1 trial or more, found 0"):
        check(net(), net(), trials=0)
    with pytest.raises(InvalidValue, match="got one"):
        check(net())
