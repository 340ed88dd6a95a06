"""`.pt2` files of graphs: written by a Concrete, read without any of the user's code (spec §2.6)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from drivetrain.base.errors import MissingFile
from drivetrain.base.files import atomic_path

from .. import _torch_compat as compat
from ..capture import Program
from ..errors import CaptureError, NotSerializableError, explain_failure
from ..ir import structural_hash
from .calls import GraphCall, TapeBackward, WhileCall
from .captures import Capture
from .concrete import Concrete
from .escape import PyCall
from .trace import Out

FORMAT = 1
_EXTRA = "drivetrain.json"


def save(concrete: Concrete, path: str | Path) -> Path:
    """Write a graph and its captures, each once.

    Raises:
        NotSerializableError: a node calls Python; names the line.
    """
    target = Path(path)
    _refuse_python(concrete.graph, concrete.name)
    exported = _export(concrete)
    program = Program.from_exported(exported, decompose=False)
    facts = {
        "format": FORMAT,
        "name": concrete.name,
        "arguments": concrete.argument_names,
        "hash": structural_hash(program.module),
        "torch": torch.__version__,
    }
    with atomic_path(target) as temporary, open(temporary, "wb") as sink:
        torch.export.save(exported, sink, extra_files={_EXTRA: json.dumps(facts)})
    return target


def _refuse_python(graph: fx.GraphModule, name: str) -> None:
    for node in graph.graph.nodes:
        runner = node.target
        if isinstance(runner, TapeBackward):
            runner = runner.runner
        if isinstance(runner, PyCall):
            raise NotSerializableError(
                f"graph: {name} calls Python ({runner.__name__}) when it runs, so no file can hold it",
                hint="write that part with torch, or leave it outside the staged function",
                where=str(runner.line) if runner.line is not None else None,
            )
        if isinstance(runner, WhileCall):
            raise NotSerializableError(
                f"graph: {name} loops until a tensor's value says stop, which no file of ours holds",
                hint="write the loop over a Python number, or leave it outside the staged function",
                where=str(runner.line) if runner.line is not None else None,
            )
        if node.op == "call_module":
            inner: Any = graph.get_submodule(str(node.target))
            _refuse_python(inner.module if isinstance(inner, GraphCall) else inner, name)


class _Lifted(nn.Module):
    """A graph with its captures as parameters and buffers."""

    def __init__(self, concrete: Concrete) -> None:
        super().__init__()
        self._graph = [concrete.graph]  # hidden from module traversal: its constants are no state of ours
        self._names: list[str] = []
        for index, capture in enumerate(concrete.captures):
            name = (
                "".join(c if c.isalnum() else "_" for c in capture.name.removeprefix("self.")).strip("_") or "capture"
            )
            name = name if name not in self._names else f"{name}_{index}"
            self._names.append(name)
            tensor = capture.tensor if capture.tensor.is_leaf else capture.tensor.detach()
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(name, tensor)
            else:
                self.register_buffer(name, tensor.detach())

    def forward(self, *leaves: Tensor) -> Any:
        return self._graph[0](*(getattr(self, name) for name in self._names), *leaves)


def _export(concrete: Concrete) -> torch.export.ExportedProgram:
    nodes = [node for node in concrete.graph.graph.nodes if node.op == "placeholder"][len(concrete.captures) :]
    leaves, dynamic = [], []
    for node in nodes:
        fake = node.meta["val"]
        leaves.append(_example(fake))
        free = {dim: torch.export.Dim.DYNAMIC for dim, size in enumerate(fake.shape) if isinstance(size, torch.SymInt)}
        dynamic.append(free or None)
    model = _Wrapped(concrete)
    try:
        with torch.no_grad() if not torch.is_grad_enabled() else torch.enable_grad():
            found = torch.export.export(model, tuple(leaves), dynamic_shapes=(tuple(dynamic),), strict=False)
        return found.run_decompositions()
    except Exception as error:
        raise explain_failure(error, concrete.name) from error


class _Wrapped(_Lifted):
    """The same, returning the function's own structure."""

    def __init__(self, concrete: Concrete) -> None:
        super().__init__(concrete)
        self._outputs, self._spec = concrete.outputs, concrete.out_spec

    def forward(self, *leaves: Tensor) -> Any:
        flat = super().forward(*leaves)
        values = [flat[value.index] if isinstance(value, Out) else value for value in self._outputs]
        return torch.utils._pytree.tree_unflatten(values, self._spec)


def _example(fake: Tensor) -> Tensor:
    with compat.outside_modes():
        sizes = [size if isinstance(size, int) else compat.hint_of(size) for size in fake.shape]
        return torch.zeros(sizes, dtype=fake.dtype, device=fake.device)


def load(path: str | Path) -> Concrete:
    """Read a graph that `Concrete.exported` wrote; runs without the user's modules.

    Raises:
        MissingFile: no such file.
        CaptureError: no .pt2 file of ours, a newer format, or a graph that is not the one that was written.
    """
    source = Path(path)
    if not source.is_file():
        raise MissingFile(f"graph: there is no file {source}", hint="write one: f.concrete(x).exported(path)")
    extra = {_EXTRA: ""}
    try:
        exported = torch.export.load(str(source), extra_files=extra)
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise CaptureError(
            f"graph: {source} is not a .pt2 file that torch {torch.__version__} can read: {first}"
        ) from error
    if not extra[_EXTRA]:
        raise CaptureError(
            f"graph: {source} was not written by drivetrain", hint="Program.load reads any .pt2 file of torch.export"
        )
    facts = json.loads(extra[_EXTRA])
    if facts["format"] > FORMAT:
        raise CaptureError(f"graph: {source} has format {facts['format']}, this drivetrain reads up to {FORMAT}")
    program = Program.from_exported(exported, decompose=False)
    if structural_hash(program.module) != facts["hash"]:
        raise CaptureError(f"graph: {source}: the graph is not the one that was written (its hash differs)")
    return _concrete(program, facts)


def _concrete(program: Program, facts: dict[str, Any]) -> Concrete:
    captures = [
        Capture(name, tensor, "parameter" if isinstance(tensor, nn.Parameter) else "buffer")
        for name, tensor in program.state.items()
    ]
    graph = _with_writes(program)
    count = len(next(node for node in graph.graph.nodes if node.op == "output").args[0])
    outputs: list[Any] = [Out(index) for index in range(count)]
    concrete = Concrete(facts["name"], graph, captures, outputs, program.out_spec, argument_names=facts["arguments"])
    concrete.in_spec = program.in_spec
    return concrete


def _with_writes(program: Program) -> fx.GraphModule:
    """The functional graph with its new state copied back at its end, and only the results returned."""
    graph = program.module.graph
    output = next(node for node in graph.nodes if node.op == "output")
    results: Sequence[Any] = output.args[0]
    states, inputs = program.state_nodes, program.input_nodes
    with graph.inserting_before(output):
        for name, value in zip(program.writes, results, strict=False):
            target = inputs[int(name.removeprefix("input:"))] if name.startswith("input:") else states[name]
            graph.call_function(torch.ops.aten.copy_.default, (target, value))
    output.args = (tuple(results[len(program.writes) :]),)
    program.module.recompile()
    return program.module
