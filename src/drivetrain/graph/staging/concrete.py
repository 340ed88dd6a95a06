"""A `Concrete`: one graph for one kind of call, with what it captured and how it runs (spec §2.2)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from ..errors import Line, explain_failure
from ..ir import is_impure, source_line
from .calls import Runner
from .captures import Capture
from .effects import SideEffect
from .execute import executor
from .guards import Guards
from .sizes import Sizes
from .trace import LOCK, Trace

__all__ = ["Capture", "Concrete"]


class Concrete:
    """A traced function of a fixed kind of arguments. Made by `Function`, or read by `load`.

    Attributes:
        name: of the function.
        graph: ATen graph; placeholders are the captures, then the tensor leaves of the arguments.
        captures: tensors that nobody passes, by reference.
        key: what calls have in common that run it.
        argument_names: paths of the tensor leaves, "batch['image']".
        out_spec: pytree of the result.
        side_effects: what Python did while tracing and no call repeats.
        seconds: how long the trace (and the compilation) took.
        calls: how often it was run through its Function.
    """

    def __init__(
        self,
        name: str,
        graph: fx.GraphModule,
        captures: Sequence[Capture],
        outputs: Sequence[Any],
        out_spec: Any,
        *,
        argument_names: Sequence[str] = (),
        backend: str = "eager",
        options: dict[str, Any] | None = None,
        grad: str = "auto",
    ) -> None:
        self.name, self.graph, self.captures = name, graph, list(captures)
        self.outputs, self.out_spec = list(outputs), out_spec
        self.argument_names = list(argument_names)
        self.backend, self.options, self.grad = backend, dict(options or {}), grad
        self.key: tuple[Any, ...] = ()
        self.shown_arguments: list[tuple[str, Any]] = []
        self.guards = Guards()
        self.sizes: Sizes | None = None
        self.side_effects: list[SideEffect] = []
        self.seconds = 0.0
        self.calls = 0
        self.in_spec: Any = None
        self._split: Callable[..., list[Tensor]] | None = None
        tensors = [capture.tensor for capture in self.captures]
        self.eager: Callable[..., Any] = executor(graph, tensors, self.outputs, out_spec)
        self.run: Callable[..., Any] = self.eager
        self._graphs: dict[str, fx.GraphModule] = {}

    def compile(self) -> None:
        """Lower the graph by its backend; the eager executor needs nothing more."""
        if self.backend == "eager":
            return
        from .compiled import compiled_run

        start = time.perf_counter()
        try:
            self.run = compiled_run(self, self._graphs)
        except Exception as error:
            raise explain_failure(error, f"{self.name}, compiled by backend {self.backend!r},") from error
        self.seconds += time.perf_counter() - start

    def compile_later(self) -> None:
        """Compile when it is first run: it was traced for another trace, which has a compilation of its own."""

        def run(*leaves: Tensor) -> Any:
            with LOCK:
                self.compile()
            return self.run(*leaves)

        self.run = run if self.backend != "eager" else self.eager

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it; the arguments must be of its kind (checked by shape and dtype where tensors are)."""
        from .arguments import tensor_leaves

        return self.run(*tensor_leaves(self, args, kwargs))

    @property
    def structured_inputs(self) -> list[str]:
        """The tensor leaves in words: "x: float32[2, 3]"."""
        nodes = [node for node in self.graph.graph.nodes if node.op == "placeholder"][len(self.captures) :]
        from ..ir import tensor_meta

        return [f"{name}: {tensor_meta(node)}" for name, node in zip(self.argument_names, nodes, strict=False)]

    @property
    def forward(self) -> fx.GraphModule:
        """The forward graph that gradients are computed with: results, and what the backward needs of them."""
        return self._differentiated()["forward"]

    @property
    def backward(self) -> fx.GraphModule:
        """The backward graph."""
        return self._differentiated()["backward"]

    def _differentiated(self) -> dict[str, fx.GraphModule]:
        if "backward" not in self._graphs:
            from .compiled import split_graphs

            self._graphs.update(split_graphs(self))
        return self._graphs

    @property
    def source_map(self) -> dict[str, Line]:
        """Node name -> the user's line that made it."""
        found = {node.name: source_line(node) for node in self.graph.graph.nodes}
        return {name: line for name, line in found.items() if line is not None}

    @property
    def nodes(self) -> int:
        """Operators in the graph, those of called graphs included."""
        return count_nodes(self.graph)

    @property
    def mutates(self) -> list[str]:
        """Names of the captures and arguments that a call writes to."""
        return [self.placeholder_names[index] for index in written_inputs(self.graph)]

    @property
    def placeholder_names(self) -> list[str]:
        """Names of all inputs of the graph."""
        return [capture.name for capture in self.captures] + self.argument_names

    @property
    def memory_bytes(self) -> int:
        """Bytes of the constants that the graph itself holds; captures belong to the user."""
        return sum(c.tensor.nbytes for c in self.captures if c.kind == "constant")

    def exported(self, path: str | Path) -> Path:
        """Write a .pt2 file that `drivetrain.graph.load` and `torch.export.load` read without the user's code.

        Raises:
            NotSerializableError: the graph calls Python; names the py_call's line.
        """
        from .store import save

        return save(self, path)

    def __repr__(self) -> str:
        inputs = ", ".join(self.structured_inputs)
        return f"<Concrete {self.name}({inputs}): {self.nodes} nodes, {len(self.captures)} captures>"


