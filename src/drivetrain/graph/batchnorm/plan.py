"""Which batch norms of a model can be restructured, and why the others can't (spec 19, 2.1, 2.3 and 5).

An edge is `producer -> BN -> (+ residual) -> ReLU -> conv`. The match is made on a torch.fx trace of the modules, so
names are those of the model; a node that fits no pattern stays as it is.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import torch
import torch.nn.functional as F
from torch import fx, nn

from drivetrain.base.errors import InvalidValue

_RELUS = (F.relu, torch.relu)
_ADDS = (operator.add, torch.add, operator.iadd)


@dataclass(frozen=True)
class Edge:
    """One batch norm and what surrounds it.

    Attributes:
        bn: the module's name.
        source: what makes its input: the node's name in the trace.
        residual: the node that is added before the ReLU; None without one.
        act: the ReLU's node; None where the BN's output goes elsewhere.
        conv: the convolution that alone reads the ReLU; None where something else does.
        applied: whether it is restructured.
        reason: why not, or what is done.
        feature_bytes: of the BN's input; 0 where no example was given.
        sweeps_before, sweeps_after: over that input in a training step by the traffic model (section 2.4); 0 for a BN
            that has no convolution behind its ReLU.
    """

    bn: str
    source: str
    residual: str | None
    act: str | None
    conv: str | None
    applied: bool
    reason: str
    feature_bytes: int = 0
    sweeps_before: int = 0
    sweeps_after: int = 0


@dataclass
class BNPlan(Sequence[Edge]):
    """What was decided for a model's batch norms: a sequence of edges.

    Attributes:
        edges: one for each batch norm, in order.
        level: how far edges are fused; "off" where the model runs as it was.
        layout: "given", or "channels_last" where inputs are brought into that layout.
        seconds: of a training step in each form that was timed; empty before that, and where nothing was.
        decided: False until the first training step of a model that was patched without an example.
    """

    edges: list[Edge]
    level: str
    layout: str = "given"
    seconds: dict[str, float] = field(default_factory=dict)
    decided: bool = True

    @overload
    def __getitem__(self, index: int) -> Edge: ...
    @overload
    def __getitem__(self, index: slice) -> list[Edge]: ...
    def __getitem__(self, index: int | slice) -> Edge | list[Edge]:
        return self.edges[index]

    def __len__(self) -> int:
        return len(self.edges)

    def __iter__(self) -> Iterator[Edge]:
        return iter(self.edges)

    def report(self) -> str:
        """The verdict, the forms that were timed, and a line for each kind of edge."""
        applied = sum(edge.applied for edge in self.edges)
        lines = [f"{applied} of {len(self.edges)} batch norms restructured, level {self.level}, layout {self.layout}"]
        if not self.decided:
            lines = [f"{len(self.edges)} batch norms; the first training step decides by measurement"]
        lines += [f"  {name}: {1e3 * seconds:.1f} ms a step" for name, seconds in self.seconds.items()]
        kinds: dict[str, list[Edge]] = {}
        for edge in self.edges:
            kinds.setdefault(edge.reason, []).append(edge)
        for reason, edges in kinds.items():
            size = sum(edge.feature_bytes for edge in edges)
            lines.append(f"  {len(edges)} x {reason}" + (f" ({size / 1e6:.1f} MB of inputs)" if size else ""))
        return "\n".join(lines)


@dataclass(frozen=True)
class Match:
    """An edge with its nodes in the trace."""

    edge: Edge
    bn: fx.Node
    last: fx.Node
    conv: fx.Node | None
    residual: fx.Node | None


def trace(model: nn.Module) -> fx.GraphModule:
    """The model's graph of modules and functions; the modules are the model's own.

    Raises:
        InvalidValue: the forward branches on tensors, which no trace can follow.
    """
    try:
        traced = fx.symbolic_trace(model)
    except Exception as error:
        raise InvalidValue(
            f"graph: the forward of {type(model).__name__} can't be traced: {str(error).splitlines()[0]}",
            hint='torch.compile(model, backend="drivetrain", options={"bn": "auto"}) takes it in pieces',
        ) from error
    modules = dict(traced.named_modules())
    for node in traced.graph.nodes:  # a shortcut that is nn.Identity is the tensor itself
        module = modules[str(node.target)] if node.op == "call_module" else None
        if type(module) is nn.Identity and len(node.args) == 1 and not _hooked(module):
            node.replace_all_uses_with(node.args[0])
            traced.graph.erase_node(node)
    return traced


def match(traced: fx.GraphModule) -> list[Match]:
    """Every batch norm of a trace, in order, with what can be done."""
    modules = dict(traced.named_modules())
    found: list[Match] = []
    taken: set[fx.Node] = set()
    for node in traced.graph.nodes:
        if node.op != "call_module" or not isinstance(modules[str(node.target)], nn.modules.batchnorm._BatchNorm):
            continue
        made = _match_one(node, modules)
        if made.last in taken:  # both operands of a sum are batch norms: one of them takes the sum along
            made = _result(node, "the sum is taken by the other BN: normalise in one sweep")
        taken.add(made.last)
        found.append(made)
    return found


def virtual_concats(traced: fx.GraphModule, matches: list[Match]) -> set[fx.Node]:
    """Concatenations along the channels that some restructured BN reads, directly or through another one."""
    wanted = {match.bn.args[0] for match in matches if match.edge.applied}
    found: set[fx.Node] = set()
    for node in reversed(traced.graph.nodes):
        if node in wanted and is_concat(node):
            found.add(node)
            wanted.update(concat_parts(node))
    return found


def sums_made_again(traced: fx.GraphModule, matches: list[Match]) -> dict[fx.Node, bool]:
    """Sums (their ReLU) that nobody needs to keep: convolutions and other sums alone read them, and what was added to
    them is kept anyway. True where another sum adds it: that must not keep it either (its mask must be bits)."""
    modules = dict(traced.named_modules())
    added_to = {match.last.args[0]: match for match in matches if match.residual is not None and match.edge.applied}
    found: dict[fx.Node, bool] = {}
    for match in added_to.values():
        residual, readers = match.residual, match.last.users
        assert residual is not None
        kept = residual not in found and any(_keeps(user, modules) for user in residual.users)
        convs = [user for user in readers if plain_conv(user, modules) is not None]
        sums = [user for user in readers if user in added_to and added_to[user].residual is match.last]
        if kept and convs and len(convs) + len(sums) == len(readers):
            found[match.last] = bool(sums)
    return found


def _keeps(reader: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether a module keeps its input for the backward; ours do as the model's own."""
    return reader.op == "call_module" and isinstance(
        modules[str(reader.target)], nn.Conv2d | nn.modules.batchnorm._BatchNorm
    )


