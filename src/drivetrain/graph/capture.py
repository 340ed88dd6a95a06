"""The first door: a model or function becomes a `Program`, the form that passes take and return.

    program = capture(model.eval(), (x,))      # core ATen, batch norm kept as one operator
    program = rewrite(program)                 # any function from Program to Program
    program(x)                                 # runs like the model
    program.save("model.pt2")                  # torch.export's own file

Shapes: S state tensors, then I flat inputs, are the placeholders of the graph, in this order.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from drivetrain.base.errors import InvalidValue, MissingFile
from drivetrain.base.files import atomic_path

from . import _exported
from .errors import CaptureError, explain_failure


@dataclass
class Program:
    """A functional graph with named state.

    Attributes:
        module: placeholders are the state, in the order of `state`, then the flat inputs; returns a flat tuple: the
            new values of `writes` first, then the flat outputs.
        state: parameters, buffers and constants by name; a pass that folds weights adds and removes entries here.
        in_spec: pytree of (args, kwargs).
        out_spec: pytree of the result.
        example_inputs: flat inputs that it was captured with.
        writes: state entries (or "input:K") whose new values are the leading outputs, copied back after each call.
        range_constraints: sizes that may vary, symbol -> range, as torch.export wrote them.
    """

    module: fx.GraphModule
    state: dict[str, Tensor]
    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec
    example_inputs: tuple[Any, ...]
    writes: tuple[str, ...] = ()
    range_constraints: dict[Any, Any] = field(default_factory=dict)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it as the captured model was called."""
        leaves, spec = pytree.tree_flatten((args, kwargs))
        if spec != self.in_spec:
            raise InvalidValue(
                f"graph: the program was captured for arguments {_show_spec(self.in_spec)}, called with "
                f"{_show_spec(spec)}",
                hint="same structure, other tensors; capture again for another structure",
            )
        out = self.module(*self.state.values(), *leaves)
        for name, value in zip(self.writes, out, strict=False):
            target = leaves[int(name.removeprefix("input:"))] if name.startswith("input:") else self.state[name]
            with torch.no_grad():
                target.copy_(value)
        return pytree.tree_unflatten(out[len(self.writes) :], self.out_spec)

    @property
    def state_nodes(self) -> dict[str, fx.Node]:
        """The placeholder of each state entry."""
        return dict(zip(self.state, self._placeholders, strict=False))

    @property
    def input_nodes(self) -> list[fx.Node]:
        """The placeholders of the flat inputs."""
        return self._placeholders[len(self.state) :]

    @property
    def _placeholders(self) -> list[fx.Node]:
        return [node for node in self.module.graph.nodes if node.op == "placeholder"]

    @property
    def example_call(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The example inputs as (args, kwargs)."""
        args, kwargs = pytree.tree_unflatten(list(self.example_inputs), self.in_spec)
        return args, kwargs

    def with_module(self, module: fx.GraphModule, state: Mapping[str, Tensor] | None = None) -> Program:
        """This program with another graph (and other state), checked to fit together.

        Raises:
            CaptureError: the graph has not one placeholder for each state entry and input.
        """
        made = dataclasses.replace(self, module=module, state=dict(self.state if state is None else state))
        wanted = len(made.state) + len(self.example_inputs)
        if len(made._placeholders) != wanted:
            raise CaptureError(
                f"graph: a pass returned a graph with {len(made._placeholders)} inputs where {len(made.state)} state "
                f"entries and {len(self.example_inputs)} inputs make {wanted}"
            )
        return made

    def as_module(self) -> nn.Module:
        """An nn.Module with the state as its parameters and buffers, that runs the graph."""
        return self.to_exported().module(check_guards=False)

    def to_exported(self) -> torch.export.ExportedProgram:
        """The program as torch.export's, for whatever reads that."""
        return _exported.build(self)

    @staticmethod
    def from_exported(exported: torch.export.ExportedProgram, decompose: bool = True) -> Program:
        """Take over an ExportedProgram; `decompose` lowers it to core ATen first."""
        return Program(**_exported.take_apart(exported.run_decompositions() if decompose else exported))

    def save(self, path: str | Path) -> Path:
        """Write torch.export's .pt2 file, beside and renamed into place."""
        target = Path(path)
        with atomic_path(target) as temporary:
            # torch.export.save looks at the suffix; the temporary name has another.
            with open(temporary, "wb") as sink:
                torch.export.save(self.to_exported(), sink)
        return target

    @staticmethod
    def load(path: str | Path) -> Program:
        """Read a .pt2 file, written by us or by torch.export.

        Raises:
            MissingFile, CaptureError: no such file; not a .pt2 file.
        """
        source = Path(path)
        if not source.is_file():
            raise MissingFile(f"graph: there is no file {source}", hint="write one: program.save(path)")
        try:
            exported = torch.export.load(str(source))
        except Exception as error:
            raise CaptureError(
                f"graph: {source} is not a .pt2 file that torch {torch.__version__} can read: "
                f"{str(error).splitlines()[0] if str(error) else type(error).__name__}"
            ) from error
        return Program.from_exported(exported, decompose=False)


def capture(
    target: nn.Module | Callable[..., Any] | torch.export.ExportedProgram,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    decompose: bool = True,
) -> Program:
    """Capture a whole model or function through torch.export; nothing is left out silently.

    Args:
        target: a module (its mode, train or eval, is kept), a function of tensors, or an ExportedProgram.
        args, kwargs: example arguments, tensors in any pytree.
        dynamic_shapes: sizes that may vary, as torch.export takes them (torch.export.Dim, Dim.DYNAMIC).
        decompose: lower to core ATen, with batch norm and convolution kept as one operator each.

    Raises:
        CaptureError: names the operation, the source line, and what to do.
        ControlFlowError: a Python branch on a tensor's values.
    """
    if isinstance(target, torch.export.ExportedProgram):
        return Program.from_exported(target, decompose)
    name = type(target).__name__ if isinstance(target, nn.Module) else getattr(target, "__name__", repr(target))
    if not callable(target):
        raise InvalidValue(f"graph: capture needs a module or a function, found {type(target).__name__}")
    model = target if isinstance(target, nn.Module) else _FunctionModule(target)
    if not isinstance(args, tuple):
        raise InvalidValue(
            f"graph: the example arguments of {name} must be a tuple, found {type(args).__name__}",
            hint="capture(model, (x,)) for one argument",
        )
    _check_call(target, name, args, dict(kwargs or {}))
    try:
        exported = torch.export.export(model, args, dict(kwargs or {}), dynamic_shapes=dynamic_shapes, strict=False)
        return Program.from_exported(exported, decompose)
    except Exception as error:
        raise explain_failure(error, name) from error


class _FunctionModule(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        from ._torch_compat import keep_lines_of

        self._function = function
        keep_lines_of(function)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)


def _check_call(target: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    function = target.forward if isinstance(target, nn.Module) else target
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError as error:
        raise CaptureError(
            f"graph: the example arguments do not fit {name}{inspect.signature(function)}: {error}",
            hint="capture(model, args_tuple, kwargs_dict)",
        ) from error
    except ValueError:
        return  # builtins have no signature to check


def _show_spec(spec: pytree.TreeSpec) -> str:
    return str(pytree.tree_unflatten(["*"] * spec.num_leaves, spec))
