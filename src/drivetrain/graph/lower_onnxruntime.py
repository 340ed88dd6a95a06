"""Lower an inference graph to onnxruntime (extra: onnxruntime, onnx, onnxscript).

Tensors go in and come out by DLPack, so nothing is copied but what is not contiguous. Images that lie channels last go
in as they lie and are transposed inside: a copy by PyTorch would wake its threads, which then spin on beside the
session's (SqueezeNet on two threads took 20 ms instead of 8).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx

from drivetrain.base.errors import InvalidValue
from drivetrain.base.extras import require

from .errors import explain_failure
from .lowering import Boxed
from .passes import Kind


def lower_onnxruntime(module: fx.GraphModule, example_inputs: Sequence[Any], kind: Kind) -> Boxed:
    """Run an inference graph in an onnxruntime session.

    Raises:
        InvalidValue: a forward or backward graph, or symbolic sizes: a session runs inference of fixed sizes.
        MissingExtra: onnxruntime, onnx or onnxscript is not installed.
        CaptureError: an operator without an ONNX form, by name.
    """
    if kind != "inference":
        raise InvalidValue(
            f"graph: the lowering 'onnxruntime' runs inference, this is a {kind} graph",
            hint="call under torch.no_grad(), or use then='inductor' for training",
        )
    session = Session(export(module, example_inputs))

    def run(values: list[Any]) -> Sequence[Any]:
        taken = tuple(values)
        values.clear()
        return session(*taken)

    return run


def export(module: torch.nn.Module, example_inputs: Sequence[Any]) -> bytes:
    """A module of flat tensors as a serialised ONNX model; its inputs are "input_0", "input_1", ..., or "rows_0", ...

    Args:
        module: runs on flat tensors, returns flat ones.
        example_inputs: real or fake; shapes, dtypes and layouts are taken from them. An image that lies channels last
            is an input "rows_..." of shape [N, H, W, C].

    Raises:
        InvalidValue: an input is no tensor, or has a size that may vary.
        MissingExtra: onnx or onnxscript is not installed.
        CaptureError: an operator without an ONNX form, by name.
    """
    for package in ("onnx", "onnxscript"):
        require(package, extra="graph")
    rows = [_in_rows(value) for value in example_inputs]
    names = [f"{'rows' if in_rows else 'input'}_{position}" for position, in_rows in enumerate(rows)]
    module = _FromRows(module, rows) if any(rows) else module
    try:
        with _quietly(), torch._guards.tracing(None), torch.no_grad():
            examples = tuple(
                _example(value.permute(_TO_ROWS) if in_rows else value)
                for value, in_rows in zip(example_inputs, rows, strict=True)
            )
            exported = torch.export.export(module, examples)
            program = torch.onnx.export(exported, dynamo=True, verbose=False, optimize=True, input_names=names)
    except Exception as error:
        raise explain_failure(error, "the ONNX export") from error
    assert program is not None  # it is None only for the exporter's older interface
    return bytes(program.model_proto.SerializeToString())


class Session:
    """An onnxruntime session as a function: flat tensors in, a list of tensors out.

    Args:
        model: a serialised ONNX model whose inputs are named as by `export`.
        threads: of one call; by default as many as PyTorch has now.

    Attributes:
        run: the function itself, for those to whom a call through the object is too long a way.

    Raises:
        MissingExtra: onnxruntime is not installed.
    """

    def __init__(self, model: bytes, threads: int | None = None) -> None:
        self.model, self.threads = model, threads or torch.get_num_threads()
        runtime = require("onnxruntime", extra="graph")
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.log_severity_level = 3
        self._session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        # What no operator reads may be left out of the model.
        names = [entry.name for entry in self._session.get_inputs()]
        positions = [int(name.partition("_")[2]) for name in names]
        results = [entry.name for entry in self._session.get_outputs()]
        self.run = _by_dlpack(self._session, names, positions, results)

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Run the model."""
        return self.run(*inputs)

    def __reduce__(self) -> tuple[Any, ...]:
        return Session, (self.model, self.threads)