def finish_graph(made: Trace, ambient_grad: bool) -> fx.GraphModule:
    """Make a trace's graph ready: modes as nodes where they change, nothing that nobody reads."""
    module = made.graph
    graph = module.graph
    for node in list(graph.nodes):
        if node.target is torch._C._set_grad_enabled:
            node.replace_all_uses_with(None)
            graph.erase_node(node)
    graph.eliminate_dead_code(stays)
    current = ambient_grad
    for node in list(graph.nodes):
        wanted = ambient_grad if node.op == "output" else node.meta.get("grad", current)
        passive = node.op in ("placeholder", "get_attr") or getattr(node.target, "__module__", "") == "_operator"
        if passive or wanted == current:
            continue
        with graph.inserting_before(node):
            graph.call_function(torch._C._set_grad_enabled, (wanted,))
        current = wanted
    graph.lint()
    module.recompile()
    return module


def stays(node: fx.Node) -> bool:
    """Whether a node must not be dropped although nobody reads it."""
    if isinstance(node.target, Runner):
        return True
    if node.op == "call_module":
        inner: Any = node.graph.owning_module.get_submodule(str(node.target))  # type: ignore[union-attr]
        return any(stays(called) for called in inner.graph.nodes if called.op[:5] == "call_")
    return is_impure(node)


def count_nodes(module: fx.GraphModule) -> int:
    """Operators of a graph and of the graphs that it calls."""
    total = 0
    for node in module.graph.nodes:
        if node.op == "call_module":
            inner: Any = module.get_submodule(str(node.target))
            total += count_nodes(inner)
        elif node.op == "call_function" and getattr(node.target, "__module__", "") != "_operator":
            total += 1
    return total


def written_inputs(module: fx.GraphModule) -> list[int]:
    """Positions of the placeholders that the graph writes to, also through views."""
    return sorted(owners(module)[1])


_MAYBE_VIEWS = {torch.ops.aten.reshape.default, torch.ops.aten.contiguous.default, torch.ops.aten.flatten.using_ints}


def owners(module: fx.GraphModule) -> tuple[dict[fx.Node, int], set[int]]:
    """Which nodes share memory with which input, and which inputs are written to."""
    owner: dict[fx.Node, int] = {}
    written: set[int] = set()
    inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
    for index, node in enumerate(inputs):
        owner[node] = index
    for node in module.graph.nodes:
        target = node.target
        if not isinstance(target, torch._ops.OpOverload):
            first = node.args[0] if node.args else None
            if getattr(target, "__module__", "") == "_operator" and isinstance(first, fx.Node) and first in owner:
                owner[node] = owner[first]
            continue
        for position, argument in enumerate(target._schema.arguments):
            if argument.alias_info is None:
                continue
            value = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name)
            for used in value if isinstance(value, list | tuple) else [value]:
                if isinstance(used, fx.Node) and used in owner:
                    owner[node] = owner[used]
                    written |= {owner[used]} if argument.alias_info.is_write else set()
        if target in _MAYBE_VIEWS and node.args[0] in owner:
            owner[node] = owner[node.args[0]]
        if target is torch.ops.aten.batch_norm.default and len(node.args) > 5 and node.args[5]:
            # Its schema says nothing of the running statistics that it updates.
            written.update(owner[used] for used in node.args[3:5] if isinstance(used, fx.Node) and used in owner)
    return owner, written
