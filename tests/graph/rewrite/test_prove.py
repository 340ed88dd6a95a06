"""Every rule proved for all real values at small shapes (z3); convolution rules over all small attributes, exactly."""

import itertools

import pytest
import torch

from drivetrain.base.errors import InvalidValue
from drivetrain.graph.rewrite import RULES
from drivetrain.graph.rewrite.convert import to_fx
from drivetrain.graph.rewrite.fused import CONV, aten
from drivetrain.graph.rewrite.samples import SAMPLES, Draw, values

from .programs import BY_NAME
from .test_verify import Careless


def small(name, seed):
    """A program in which a rule fires, of at most 40 values; None for another seed."""
    graph = SAMPLES[name](Draw(seed, sizes=(2, 4)))
    return graph if sum(output.meta.numel for output in graph.outputs) <= 40 else None


@pytest.mark.parametrize("name", SAMPLES)
def test_both_sides_are_equal_for_all_values(name):
    pytest.importorskip("z3")
    from drivetrain.graph.rewrite.prove import prove

    proved = 0
    for seed in range(40):
        graph = small(name, seed)
        for change in BY_NAME[name].changes(graph) if graph else ():
            proof = prove(graph, graph.replace(change.new))
            assert proof.ok, f"seed {seed}: {proof.counterexample}"
            proved += proof.values > 0
        if proved == 10:
            break
    assert proved >= 8


def test_a_wrong_rule_has_a_counterexample():
    pytest.importorskip("z3")
    from drivetrain.graph.rewrite.prove import prove

    graph = small("absorb-residual", 3)
    (change,) = Careless().changes(graph)
    proof = prove(graph, graph.replace(change.new))
    assert not proof.ok and "differs for" in proof.counterexample


def test_a_function_that_may_fall_does_not_pass_a_maximum():
    """sigmoid(max(a, b)) = max(sigmoid(a), sigmoid(b)) needs that it never falls; SiLU does."""
    pytest.importorskip("z3")
    from drivetrain.graph.rewrite.prove import prove
    from drivetrain.graph.rewrite.rules.shape import MAX_POOL

    def sides(activation):
        draw = Draw(0)
        x, call = draw.input(1, 1, 1, 2), draw.arena.call

        def pool(value):
            return draw.arena.get(call(MAX_POOL, value, (1, 2), (1, 2)), 0)

        return draw.graph(call(activation, pool(x))), draw.graph(pool(call(activation, x)))

    assert prove(*sides(aten.sigmoid.default)).ok and prove(*sides(aten.sigmoid.default)).solved == 1
    assert not prove(*sides(aten.silu.default)).ok


@pytest.mark.parametrize("name", SAMPLES)
def test_symbols_mean_what_the_operators_compute(name):
    """A proof is worth as much as the symbolic operators: their results at numbers are PyTorch's."""
    z3 = pytest.importorskip("z3")
    from drivetrain.graph.rewrite.prove import _Run

    real = {"rsqrt": torch.rsqrt, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "silu": torch.nn.functional.silu,
        "hardswish": torch.nn.functional.hardswish}  # fmt: skip
    seed = next(seed for seed in range(100) if small(name, seed))
    graph = small(name, seed)
    run = _Run()
    symbols = run.outputs(graph)
    state, inputs = values(graph, 0)
    state, inputs = ({k: (v * 8).round() / 8 for k, v in state.items()}, [(v * 8).round() / 8 for v in inputs])
    named = {**state, **{str(leaf.args[0]): value for leaf, value in zip(graph.inputs, inputs, strict=True)}}
    at = [
        (z3.Real(f"{leaf}{list(index)}"), z3.RealVal(float(value[index])))
        for leaf, value in named.items()
        for index in itertools.product(*map(range, value.shape))
    ]

    def number(expression):
        for function, applied in run.applied.items():  # inner arguments are arithmetic: one level is enough here
            for argument, call in applied.values():
                result = real[function](torch.tensor(number_of(argument), dtype=torch.float64))
                expression = z3.substitute(expression, (call, z3.RealVal(repr(float(result)))))
        return number_of(expression)

    def number_of(expression):
        nested = expression
        for function, applied in run.applied.items():
            for argument, call in applied.values():
                if function == "rsqrt":
                    inner = float(z3.simplify(z3.substitute(argument, at)).as_fraction())
                    nested = z3.substitute(nested, (call, z3.RealVal(repr(inner**-0.5))))
        return float(z3.simplify(z3.substitute(nested, at)).as_fraction())

    for symbol, expected in zip(symbols, to_fx(graph, state)(*inputs), strict=True):
        for index in itertools.product(*map(range, expected.shape)):
            assert number(symbol[index]) == pytest.approx(float(expected[index]), rel=1e-9, abs=1e-12)


