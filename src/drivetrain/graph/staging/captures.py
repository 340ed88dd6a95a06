"""Tensors from outside the function become inputs of its graph, held by reference (spec §2.3).

While Python runs for the trace, a torch-function mode sees every call with a real tensor in it and puts a fake one in
its place, recorded as a new input. So nothing real is ever written to by a trace, later in-place writes are seen by the
graph, and gradients reach what was captured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from .. import _torch_compat as compat
from ..errors import CaptureError, Line, current_line

PLAIN_TENSORS = (Tensor, nn.Parameter, nn.Buffer)


@dataclass(frozen=True)
class Capture:
    """A tensor that a graph reads or writes although nobody passes it.

    Attributes:
        name: where it was found, "self.weight" or "w"; "captureN" when it has no name.
        tensor: the object itself, not a copy.
        kind: "parameter", "buffer" (the graph writes to it), "tensor", or "constant" (made by the function).
    """

    name: str
    tensor: Tensor
    kind: Literal["parameter", "buffer", "tensor", "constant"]


class FunctionalTransform(BaseException):
    """vmap, grad or jvp of torch.func are at work, which a trace above autograd can't see through."""


class CaptureMode(TorchFunctionMode):
    """Replaces real tensors by recorded fake ones in every torch call of a trace."""

    def __init__(self, tracer: compat.RecordingTracer, mode: Any, device: torch.device | None) -> None:
        super().__init__()
        self.tracer, self.mode, self.device = tracer, mode, device
        self.found: list[tuple[Tensor, Tensor]] = []
        self.lines: list[Line | None] = []
        self._known: dict[int, Tensor] = {}
        self.above_autograd = True
        self.readable: set[int] = set()  # ids of tensors declared static: their values are part of the graph

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if args and func in _READS and id(args[0]) in self.readable:
            with compat.outside_modes():
                return func(*args, **(kwargs or {}))
        if func in _REFUSED:
            _refuse(func, args)
        if func in _SETTERS and args and type(args[0]) in PLAIN_TENSORS and not compat.is_wrapped(args[0]):
            raise CaptureError(
                f"graph: a staged function sets .{_SETTERS[func]} of a tensor from outside it, which no graph can do",
                hint="write in place under torch.no_grad(): tensor.copy_(value)",
                where=str(current_line()),
            )
        args, kwargs = pytree.tree_map_only(Tensor, self.replace, (args, kwargs or {}))
        return func(*args, **kwargs)

    def replace(self, value: Tensor) -> Tensor:
        """The fake tensor that stands for a real one; itself if it is fake already."""
        if compat.is_wrapped(value):
            if self.above_autograd:
                raise FunctionalTransform
            return value
        if compat.is_fake(value) and value.fake_mode is self.mode:  # type: ignore[attr-defined]
            return value
        known = self._known.get(id(value))
        if known is not None:
            return known
        if compat.is_fake(value):  # of an outer trace: a branch of torch.cond that reads a variable around it
            return self._record_fake(value)
        if type(value) not in PLAIN_TENSORS:
            raise CaptureError(
                f"graph: a captured tensor is a {type(value).__name__}; plain tensors and parameters are supported",
                where=str(current_line()),
            )
        with torch._C.DisableTorchFunction():
            elsewhere = self.device is not None and value.dim() > 0 and value.device.type != self.device.type
        if elsewhere:
            raise CaptureError(
                f"graph: the arguments are on {self.device}, a tensor captured from outside is on {value.device}",
                hint=f"move it: .to({str(self.device)!r})",
                where=str(current_line()),
            )
        with compat.without_recording(self.mode):
            fake = self.mode.from_tensor(value, static_shapes=True)
        self.record(value, fake)
        return fake

    def _record_fake(self, value: Tensor) -> Tensor:
        with compat.without_recording(self.mode):
            fake = self.mode.from_tensor(compat.stand_in(value), static_shapes=True)
        self.record(value, fake)
        return fake

    def record(self, value: Tensor, fake: Tensor) -> None:
        """Make a new graph input for a captured tensor."""
        graph = self.tracer.graph
        first = next(iter(graph.nodes), None)
        with graph.inserting_before(first) if first is not None else graph.inserting_after(None):
            proxy = self.tracer.create_proxy("placeholder", f"capture{len(self.found)}", (), {})
        compat.track(fake, proxy, self.tracer)
        self._known[id(value)] = fake
        self.found.append((value, fake))
        self.lines.append(current_line())


_SETTERS = {
    Tensor.data.__set__: "data",  # type: ignore[attr-defined]
    Tensor.requires_grad.__set__: "requires_grad",  # type: ignore[attr-defined]
    Tensor.requires_grad_: "requires_grad",
    Tensor.grad.__set__: "grad",  # type: ignore[union-attr]
}
_READS = {Tensor.item, Tensor.tolist, Tensor.__float__, Tensor.__int__, Tensor.__bool__, Tensor.__index__, Tensor.numpy}
_REFUSED = {Tensor.backward, Tensor.numpy, Tensor.__array__, Tensor.data_ptr, Tensor.share_memory_}


def _refuse(func: Callable[..., Any], args: tuple[Any, ...]) -> None:
    name = getattr(func, "__name__", str(func))
    if name == "backward":
        hint = (
            "use torch.autograd.grad(loss, parameters) inside, or call .backward() on what the staged function returns"
        )
    else:
        hint = "compute with torch, or use drivetrain.py_call for what must be numpy"
    what = "writes .grad of what it reaches" if name == "backward" else "needs the tensor's memory"
    raise CaptureError(
        f"graph: .{name}() {what}, which is not known while tracing", hint=hint, where=str(current_line())
    )