def is_concat(node: Any) -> bool:
    """Whether a node is torch.cat(list of nodes, dim=1)."""
    if not isinstance(node, fx.Node) or node.op != "call_function" or node.target not in (torch.cat, torch.concat):
        return False
    parts = node.args[0] if node.args else node.kwargs.get("tensors")
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    return dim in (1, -3) and isinstance(parts, list | tuple) and all(isinstance(part, fx.Node) for part in parts)


def concat_parts(node: fx.Node) -> list[fx.Node]:
    """The operands of a concatenation."""
    return list(node.args[0] if node.args else node.kwargs["tensors"])  # type: ignore[arg-type]


def _match_one(bn: fx.Node, modules: dict[str, nn.Module]) -> Match:
    module = modules[str(bn.target)]
    if type(module) not in (nn.BatchNorm2d, nn.SyncBatchNorm):
        return _result(bn, f"{type(module).__name__} is not nn.BatchNorm2d", applied=False)
    if _hooked(module):
        return _result(bn, "the BN has hooks", applied=False)
    if len(bn.users) != 1:
        return _result(bn, f"the BN's output is read {len(bn.users)} times: normalise in one sweep")
    (user,) = bn.users
    residual: Any = None
    before = bn
    if _is_add(user, bn):
        residual = next((arg for arg in user.args if arg is not bn), None)
        if len(user.users) != 1 or not isinstance(residual, fx.Node):
            return _result(bn, "the sum behind the BN is read several times: normalise in one sweep")
        before, (user,) = user, user.users
    if not _is_relu(user, before, modules):
        return _result(bn, f"no ReLU behind the BN but {user.name}: normalise in one sweep")
    if residual is not None:
        return _result(bn, "normalise, add and ReLU in one sweep", residual=residual, act=user)
    conv = _sole_conv(user, modules)
    what = "normalise and ReLU in one sweep" if conv is None else "normalise and ReLU in the convolution's read-in"
    return _result(bn, what, act=user, conv=conv)


def _result(
    bn: fx.Node, reason: str, *, applied: bool = True, residual: fx.Node | None = None, act: fx.Node | None = None,
    conv: fx.Node | None = None,
) -> Match:  # fmt: skip
    source = bn.args[0] if bn.args else next(iter(bn.kwargs.values()))
    assert isinstance(source, fx.Node)
    added, activation = (None if node is None else node.name for node in (residual, act))
    edge = Edge(
        str(bn.target), source.name, added, activation, None if conv is None else str(conv.target), applied, reason
    )
    return Match(edge, bn, act or bn, conv, residual)


def _is_add(node: fx.Node, bn: fx.Node) -> bool:
    if node.op != "call_function" or node.target not in _ADDS or len(node.args) != 2 or node.kwargs:
        return False
    if node.args[0] is node.args[1]:
        return False
    # `residual += bn(x)` changes the residual, which others may read.
    return node.target is not operator.iadd or node.args[0] is bn


def _is_relu(node: fx.Node, operand: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if not node.args or node.args[0] is not operand:
        return False
    if node.op == "call_module":
        module = modules[str(node.target)]
        return type(module) is nn.ReLU and not _hooked(module)
    if node.op == "call_method":
        return node.target in ("relu", "relu_")
    return node.op == "call_function" and node.target in _RELUS


def _sole_conv(act: fx.Node, modules: dict[str, nn.Module]) -> fx.Node | None:
    if len(act.users) != 1:
        return None
    (user,) = act.users
    return user if plain_conv(user, modules) is not None else None


def plain_conv(node: fx.Node, modules: dict[str, nn.Module]) -> nn.Conv2d | None:
    """The module of a node that is a convolution of one tensor, with zeros around it and without hooks."""
    if node.op != "call_module" or len(node.args) != 1 or node.kwargs:
        return None
    module = modules[str(node.target)]
    if type(module) is not nn.Conv2d or module.padding_mode != "zeros" or isinstance(module.padding, str):
        return None
    return None if _hooked(module) else module


def is_product(node: Any, traced: fx.GraphModule) -> bool:
    """Whether a node is a convolution that is a matrix product: 1x1, stride 1, no padding, groups or bias."""
    if not isinstance(node, fx.Node) or node.op != "call_module" or len(node.args) != 1:
        return False
    module = traced.get_submodule(str(node.target))
    if type(module) is not nn.Conv2d or module.bias is not None or _hooked(module):
        return False
    return (module.kernel_size, module.stride, module.padding, module.groups) == ((1, 1), (1, 1), (0, 0), 1)


def _hooked(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )
