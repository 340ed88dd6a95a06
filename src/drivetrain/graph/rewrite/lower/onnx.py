"""Lowering to onnxruntime: the program as an ONNX model in a session of its own, tensors passed without copies."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from drivetrain.base.extras import require

from ..convert import to_fx
from ..meta import Meta
from ..term import Graph, Node


class Session(nn.Module):
    """An onnxruntime session as a module: flat tensors in, a tuple of tensors out.

    Args:
        model: a serialised ONNX model.
        outputs: what each result is.
        threads: of one call.
    """

    def __init__(self, model: bytes, outputs: tuple[Meta, ...], threads: int) -> None:
        super().__init__()
        self.model, self.outputs, self.threads = model, outputs, threads
        self._start()

    def _start(self) -> None:
        runtime = require("onnxruntime", extra="graph")
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.log_severity_level = 3
        self._session = runtime.InferenceSession(self.model, options, providers=["CPUExecutionProvider"])
        self._names = [entry.name for entry in self._session.get_inputs()]
        self._results = [entry.name for entry in self._session.get_outputs()]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run the model."""
        feed = {name: x.detach().contiguous().numpy() for name, x in zip(self._names, inputs, strict=True)}
        return tuple(torch.from_numpy(value) for value in self._session.run(self._results, feed))

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_session", "_names", "_results")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()


def available() -> bool:
    """Whether onnxruntime and the exporter's packages are installed."""
    from importlib.util import find_spec

    return all(find_spec(name) is not None for name in ("onnxruntime", "onnx", "onnxscript"))


def lower(graph: Graph, state: Mapping[str, Tensor], threads: int | None = None) -> Session:
    """A session that computes the terms.

    Raises:
        MissingExtra: onnxruntime, onnx or onnxscript is not installed.
        RuntimeError: an operator has no ONNX form (whatever the exporter raises).
    """
    model = serialise(graph, state)
    outputs = tuple(output.meta for output in graph.outputs if isinstance(output, Node))
    return Session(model, outputs, threads or torch.get_num_threads())


def serialise(graph: Graph, state: Mapping[str, Tensor]) -> bytes:
    """The program as an ONNX model."""
    for package in ("onnx", "onnxscript"):
        require(package, extra="graph")
    module = to_fx(graph, state)
    inputs = tuple(leaf.meta.empty("cpu").zero_().contiguous() for leaf in graph.inputs)
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)  # the exporter tells of every optional package that it lacks
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.export.export(module, inputs)
            program = torch.onnx.export(exported, dynamo=True, verbose=False, optimize=True)
    finally:
        log.setLevel(level)
    assert program is not None  # it is None only for the exporter's older interface
    return bytes(program.model_proto.SerializeToString())