def test_what_has_no_symbols_is_refused():
    pytest.importorskip("z3")
    from drivetrain.graph.rewrite.prove import prove

    draw = Draw(0)
    graph = draw.graph(draw.arena.call(aten.sin.default, draw.input(2)))
    with pytest.raises(InvalidValue, match=r"no proof of a program with aten\.sin\.default"):
        prove(graph, graph)


ATTRIBUTES = list(itertools.product((1, 2, 3), (0, 1, 2), (1, 2), (1, 2)))  # kernel, padding, stride, dilation
LENGTH = 6


def lies(kernel, padding, stride, dilation):
    """Whether the window has a place."""
    return dilation * (kernel - 1) < LENGTH + 2 * padding


def integers(graph):
    generator = torch.Generator().manual_seed(0)

    def value(leaf):
        return torch.randint(-4, 5, leaf.meta.shape, generator=generator).double()

    state = {str(node.args[0]): value(node) for node in graph.order if node.op == "state"}
    return state, [value(leaf) for leaf in graph.inputs]


def exactly_equal(graph, change):
    state, inputs = integers(graph)
    one, other = (to_fx(program, state)(*inputs) for program in (graph, graph.replace(change.new)))
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def conv1d(draw, x, out, kernel, padding, stride, dilation, residual=None, groups=1):
    w = draw.weight(out, x.shape[1] // groups, kernel)
    return draw.arena.call(CONV, x, w, None, residual, (stride,), (padding,), (dilation,), groups, "")


def test_siblings_merge_exactly_where_their_windows_agree():
    """All pairs of attributes: siblings merge when all agree, and a kernel is enlarged when its window then does."""
    legal = [attributes for attributes in ATTRIBUTES if lies(*attributes)]
    for first, second in itertools.product(legal, legal):
        draw = Draw(0)
        x = draw.input(1, 2, LENGTH)
        graph = draw.graph(conv1d(draw, x, 1, *first), conv1d(draw, x, 2, *second))
        merges = list(BY_NAME["merge-convs"].changes(graph))
        assert len(merges) == (first == second), (first, second)
        (k1, p1, s1, d1), (k2, p2, s2, d2) = first, second
        same_window = (s1, d1) == (s2, d2) and (k1 - k2) % 2 == 0 and 2 * (p1 - p2) == d1 * (k1 - k2)
        enlarged = list(BY_NAME["enlarge-kernel"].changes(graph))
        assert len(enlarged) == (same_window and k1 != k2), (first, second)
        assert all(exactly_equal(graph, change) for change in (*merges, *enlarged)), (first, second)


def test_residuals_are_absorbed_exactly_where_the_kernel_is_centred():
    fired = 0
    for (kernel, padding, stride, dilation), out in itertools.product(ATTRIBUTES, (1, 2)):
        draw = Draw(0)
        x = draw.input(1, 2, LENGTH)
        size = (LENGTH + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        if (size, out) != (LENGTH, 2):  # another shape can't be added without broadcasting
            continue
        graph = draw.graph(conv1d(draw, x, out, kernel, padding, stride, dilation, residual=x))
        changes = list(BY_NAME["absorb-residual"].changes(graph))
        centred = kernel % 2 == 1 and 2 * padding == dilation * (kernel - 1) and stride == 1
        assert len(changes) == centred and all(exactly_equal(graph, change) for change in changes)
        fired += centred
    assert fired == 4  # 1 and 3 taps, dilation 1 and 2


def test_sums_of_convolutions_are_one_exactly_where_all_agrees():
    legal = [attributes for attributes in ATTRIBUTES if lies(*attributes)]
    for first, second in itertools.product(legal, legal):
        draw = Draw(0)
        x, y = draw.input(1, 2, LENGTH), draw.input(1, 1, LENGTH)
        one, two = conv1d(draw, x, 2, *first), conv1d(draw, y, 2, *second)
        if one.shape != two.shape:
            continue
        graph = draw.graph(conv1d(draw, x, 2, *first, residual=two))
        changes = list(BY_NAME["add-convs"].changes(graph))
        assert len(changes) == (first == second) and all(exactly_equal(graph, change) for change in changes)


def test_groups_merge_exactly():
    for groups, per_in, per_out in itertools.product((1, 2, 3, 4, 6), (1, 2), (1, 2)):
        draw = Draw(0)
        x = draw.input(1, groups * per_in, LENGTH)
        graph = draw.graph(conv1d(draw, x, groups * per_out, 3, 1, 1, 1, groups=groups))
        changes = list(BY_NAME["merge-groups"].changes(graph))
        assert len(changes) == (groups % 2 == 0 and per_in > 1) and all(exactly_equal(graph, c) for c in changes)


def test_every_rule_is_proved():
    assert {rule.name for rule in RULES} == set(SAMPLES)