def _by_dlpack(session: Any, names: list[str], positions: list[int], results: list[str]) -> Callable[..., list[Tensor]]:
    """The shortest way through a session: no copies, no names looked up at each call.

    The session's inner object is not public; where another version lacks it, the public way is taken.
    """
    inner: Any = getattr(session, "_sess", None)
    value: Any = getattr(require("onnxruntime.capi._pybind_state", extra="graph"), "OrtValue", None)
    if not hasattr(inner, "run_with_ort_values") or not hasattr(value, "from_dlpack"):
        return _by_numpy(session, names, positions, results)
    run, take = inner.run_with_ort_values, value.from_dlpack
    pack, unpack = torch.utils.dlpack.to_dlpack, torch.utils.dlpack.from_dlpack
    feeds, wanted, count = tuple(zip(names, positions, strict=True)), list(results), range(len(results))

    rows = [position for name, position in feeds if name.startswith("rows")]

    def one(x: Tensor) -> list[Tensor]:
        if rows:
            x = x.permute(_TO_ROWS)
        if x.requires_grad or not x.is_contiguous():
            x = _plain(x)
        return [unpack(run({names[0]: take(pack(x))}, wanted, None)[0].to_dlpack())]

    def call(*inputs: Tensor) -> list[Tensor]:
        if rows:
            inputs = _as_rows(inputs, rows)
        found = run({name: take(pack(_plain(inputs[position]))) for name, position in feeds}, wanted, None)
        return [unpack(found[index].to_dlpack()) for index in count]  # its own iterator takes 40 us to end

    return one if positions == [0] and len(results) == 1 else call


def _by_numpy(session: Any, names: list[str], positions: list[int], results: list[str]) -> Callable[..., list[Tensor]]:
    rows = [position for name, position in zip(names, positions, strict=True) if name.startswith("rows")]

    def call(*inputs: Tensor) -> list[Tensor]:
        inputs = _as_rows(inputs, rows)
        feed = {name: _plain(inputs[at]).numpy() for name, at in zip(names, positions, strict=True)}
        return [torch.from_numpy(value) for value in session.run(results, feed)]

    return call


_TO_ROWS, _FROM_ROWS = (0, 2, 3, 1), (0, 3, 1, 2)


class _FromRows(torch.nn.Module):
    """A module whose images come as [N, H, W, C]."""

    def __init__(self, module: torch.nn.Module, rows: Sequence[bool]) -> None:
        super().__init__()
        self.module, self.rows = module, list(rows)

    def forward(self, *inputs: Tensor) -> Any:
        """As the module."""
        given = [x.permute(_FROM_ROWS) if rows else x for x, rows in zip(inputs, self.rows, strict=True)]
        return self.module(*given)


def _in_rows(value: Any) -> bool:
    if not isinstance(value, Tensor) or value.dim() != 4 or any(isinstance(size, torch.SymInt) for size in value.shape):
        return False
    return value.is_contiguous(memory_format=torch.channels_last) and not value.is_contiguous()


def _as_rows(inputs: Sequence[Tensor], rows: Sequence[int]) -> tuple[Tensor, ...]:
    return tuple(x.permute(_TO_ROWS) if position in rows else x for position, x in enumerate(inputs))


def _plain(x: Tensor) -> Tensor:
    """Contiguous and outside autograd, which is what both ways take."""
    return (x.detach() if x.requires_grad else x).contiguous()


def _example(value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise InvalidValue(f"graph: the lowering 'onnxruntime' takes tensors, found an input {value!r}")
    if any(isinstance(size, torch.SymInt) for size in value.shape):
        raise InvalidValue("graph: the lowering 'onnxruntime' needs fixed sizes", hint="torch.compile(dynamic=False)")
    return torch.zeros(tuple(value.shape), dtype=value.dtype)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the exporter's remarks on every optional package that it lacks."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
