"""Between `Program` and torch.export's ExportedProgram: its signature taken apart and put together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import (
    ConstantArgument,
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    SymIntArgument,
    TensorArgument,
)

from .errors import CaptureError
from .ir import copy_graph

if TYPE_CHECKING:
    from .capture import Program


def take_apart(exported: torch.export.ExportedProgram) -> dict[str, Any]:
    """The fields of a Program.

    Raises:
        CaptureError: an input kind that has no place in a Program (tokens of effects, script objects).
    """
    state: dict[str, Tensor] = {}
    user_inputs: list[str] = []
    for spec in exported.graph_signature.input_specs:
        if spec.kind == InputKind.USER_INPUT:
            user_inputs.append(spec.arg.name)
        elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
            name = str(spec.target)
            state[name] = exported.state_dict[name] if name in exported.state_dict else exported.constants[name]
        else:
            raise CaptureError(f"graph: an input of kind {spec.kind.name} ({spec.target}) has no place in a Program")
    writes = []
    for out in exported.graph_signature.output_specs:
        if out.kind == OutputKind.BUFFER_MUTATION or out.kind == OutputKind.PARAMETER_MUTATION:
            writes.append(str(out.target))
        elif out.kind == OutputKind.USER_INPUT_MUTATION:
            writes.append(f"input:{user_inputs.index(str(out.target))}")
    module = fx.GraphModule(_attributes(exported.graph_module), copy_graph(exported.graph))
    module.meta.update(exported.graph_module.meta)
    args, kwargs = exported.example_inputs or ((), {})
    return {
        "module": module,
        "state": state,
        "in_spec": exported.call_spec.in_spec,
        "out_spec": exported.call_spec.out_spec,
        "example_inputs": tuple(torch.utils._pytree.tree_leaves((args, kwargs))),
        "writes": tuple(writes),
        "range_constraints": dict(exported.range_constraints),
    }


def _attributes(module: fx.GraphModule) -> dict[str, Any]:
    """What get_attr and call_module nodes name: branches of torch.cond, and the like."""
    targets = {str(node.target) for node in module.graph.nodes if node.op in ("get_attr", "call_module")}
    found: dict[str, Any] = {}
    for target in targets:
        value: Any = module
        for name in target.split("."):
            value = getattr(value, name)
        found[target] = value
    return found


def build(program: Program) -> torch.export.ExportedProgram:
    """An ExportedProgram with the program's graph and state (constants become buffers)."""
    from torch._export.verifier import Verifier
    from torch.export.exported_program import ModuleCallEntry, ModuleCallSignature

    module = fx.GraphModule(_attributes(program.module), copy_graph(program.module.graph))
    signature = _signature(program, module)
    call = ModuleCallSignature(
        inputs=[], outputs=[], in_spec=program.in_spec, out_spec=program.out_spec, forward_arg_names=None
    )
    return torch.export.ExportedProgram(
        root=module,
        graph=module.graph,
        graph_signature=signature,
        state_dict=dict(program.state),
        range_constraints=program.range_constraints,
        module_call_graph=[ModuleCallEntry(fqn="", signature=call)],
        example_inputs=program.example_call,
        constants={},
        verifiers=[Verifier],
    )


def _signature(program: Program, module: fx.GraphModule) -> ExportGraphSignature:
    nodes = [node for node in module.graph.nodes if node.op == "placeholder"]
    states, users = nodes[: len(program.state)], nodes[len(program.state) :]
    inputs = [
        InputSpec(
            InputKind.PARAMETER if isinstance(value, nn.Parameter) else InputKind.BUFFER,
            TensorArgument(node.name),
            target=name,
            persistent=None if isinstance(value, nn.Parameter) else True,
        )
        for node, (name, value) in zip(states, program.state.items(), strict=True)
    ]
    inputs += [InputSpec(InputKind.USER_INPUT, _argument(node), target=None) for node in users]
    results = list(next(node for node in module.graph.nodes if node.op == "output").args[0])
    outputs = []
    for index, value in enumerate(results):
        kind, target = OutputKind.USER_OUTPUT, None
        if index < len(program.writes):
            name = program.writes[index]
            if name.startswith("input:"):
                kind, target = OutputKind.USER_INPUT_MUTATION, users[int(name.removeprefix("input:"))].name
            else:
                kind, target = OutputKind.BUFFER_MUTATION, name
        outputs.append(OutputSpec(kind, _argument(value), target))
    return ExportGraphSignature(inputs, outputs)


def _argument(value: Any) -> Any:
    if not isinstance(value, fx.Node):
        return ConstantArgument("", value)
    val = value.meta.get("val")
    if isinstance(val, torch.SymInt):
        return SymIntArgument(value.name)
    return TensorArgument(value.name) if isinstance(val, Tensor) else ConstantArgument(value.name, val)
