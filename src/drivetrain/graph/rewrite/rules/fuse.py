"""Rules that put work into a convolution or product: batch-norm folding (R1), activations (R2), residual adds (R10).

They take whole sweeps over memory away and cost nothing, so they are applied wherever they fire.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..fused import Conv, activation_of, aten, product
from ..rule import Rule
from ..term import GET, Graph, Node

BATCH_NORM = aten._native_batch_norm_legit_no_training.default


class FoldBatchNorm(Rule):
    """R1: w' = w g / sqrt(v + eps) for each output channel, b' = (b - m) g / sqrt(v + eps) + beta."""

    name, number = "fold-batch-norm", "R1"
    says = "batch_norm(conv(x; w, b)) = conv(x; w s, (b - m) s + beta), s = gamma / sqrt(v + eps)"
    needs = "evaluation mode; the convolution has no other reader and no activation or residual in between"
    always = True
    inference_only = True

    def find(self, graph: Graph, anchor: Node) -> Iterator[dict[Node, Node]]:
        """Anchored at the normalised result."""
        if anchor.op != GET or anchor.args[1] != 0 or anchor.args[0].op is not BATCH_NORM:
            return
        norm: Node = anchor.args[0]
        conv = Conv.of(norm.args[0])
        if conv is None or not conv.bare or graph.only_user(conv.node) is not norm or len(graph.users[norm]) != 1:
            return
        gamma, beta, mean, variance = norm.args[1:5]
        if not all(part is None or part.constant for part in (gamma, beta, mean, variance)):
            return
        call = graph.arena.call
        scale = call(aten.rsqrt.default, call(aten.add.Tensor, variance, norm.args[6]))
        scale = scale if gamma is None else call(aten.mul.Tensor, scale, gamma)
        wide = call(aten.view.default, scale, (conv.w.shape[0],) + (1,) * (len(conv.w.shape) - 1))
        shift = call(aten.neg.default, mean) if conv.b is None else call(aten.sub.Tensor, conv.b, mean)
        shift = call(aten.mul.Tensor, shift, scale)
        shift = shift if beta is None else call(aten.add.Tensor, shift, beta)
        yield {anchor: conv.call(graph.arena, w=call(aten.mul.Tensor, conv.w, wide), b=shift)}


class FuseActivation(Rule):
    """R2: the activation is applied while the product is written out."""

    name, number = "fuse-activation", "R2"
    says = "relu(conv(x)) = conv+relu(x); also sigmoid, tanh, silu, hardswish and clamp, and for matrix products"
    needs = "the product has no other reader and no activation yet"
    always = True

    def find(self, graph: Graph, anchor: Node) -> Iterator[dict[Node, Node]]:
        """Anchored at the activation."""
        found = activation_of(anchor)
        inner = product(found[1]) if found else None
        if found is None or inner is None or inner.activation or graph.only_user(inner.node) is not anchor:
            return
        if anchor.meta.dtype.is_floating_point and inner.node.meta.dtype == anchor.meta.dtype:
            yield {anchor: inner.call(graph.arena, activation=found[0])}


class FuseResidual(Rule):
    """R10: the other addend is added while the product is written out."""

    name, number = "fuse-residual", "R10"
    says = "conv(x) + z = conv+add(x, z)"
    needs = "same shape and dtype, nothing broadcast; the product has no other reader, activation or residual"
    always = True

    def find(self, graph: Graph, anchor: Node) -> Iterator[dict[Node, Node]]:
        """Anchored at the sum."""
        if anchor.op is not aten.add.Tensor or len(anchor.args) != 2 or anchor.kwargs:
            return
        left, right = anchor.args
        if not (isinstance(left, Node) and isinstance(right, Node)) or left is right:
            return
        for value, other in ((right, left), (left, right)):
            inner = product(value)
            if inner is None or not inner.bare or graph.only_user(value) is not anchor:
                continue
            if (other.meta.shape, other.meta.dtype) == (value.meta.shape, value.meta.dtype):
                yield {anchor: inner.call(graph.arena, residual=other)}
                return
