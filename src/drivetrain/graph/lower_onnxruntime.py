"""Lower an inference graph to onnxruntime (extra: onnxruntime, onnx, onnxscript)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from drivetrain.base.errors import InvalidValue
from drivetrain.base.extras import require

from .errors import explain_failure
from .lowering import Boxed
from .passes import Kind


def lower_onnxruntime(module: fx.GraphModule, example_inputs: Sequence[Any], kind: Kind) -> Boxed:
    """Run an inference graph in an onnxruntime session; inputs and outputs share memory where the layout allows.

    Raises:
        InvalidValue: a forward or backward graph, or symbolic sizes: a session runs inference of fixed sizes.
        MissingExtra: onnxruntime or onnxscript is not installed.
        CaptureError: an operator without an ONNX form, by name.
    """
    if kind != "inference":
        raise InvalidValue(
            f"graph: the lowering 'onnxruntime' runs inference, this is a {kind} graph",
            hint="call under torch.no_grad(), or use then='inductor' for training",
        )
    if any(isinstance(size, torch.SymInt) for value in example_inputs for size in getattr(value, "shape", ())):
        raise InvalidValue("graph: the lowering 'onnxruntime' needs fixed sizes", hint="torch.compile(dynamic=False)")
    onnxruntime = require("onnxruntime", extra="graph")
    require("onnxscript", extra="graph")
    inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
    examples = tuple(_example(node.meta["val"]) for node in inputs)
    try:
        with torch._guards.tracing(None), torch.no_grad():
            program = torch.onnx.export(module, examples, dynamo=True, verbose=False)
    except Exception as error:
        raise explain_failure(error, "the ONNX export") from error
    model = program.model_proto.SerializeToString()  # type: ignore[union-attr]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(model, options, providers=onnxruntime.get_available_providers())
    names = [found.name for found in session.get_inputs()]
    # Inputs that no operator reads are not in the session.
    kept = [index for index, node in enumerate(inputs) if node.users][: len(names)]

    def run(values: list[Any]) -> Sequence[Any]:
        feed = {name: values[index].detach().contiguous().numpy() for name, index in zip(names, kept, strict=True)}
        values.clear()
        return [torch.from_numpy(value) for value in session.run(None, feed)]

    return run


def _example(fake: Any) -> Tensor:
    if not isinstance(fake, Tensor):
        raise InvalidValue(f"graph: the lowering 'onnxruntime' takes tensors, found an input {fake!r}")
    return torch.zeros(tuple(fake.shape), dtype=fake.dtype)
