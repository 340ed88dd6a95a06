"""Random legal programs in which a rule fires: what rules are checked on, by `graph.verify` and by the tests.

A sampler draws shapes and attributes freely within a rule's conditions (kernels odd and even, strides, paddings,
dilations, groups, biases or none, one or two axes) and returns the program as terms; sizes are small, since the
equations don't depend on them.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .fused import CONV, MATMUL, aten
from .meta import Meta
from .rules.fuse import BATCH_NORM
from .rules.shape import MAX_POOL
from .term import INPUT, STATE, Arena, Graph, Node

ACTIVATIONS = ("", "relu", "sigmoid", "tanh", "silu", "hardswish", "clamp:-0.5:0.75")


@dataclass(frozen=True)
class Geometry:
    """Where a convolution's window stands; one number for each axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    def fits(self, size: Sequence[int]) -> bool:
        """Whether there is at least one position."""
        axes = zip(size, self.kernel, self.padding, self.dilation, strict=True)
        return all(d * (k - 1) < s + 2 * p for s, k, p, d in axes)


class Draw:
    """A program under construction from a seed; equal seeds give equal programs and values.

    Args:
        seed: of shapes, attributes and values.
        dtype: of all tensors.
        sizes: smallest and largest extent of an image.
    """

    def __init__(self, seed: int, dtype: torch.dtype = torch.float64, sizes: tuple[int, int] = (5, 9)) -> None:
        self.sizes = sizes
        self.random, self.arena, self.dtype, self.seed = random.Random(seed), Arena(), dtype, seed
        self.inputs: list[Node] = []
        self._made = 0

    def pick(self, *options: object) -> object:
        """One of some values."""
        return self.random.choice(options)

    def flip(self) -> bool:
        """Yes or no."""
        return self.random.random() < 0.5

    def number(self, low: int, high: int) -> int:
        """Low to high, both included."""
        return self.random.randint(low, high)

    def input(self, *shape: int) -> Node:
        """An input of the program."""
        self.inputs.append(self._leaf(INPUT, "x", shape))
        return self.inputs[-1]

    def weight(self, *shape: int, positive: bool = False) -> Node:
        """A parameter; `positive` for variances."""
        return self._leaf(STATE, "positive" if positive else "w", shape)

    def _leaf(self, kind: str, name: str, shape: Sequence[int]) -> Node:
        self._made += 1
        return self.arena.leaf(kind, f"{name}{self._made}", Meta.of(torch.empty(*shape, dtype=self.dtype)))

    def image(self, channels: int, axes: int | None = None, size: Sequence[int] | None = None) -> Node:
        """An input [N, C, ...] with one or two axes."""
        if size is None:
            size = [self.number(*self.sizes) for _ in range(axes or self.number(1, 2))]
        return self.input(self.number(1, 2), channels, *size)

    def geometry(self, size: Sequence[int], kernel: Sequence[int] | None = None) -> Geometry:
        """A window with at least one position."""
        while True:
            found = Geometry(
                tuple(kernel or [self.number(1, 4) for _ in size]),
                tuple(self.number(1, 3) for _ in size),
                tuple(self.number(0, 3) for _ in size),
                tuple(self.number(1, 2) for _ in size),
            )
            if found.fits(size):
                return found

    def conv(
        self, x: Node, out: int, at: Geometry, *, groups: int = 1, activation: str = "", residual: Node | None = None
    ) -> Node:  # fmt: skip
        """A convolution with new weights, with or without bias."""
        w = self.weight(out, x.shape[1] // groups, *at.kernel)
        b = self.weight(out) if self.flip() else None
        return self.arena.call(CONV, x, w, b, residual, at.stride, at.padding, at.dilation, groups, activation)

    def matmul(self, x: Node, out: int, *, activation: str = "", bias: bool | None = None) -> Node:
        """A product with a new right factor."""
        with_bias = self.flip() if bias is None else bias
        b = self.weight(out) if with_bias else None
        return self.arena.call(MATMUL, x, self.weight(x.shape[1], out), b, None, activation)

    def product(self) -> Node:
        """A bare convolution or matrix product."""
        if self.flip():
            return self.matmul(self.input(self.number(1, 4), self.number(1, 5)), self.number(1, 5))
        groups = self.number(1, 3)
        x = self.image(groups * self.number(1, 2))
        return self.conv(x, groups * self.number(1, 3), self.geometry(x.shape[2:]), groups=groups)

    def activation(self) -> str:
        """One of the activations, or none."""
        return self.random.choice(ACTIVATIONS)

    def cuts(self, size: int, parts: int) -> list[int]:
        """Ascending bounds 0 .. size of as many parts."""
        return [0, *sorted(self.random.sample(range(1, size), parts - 1)), size]

    def graph(self, *outputs: Node) -> Graph:
        """The program."""
        return Graph(self.arena, tuple(self.inputs), outputs)


def values(graph: Graph, seed: int) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Random values: the state by name, and the inputs in order. Names that begin with "positive" are."""
    generator = torch.Generator().manual_seed(seed)

    def value(leaf: Node) -> Tensor:
        made = torch.randn(leaf.meta.shape, generator=generator, dtype=torch.float64)
        return (made.abs() + 0.5 if str(leaf.args[0]).startswith("positive") else made).to(leaf.meta.dtype)

    state = {str(node.args[0]): value(node) for node in graph.order if node.op == STATE}
    return state, [value(leaf) for leaf in graph.inputs]


def _fold_batch_norm(d: Draw) -> Graph:
    groups = d.number(1, 2)
    x = d.image(groups * d.number(1, 3))
    y = d.conv(x, groups * d.number(1, 3), d.geometry(x.shape[2:]), groups=groups)
    channels, affine = y.shape[1], d.flip()
    gamma, beta = (d.weight(channels), d.weight(channels)) if affine else (None, None)
    norm = d.arena.call(
        BATCH_NORM, y, gamma, beta, d.weight(channels), d.weight(channels, positive=True), 0.1, d.pick(1e-5, 1e-3)
    )
    return d.graph(d.arena.get(norm, 0))


def _fuse_activation(d: Draw) -> Graph:
    y, call = d.product(), d.arena.call
    name = d.pick("relu", "sigmoid", "tanh", "silu", "hardswish", "clamp", "hardtanh")
    bounds = {"clamp": (-0.5, 0.75), "hardtanh": d.pick((), (-0.3, 2.0))}.get(str(name), ())
    return d.graph(call(getattr(aten, str(name)).default, y, *bounds))  # type: ignore[misc]


def _fuse_residual(d: Draw) -> Graph:
    y = d.product()
    pair = [y, d.input(*y.shape)]
    d.random.shuffle(pair)
    return d.graph(d.arena.call(aten.add.Tensor, *pair))


def _parts(d: Draw, x: Node, axis: int, bounds: Sequence[int]) -> list[Node]:
    return [d.arena.call(aten.slice.Tensor, x, axis, a, b) for a, b in itertools.pairwise(bounds)]


def _join_slices(d: Draw) -> Graph:
    x = d.input(*(d.number(4, 6) for _ in range(d.number(1, 3))))
    axis = d.number(0, len(x.shape) - 1)
    bounds = d.cuts(x.shape[axis], d.number(2, 4))
    parts = _parts(d, x, axis, bounds[d.number(0, 1) :] if len(bounds) > 3 else bounds)
    if d.flip():
        parts.insert(d.pick(0, len(parts)), d.input(*x.shape))  # type: ignore[arg-type]
    return d.graph(d.arena.call(aten.cat.default, parts, d.pick(axis, axis - len(x.shape))))


def _slice_of_cat(d: Draw) -> Graph:
    shape = [d.number(2, 5) for _ in range(d.number(1, 3))]
    axis = d.number(0, len(shape) - 1)
    if d.flip():
        x = d.input(*(6 if i == axis else size for i, size in enumerate(shape)))
        outer = d.arena.call(aten.slice.Tensor, x, axis, d.number(0, 2), d.number(4, 6))
        return d.graph(d.arena.call(aten.slice.Tensor, outer, axis, d.number(0, 1), d.pick(2, -1)))
    parts = [d.input(*(d.number(1, 4) if i == axis else s for i, s in enumerate(shape))) for _ in range(d.number(2, 4))]
    whole, number = d.arena.call(aten.cat.default, parts, axis), d.number(0, len(parts) - 1)
    begin = sum(part.shape[axis] for part in parts[:number])
    return d.graph(d.arena.call(aten.slice.Tensor, whole, axis, begin, begin + parts[number].shape[axis]))


def _merge_convs(d: Draw) -> Graph:
    x, activation = d.image(d.number(1, 3)), d.activation()
    at = d.geometry(x.shape[2:])
    return d.graph(*(d.conv(x, d.number(1, 4), at, activation=activation) for _ in range(d.number(2, 4))))


def _enlarge_kernel(d: Draw) -> Graph:
    x = d.image(d.number(1, 3))
    size = x.shape[2:]
    while True:
        small = d.geometry(size, [d.number(1, 3) for _ in size])
        extra = [d.number(-1, 2) for _ in size]
        axes = list(zip(small.kernel, small.padding, small.dilation, extra, strict=True))
        kernel, padding = tuple(k + 2 * e for k, _, _, e in axes), tuple(p + n * e for _, p, n, e in axes)
        large = Geometry(kernel, small.stride, padding, small.dilation)
        if any(extra) and min(kernel) > 0 and min(padding) >= 0 and large.fits(size):
            break
    if d.flip():
        return d.graph(d.conv(x, d.number(1, 3), small), d.conv(x, d.number(1, 3), large, activation=d.activation()))
    out, other = d.number(1, 3), d.input(x.shape[0], d.number(1, 3), *size)
    return d.graph(d.conv(x, out, small, residual=d.conv(other, out, large), activation=d.activation()))


def _merge_matmuls(d: Draw) -> Graph:
    x, activation = d.input(d.number(1, 4), d.number(1, 5)), d.activation()
    return d.graph(*(d.matmul(x, d.number(1, 4), activation=activation) for _ in range(d.number(2, 4))))


def _absorb_residual(d: Draw) -> Graph:
    x = d.image(d.number(1, 3))
    kernel = tuple(d.number(0, 2) * 2 + 1 for _ in x.shape[2:])
    dilation = tuple(d.number(1, 3) for _ in kernel)
    padding = tuple(n * (k - 1) // 2 for k, n in zip(kernel, dilation, strict=True))
    at = Geometry(kernel, (1,) * len(kernel), padding, dilation)
    return d.graph(d.conv(x, x.shape[1], at, residual=x, activation=d.activation()))


def _add_convs(d: Draw) -> Graph:
    x = d.image(d.number(1, 3))
    at, y, out = d.geometry(x.shape[2:]), d.input(x.shape[0], d.number(1, 3), *x.shape[2:]), d.number(1, 3)
    return d.graph(d.conv(x, out, at, residual=d.conv(y, out, at), activation=d.activation()))


def _activate_parts(d: Draw) -> Graph:
    y = d.product()
    other = d.input(y.shape[0], d.number(1, 3), *y.shape[2:])
    pair = [y, other]
    d.random.shuffle(pair)
    whole = d.arena.call(aten.cat.default, pair, 1)
    return d.graph(d.arena.call(d.pick(aten.relu.default, aten.silu.default, aten.tanh.default), whole))


def _activate_before_pool(d: Draw) -> Graph:
    x = d.image(d.number(1, 3), axes=2)
    while True:
        kernel = (d.number(1, 3), d.number(1, 3))
        padded = d.flip()
        padding = (d.number(0, kernel[0] // 2), d.number(0, kernel[1] // 2)) if padded else (0, 0)
        dilation = (1, 1) if padded else (d.number(1, 2), d.number(1, 2))
        if Geometry(kernel, (1, 1), padding, dilation).fits(x.shape[2:]):
            break
    pool = d.arena.call(MAX_POOL, x, kernel, d.number(1, 3), padding, dilation, d.flip())
    name = d.pick(aten.relu.default, aten.sigmoid.default, aten.tanh.default)
    return d.graph(d.arena.call(name, d.arena.get(pool, 0)))


def _numbers(d: Draw, count: int) -> list[Node]:
    shape = [d.number(1, 4) for _ in range(d.number(1, 3))]
    return [d.input(*shape) for _ in range(count)]


def _times(d: Draw, a: Node, b: Node) -> Node:
    return d.arena.call(aten.mul.Tensor, *((a, b) if d.flip() else (b, a)))


def _factor_sum(d: Draw) -> Graph:
    f, c, u = _numbers(d, 3)
    return d.graph(d.arena.call(aten.add.Tensor, _times(d, f, c), _times(d, f, u)))


def _interpolate(d: Draw) -> Graph:
    f, c, u = _numbers(d, 3)
    call = d.arena.call
    rest = call(aten.rsub.Scalar, f, 1) if d.flip() else call(aten.rsub.Scalar, f, 1.0)
    addends = [_times(d, f, c), _times(d, rest, u)]
    d.random.shuffle(addends)
    return d.graph(call(aten.add.Tensor, *addends))


def _reassociate(d: Draw) -> Graph:
    a, b, c, e = (d.number(1, 4) for _ in range(4))
    bias, call = d.weight(e) if d.flip() else None, d.arena.call
    x, y, z = d.input(a, b), d.weight(b, c), d.weight(c, e)
    if d.flip():
        return d.graph(call(MATMUL, call(MATMUL, x, y, None, None, ""), z, bias, None, d.activation()))
    return d.graph(call(MATMUL, x, call(MATMUL, y, z, None, None, ""), bias, None, d.activation()))


def _batch_over_time(d: Draw) -> Graph:
    steps, rows, width, out = d.number(2, 4), d.number(1, 3), d.number(1, 4), d.number(1, 4)
    call, w = d.arena.call, d.weight(width, out)
    b, activation = d.weight(out) if d.flip() else None, d.activation()
    if d.flip():
        axis = d.number(0, 1)
        x = d.input(*((steps, rows) if axis == 0 else (rows, steps)), width)
        taken = [call(aten.select.int, x, axis, step) for step in range(steps)]
        if d.flip():
            d.random.shuffle(taken)
    else:
        taken = [d.input(d.number(1, 3), width) for _ in range(steps)]
    return d.graph(*(call(MATMUL, row, w, b, None, activation) for row in taken))


def _merge_groups(d: Draw) -> Graph:
    groups = 2 * d.number(1, 3)
    x = d.image(groups * d.number(2, 3))
    at = d.geometry(x.shape[2:])
    return d.graph(d.conv(x, groups * d.number(1, 2), at, groups=groups, activation=d.activation()))


def _pool(d: Draw, x: Node) -> Node:
    while True:
        kernel = (d.number(1, 3), d.number(1, 3))
        padding = (d.number(0, kernel[0] // 2), d.number(0, kernel[1] // 2))
        if Geometry(kernel, (1, 1), padding, (1, 1)).fits(x.shape[2:]):
            break
    stride = (d.number(1, 3), d.number(1, 3)) if d.flip() else ()
    return d.arena.call(aten.avg_pool2d.default, x, kernel, stride, padding, False, d.flip() or any(padding))


def _pool_into_conv(d: Draw) -> Graph:
    x = d.image(d.number(1, 3), axes=2)
    dilation = (d.number(1, 2), d.number(1, 2))
    at = Geometry((1, 1), (1, 1), (0, 0), dilation)
    return d.graph(d.conv(_pool(d, x), d.number(1, 3), at, activation=d.activation()))


def _pool_as_conv(d: Draw) -> Graph:
    return d.graph(_pool(d, d.image(d.number(1, 3), axes=2)))


SAMPLES: dict[str, Callable[[Draw], Graph]] = {
    "fold-batch-norm": _fold_batch_norm, "fuse-activation": _fuse_activation, "fuse-residual": _fuse_residual,
    "join-slices": _join_slices, "slice-of-cat": _slice_of_cat, "merge-convs": _merge_convs,
    "enlarge-kernel": _enlarge_kernel, "merge-matmuls": _merge_matmuls, "absorb-residual": _absorb_residual,
    "add-convs": _add_convs, "activate-parts": _activate_parts, "activate-before-pool": _activate_before_pool,
    "factor-sum": _factor_sum, "interpolate": _interpolate, "reassociate": _reassociate,
    "batch-over-time": _batch_over_time, "merge-groups": _merge_groups, "pool-into-conv": _pool_into_conv,
    "pool-as-conv": _pool_as_conv,
}  # fmt: skip
