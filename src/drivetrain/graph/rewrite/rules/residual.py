"""Rules about sums of convolutions: a residual absorbed into the kernel (R8), two convolutions as one (R9)."""

from __future__ import annotations

from collections.abc import Iterator

from ..fused import Conv, aten
from ..rule import Rule
from ..term import Graph, Node


class AbsorbResidual(Rule):
    """R8: adding a convolution's own input is one more tap of weight one."""

    name, number = "absorb-residual", "R8"
    says = "conv(x; w) + x = conv(x; w + identity at the centre)"
    needs = "the residual is exactly the input; as many channels out as in, groups 1, stride 1, centred kernel"

    def find(self, graph: Graph, anchor: Node) -> Iterator[dict[Node, Node]]:
        """Anchored at the convolution that carries the residual."""
        conv = Conv.of(anchor)
        if conv is None or conv.residual is not conv.x or conv.groups != 1 or not conv.centred:
            return
        channels = conv.w.shape[0]
        if channels != conv.w.shape[1] or any(step != 1 for step in conv.stride):
            return
        call, axes = graph.arena.call, len(conv.kernel)
        eye = call(aten.eye.default, channels, dtype=conv.w.meta.dtype, device=_device(conv.w))
        eye = call(aten.view.default, eye, (channels, channels) + (1,) * axes)
        pads = [pad for k in reversed(conv.kernel) for pad in ((k - 1) // 2, (k - 1) // 2)]
        tap = call(aten.constant_pad_nd.default, eye, pads, 0.0)
        yield {anchor: conv.call(graph.arena, w=call(aten.add.Tensor, conv.w, tap), residual=None)}


class AddConvolutions(Rule):
    """R9: the sum of two convolutions is one over both inputs' channels."""

    name, number = "add-convs", "R9"
    says = "conv(x; a) + conv(y; b) = conv(cat(x, y); cat(a, b))"
    needs = "same kernel, stride, padding, dilation and size; groups 1; the inner one has no other reader and is bare"

    def find(self, graph: Graph, anchor: Node) -> Iterator[dict[Node, Node]]:
        """Anchored at the convolution whose residual is the other one."""
        first = Conv.of(anchor)
        second = Conv.of(first.residual) if first else None
        if first is None or second is None or not second.bare or graph.only_user(second.node) is not anchor:
            return
        if first.groups != 1 or second.groups != 1 or first.x is second.x:
            return
        for attribute in ("kernel", "stride", "padding", "dilation"):
            if getattr(first, attribute) != getattr(second, attribute):
                return
        if (first.x.shape[0], first.x.shape[2:]) != (second.x.shape[0], second.x.shape[2:]):
            return
        call = graph.arena.call
        biases = [bias for bias in (first.b, second.b) if bias is not None]
        b = call(aten.add.Tensor, *biases) if len(biases) == 2 else (biases[0] if biases else None)
        x = call(aten.cat.default, [first.x, second.x], 1)
        w = call(aten.cat.default, [first.w, second.w], 1)
        yield {anchor: first.call(graph.arena, x=x, w=w, b=b, residual=None)}


def _device(node: Node) -> str:
    return str(node.meta.device)
