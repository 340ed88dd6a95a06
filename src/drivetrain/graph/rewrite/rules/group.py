"""Rules that trade operations for larger products: groups merged (R14), pooling as convolution (R15)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..fused import CONV, Conv, aten
from ..rule import Rule
from ..term import Graph, Node

AVERAGE_POOL = aten.avg_pool2d.default


class MergeGroups(Rule):
    """R14: half as many groups of twice the width, the filters padded by zeros. More operations, larger products."""

    name, number = "merge-groups", "R14"
    says = "conv(x; w, g groups) = conv(x; block diagonal of w, g / 2 groups)"
    needs = "an even number of groups, 2 or more, of several channels each; finite inputs"

    def find(self, graph: Graph, anchor: Node) -> Iterator[dict[Node, Node]]:
        """Anchored at the grouped convolution."""
        conv = Conv.of(anchor)
        if conv is None or conv.groups < 2 or conv.groups % 2 or conv.w.shape[1] == 1:
            return
        call, width, (out, *_) = graph.arena.call, conv.w.shape[1], conv.w.shape
        per, channel = out // conv.groups, [0, 0] * len(conv.kernel)
        rows = []
        for group in range(conv.groups):
            part = call(aten.slice.Tensor, conv.w, 0, group * per, (group + 1) * per)
            pads = [0, width] if group % 2 == 0 else [width, 0]
            rows.append(call(aten.constant_pad_nd.default, part, channel + pads, 0.0))
        yield {anchor: conv.call(graph.arena, w=call(aten.cat.default, rows, 0), groups=conv.groups // 2)}


class PoolIntoConvolution(Rule):
    """R15: an average over a window, then a 1x1 convolution, is one convolution with the window's kernel."""

    name, number = "pool-into-conv", "R15"
    says = "conv1x1(avg_pool_k(x); w) = conv_kxk(x; w / k^2 at every tap)"
    needs = "the pool has no other reader, counts its padding, no ceil; the convolution is 1x1, stride 1, unpadded"

    def find(self, graph: Graph, anchor: Node) -> Iterator[dict[Node, Node]]:
        """Anchored at the convolution."""
        conv = Conv.of(anchor)
        if conv is None or conv.groups != 1 or conv.kernel != (1, 1) or any(conv.padding):
            return
        if conv.x is conv.residual or graph.only_user(conv.x) is not anchor or any(step != 1 for step in conv.stride):
            return
        window = pooled(conv.x)
        if window is None:
            return
        x, kernel, stride, padding = window
        call = graph.arena.call
        w = call(aten.mul.Tensor, conv.w, 1.0 / (kernel[0] * kernel[1]))
        w = call(aten.repeat.default, w, (1, 1, *kernel))
        where = {"stride": stride, "padding": padding, "dilation": (1, 1)}  # a 1x1 kernel's dilation meant nothing
        yield {anchor: conv.call(graph.arena, x=x, w=w, **where)}


class PoolAsConvolution(Rule):
    """R15: an average over a window is a convolution of each channel with equal taps."""

    name, number = "pool-as-conv", "R15"
    says = "avg_pool_k(x) = depthwise conv(x; 1 / k^2 at every tap)"
    needs = "padding counts into the average, no ceil mode, no other divisor"

    def find(self, graph: Graph, anchor: Node) -> Iterator[dict[Node, Node]]:
        """Anchored at the pool."""
        window = pooled(anchor)
        if window is None:
            return
        x, kernel, stride, padding = window
        channels = x.shape[-3]
        taps = graph.arena.call(
            aten.full.default, (channels, 1, *kernel), 1.0 / (kernel[0] * kernel[1]),
            dtype=x.meta.dtype, device=str(x.meta.device),
        )  # fmt: skip
        yield {anchor: graph.arena.call(CONV, x, taps, None, None, stride, padding, (1, 1), channels, "")}


def pooled(node: Node) -> tuple[Node, Sequence[int], Sequence[int], Sequence[int]] | None:
    """(input, kernel, stride, padding) of an average pool that is a convolution; None for another node."""
    if node.op is not AVERAGE_POOL or len(node.args[0].shape) != 4:
        return None
    kernel, padding = node.args[1], node.option("padding", 3, (0, 0))
    stride = node.option("stride", 2, ()) or kernel
    kernel, stride, padding = (value * 2 if len(value) == 1 else value for value in (kernel, stride, padding))
    counted = node.option("count_include_pad", 5, True) or not any(padding)
    if node.option("ceil_mode", 4, False) or node.option("divisor_override", 6) is not None or not counted:
        return None
    return node.args[0], kernel, stride, padding
