"""Proofs that both sides of a rule are equal for all real values, at given small shapes, by z3.

A program is run on tensors of symbols. Both sides of each output are brought to sums of monomials, which settles what
is polynomial; comparisons (ReLU, maxima) and what is left go to the solver. Activations that are no arithmetic are
functions of which only is known that equal arguments give equal values, and that sigmoid and tanh never fall.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from drivetrain.base.errors import InvalidValue
from drivetrain.base.extras import require

from .fused import CONV, MATMUL, aten
from .rules.fuse import BATCH_NORM
from .rules.shape import MAX_POOL
from .term import GET, INPUT, STATE, Graph, Node, name_of

RISING = ("sigmoid", "tanh")
Symbols = Any  # numpy array of z3 expressions


@dataclass(frozen=True)
class Proof:
    """What came of it.

    Attributes:
        ok: every value of every output is proved equal.
        values: how many there are.
        solved: how many needed the solver; the others are equal as polynomials.
        counterexample: where they differ, or what could not be decided; "" if nothing.
    """

    ok: bool
    values: int
    solved: int
    counterexample: str = ""


def prove(graph: Graph, other: Graph, *, timeout_s: float = 10.0) -> Proof:
    """Prove that two programs over the same leaves compute the same.

    Args:
        graph, other: small programs: a conv of 100 values takes about a second.
        timeout_s: of the solver for one value.

    Raises:
        InvalidValue: an operator that has no symbolic form here.
        MissingExtra: z3-solver is not installed.
    """
    run = _Run()
    solved = values = 0
    for number, (one, two) in enumerate(zip(run.outputs(graph), run.outputs(other), strict=True)):
        if one.shape != two.shape:
            return Proof(False, values, solved, f"output {number}: shapes {one.shape} and {two.shape}")
        for index in np.ndindex(one.shape):
            values += 1
            difference = run.normal(one[index] - two[index])
            if run.z3.is_rational_value(difference) and difference.as_fraction() == 0:
                continue
            solved += 1
            found = run.refute(difference, timeout_s)
            if found:
                return Proof(False, values, solved, f"output {number}{list(index)}: {found}")
    return Proof(True, values, solved)


class _Run:
    """Symbols of leaves, and the operators over arrays of them."""

    def __init__(self) -> None:
        self.z3 = require("z3", extra="test")
        self.zero, self.applied = self.z3.RealVal(0), dict[str, dict[Any, Any]]()
        self.operators = _operators(self)

    def outputs(self, graph: Graph) -> list[Symbols]:
        """What a program returns on symbols."""
        known: dict[Node, Any] = {}
        for node in graph.order:
            known[node] = self._value(node, known)
        return [known[output] for output in graph.outputs]

    def _value(self, node: Node, known: dict[Node, Any]) -> Any:
        if node.op in (INPUT, STATE):
            name = str(node.args[0])
            made = np.empty(node.shape, dtype=object)
            for index in np.ndindex(*node.shape):
                made[index] = self.z3.Real(f"{name}{list(index)}")
            return made
        if node.op == GET:
            return known[node.args[0]][node.args[1]]
        if node.op not in self.operators:
            raise InvalidValue(f"graph: no proof of a program with {name_of(node.op)}: it has no symbolic form")
        args = [_taken(value, known) for value in node.args]
        kwargs = {key: _taken(value, known) for key, value in node.kwargs}
        return self.operators[node.op](node, *args, **kwargs)

    def normal(self, value: Any) -> Any:
        """As a sum of monomials."""
        return self.z3.simplify(value, som=True, som_blowup=10_000, sort_sums=True)

    def number(self, value: float) -> Any:
        """A constant of a program as the fraction that was meant."""
        meant = Fraction(value).limit_denominator(10**6)
        return self.z3.Q(meant.numerator, meant.denominator)

    def refute(self, difference: Any, timeout_s: float) -> str:
        """Values for which a difference is not zero; "" where there are none."""
        solver = self.z3.Solver()
        solver.set("timeout", int(1000 * timeout_s))
        for name in RISING:
            pairs = itertools.permutations(self.applied.get(name, {}).values(), 2)
            solver.add(*(self.z3.Implies(a <= b, fa <= fb) for (a, fa), (b, fb) in pairs))
        solver.add(difference != 0)
        answer = solver.check()
        if answer == self.z3.unsat:
            return ""
        return f"differs for {solver.model()}"[:300] if answer == self.z3.sat else "not decided in time"

    def activate(self, values: Symbols, name: str) -> Symbols:
        """An activation by name, value by value."""
        if name == "":
            return values
        return _map(lambda value: self._activate_one(value, name), values)

    def _activate_one(self, value: Any, name: str) -> Any:
        value, z3 = self.normal(value), self.z3
        if name == "relu":
            return z3.If(value > 0, value, self.zero)
        if name.startswith("clamp:"):
            low, high = (self.number(float(bound)) for bound in name.split(":")[1:])
            return z3.If(value < low, low, z3.If(value > high, high, value))
        return self.function(name, value)

    def function(self, name: str, value: Any) -> Any:
        """A function of which nothing is known but that it is one."""
        known = self.applied.setdefault(name, {})
        key = value.sexpr()
        if key not in known:
            known[key] = value, self.z3.Function(name, self.z3.RealSort(), self.z3.RealSort())(value)
        return known[key][1]

    def conv(
        self, shape: tuple[int, ...], x: Symbols, w: Symbols, b: Any, residual: Any,
        stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int, activation: str,
    ) -> Symbols:  # fmt: skip
        """A convolution by its definition."""
        made = np.empty(shape, dtype=object)
        per, width = w.shape[0] // groups, w.shape[1]
        for index in np.ndindex(*shape):
            n, o, *at = index
            first = o // per * width
            terms = [
                x[(n, first + i, *where)] * w[(o, i, *tap)]
                for tap, where in _window(at, w.shape[2:], stride, padding, dilation, x.shape[2:])
                for i in range(width)
            ]
            total = sum(terms, self.zero if b is None else b[o])
            made[index] = total if residual is None else total + residual[index]
        return self.activate(made, activation)

    def pool(self, x: Symbols, kernel: Any, stride: Any, padding: Any, dilation: Any, shape: Any) -> Iterator[Any]:
        """(index, the values in its window) of a pooling over the last two axes."""
        kernel, padding, dilation = _two(kernel), _two(padding), _two(dilation)
        stride = _two(stride) if stride else kernel
        for index in np.ndindex(*shape):
            *outer, row, column = index
            places = _window((row, column), kernel, stride, padding, dilation, x.shape[-2:])
            yield index, [x[(*outer, *where)] for _, where in places]


def _operators(run: _Run) -> dict[Any, Callable[..., Any]]:
    z3 = run.z3

    def scalar(value: Any) -> Any:
        return value if isinstance(value, np.ndarray) else run.number(value)

    def matmul(node: Node, x: Symbols, w: Symbols, b: Any, residual: Any, activation: str) -> Symbols:
        total = np.dot(x, w) if b is None else np.dot(x, w) + b
        return run.activate(total if residual is None else total + residual, activation)

    def batch_norm(
        node: Node, x: Symbols, gamma: Any, beta: Any, mean: Symbols, variance: Symbols, momentum: float, eps: float
    ) -> Any:  # fmt: skip
        wide = (1, -1) + (1,) * (x.ndim - 2)
        scale = _map(lambda v: run.function("rsqrt", run.normal(v + run.number(eps))), variance)
        y = (x - mean.reshape(wide)) * scale.reshape(wide)
        y = y if gamma is None else y * gamma.reshape(wide)
        return (y if beta is None else y + beta.reshape(wide),)

    def max_pool(node: Node, x: Any, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil: Any = 0):  # type: ignore[no-untyped-def]
        made = np.empty(node.meta[0].shape, dtype=object)
        for index, values in run.pool(x, kernel, stride, padding, dilation, made.shape):
            best = values[0]
            for value in values[1:]:
                best = z3.If(best >= value, best, value)
            made[index] = best
        return (made,)

    def avg_pool(node: Node, x: Any, kernel: Any, stride: Any = (), padding: Any = 0, ceil: Any = 0, *rest: Any):  # type: ignore[no-untyped-def]
        made, count = np.empty(node.shape, dtype=object), _two(kernel)[0] * _two(kernel)[1]
        for index, values in run.pool(x, kernel, stride, padding, 1, made.shape):
            made[index] = sum(values, run.zero) / run.number(count)
        return made

    def padded(node: Node, x: Symbols, pads: Sequence[int], value: float = 0.0) -> Symbols:
        pairs = [(pads[i], pads[i + 1]) for i in range(0, len(pads), 2)]
        widths = [(0, 0)] * (x.ndim - len(pairs)) + pairs[::-1]
        return np.pad(x, widths, constant_values=run.number(value))

    def part(node: Node, x: Symbols, axis: int = 0, begin: Any = None, end: Any = None, step: int = 1) -> Symbols:
        return x[(slice(None),) * (axis % x.ndim) + (slice(begin, end, step),)]

    def filled(shape: Sequence[int], value: float) -> Symbols:
        made = np.empty(tuple(shape), dtype=object)
        made.fill(run.number(value))
        return made

    def identity(node: Node, size: int, **_: Any) -> Symbols:
        return _map(lambda value: run.number(float(value)), np.eye(size))

    table: dict[Any, Callable[..., Any]] = {
        CONV: lambda node, *args: run.conv(node.shape, *args),
        MATMUL: matmul,
        BATCH_NORM: batch_norm,
        MAX_POOL: max_pool,
        aten.avg_pool2d.default: avg_pool,
        aten.add.Tensor: lambda node, a, b: a + scalar(b),
        aten.sub.Tensor: lambda node, a, b: a - scalar(b),
        aten.mul.Tensor: lambda node, a, b: a * scalar(b),
        aten.rsub.Scalar: lambda node, a, b: -a + scalar(b),
        aten.neg.default: lambda node, a: -a,
        aten.rsqrt.default: lambda node, a: _map(lambda v: run.function("rsqrt", run.normal(v)), a),
        aten.cat.default: lambda node, parts, axis=0: np.concatenate(parts, axis),
        aten.slice.Tensor: part,
        aten.select.int: lambda node, x, axis, at: np.take(x, at, axis),
        aten.permute.default: lambda node, x, axes: np.transpose(x, axes),
        aten.reshape.default: lambda node, x, shape: x.reshape(node.shape),
        aten.view.default: lambda node, x, shape: x.reshape(node.shape),
        aten.constant_pad_nd.default: padded,
        aten.eye.default: identity,
        aten.new_zeros.default: lambda node, like, shape, **_: filled(shape, 0.0),
        aten.full.default: lambda node, shape, value, **_: filled(shape, value),
        aten.repeat.default: lambda node, x, times: np.tile(x, times),
        aten.clamp.default: lambda node, x, low, high: run.activate(x, f"clamp:{low}:{high}"),
        aten.hardtanh.default: lambda node, x, low=-1.0, high=1.0: run.activate(x, f"clamp:{low}:{high}"),
    }
    for name in ("relu", "sigmoid", "tanh", "silu", "hardswish"):
        table[getattr(aten, name).default] = lambda node, x, name=name: run.activate(x, name)
    return table


def _window(
    at: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int],
    size: Sequence[int],
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:  # fmt: skip
    """(tap, place in the input) of a window, without those on padding."""
    for tap in np.ndindex(*kernel):
        axes = zip(at, tap, stride, padding, dilation, strict=True)
        where = tuple(a * s - p + t * d for a, t, s, p, d in axes)
        if all(0 <= place < extent for place, extent in zip(where, size, strict=True)):
            yield tap, where


def _two(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return (value[0], value[0]) if len(value) == 1 else (value[0], value[1])


def _map(function: Callable[[Any], Any], values: Symbols) -> Symbols:
    made = np.empty(values.shape, dtype=object)
    for index in np.ndindex(values.shape):
        made[index] = function(values[index])
    return made


def _taken(value: Any, known: dict[Node, Any]) -> Any:
    if isinstance(value, Node):
        return known[value]
    return [_taken(item, known) for item in value] if isinstance(value, tuple) else value
