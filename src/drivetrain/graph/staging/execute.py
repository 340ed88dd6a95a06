"""The fast executor: a graph as one straight Python function over torch's own bindings.

`torch.ops.aten.add.Tensor(a, b)` takes about twice as long to reach the kernel as `torch.add(a, b)`, so operators are
called by their Python binding where it has the very schema of the operator. Captures and constants are names of the
generated function, a value is dropped after its last use, and the result is built in its final structure.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from .calls import GraphCall
from .trace import Out

# Operators whose Python binding has the operator's own arguments; others are called through torch.ops.
_BOUND = {
    "abs", "acos", "add", "addmm", "addmv", "addr", "all", "amax", "amin", "any", "argmax", "argmin", "asin",
    "atan", "atan2", "baddbmm", "batch_norm", "bernoulli", "bmm", "cat", "ceil", "chunk", "clamp", "clamp_max",
    "clamp_min", "clone", "conv1d", "conv2d", "conv3d", "convolution", "cos", "cosh", "cumprod", "cumsum",
    "detach", "diag", "dist", "div", "dot", "dropout", "einsum", "embedding", "empty_like", "eq", "erf", "exp",
    "exp2", "expm1", "fill", "flatten", "flip", "floor", "floor_divide", "fmod", "frac", "full_like", "gather",
    "ge", "gelu", "gru", "gt", "index_add", "index_select", "isfinite", "isinf", "isnan", "layer_norm", "le",
    "lerp", "linear", "log", "log10", "log1p", "log2", "log_softmax", "logical_and", "logical_not",
    "logical_or", "logsumexp", "lstm", "lt", "masked_fill", "matmul", "max_pool2d", "maximum", "mean",
    "minimum", "mish", "mm", "mul", "mv", "narrow", "ne", "neg", "norm", "ones", "ones_like", "outer",
    "permute", "pow", "prod", "rand_like", "randn_like", "reciprocal", "relu", "relu_", "remainder",
    "repeat_interleave", "reshape", "roll", "rsqrt", "rsub", "scatter", "scatter_add", "select", "sgn",
    "sigmoid", "sign", "silu", "sin", "sinh", "softmax", "softplus", "sqrt", "square", "squeeze", "stack",
    "std", "sub", "sum", "t", "tan", "tanh", "transpose", "tril", "triu", "trunc", "unbind", "unflatten",
    "unsqueeze", "var", "where", "zeros", "zeros_like", "add_", "copy_", "div_", "mul_", "sub_", "zero_",
    "fill_", "expand", "view", "contiguous", "adaptive_avg_pool2d", "avg_pool2d", "elu", "hardtanh",
    "leaky_relu",
}  # fmt: skip
_SAFE_OVERLOADS = {
    "default", "Tensor", "Scalar", "dim", "dim_IntList", "int", "Tensor_Scalar", "Tensor_Tensor", "self", "input",
    "using_ints", "tensors", "correction", "Tensor_mode", "dims",
}  # fmt: skip


@functools.cache
def binding(op: torch._ops.OpOverload) -> Callable[..., Any]:
    """The quickest callable that is the same as an operator."""
    name, overload = op._schema.name.removeprefix("aten::"), op._overloadname
    if op.namespace != "aten" or name not in _BOUND or overload not in _SAFE_OVERLOADS:
        return op
    for home in (torch._C._VariableFunctions, torch._C._nn, torch._C.TensorBase):
        found: Callable[..., Any] | None = getattr(home, name, None)
        if found is not None:
            return found
    return op


def executor(
    graph: fx.GraphModule, captures: Sequence[Tensor], outputs: Sequence[Any], out_spec: Any
) -> Callable[..., Any]:
    """Make the function of a graph.

    Args:
        graph: placeholders are the captures, then the inputs; returns a flat tuple.
        captures: bound into the function.
        outputs, out_spec: the structure of the result; out_spec None returns the flat tuple.

    Returns:
        a function of the inputs alone.
    """
    return _Writer(graph, captures).write(outputs, out_spec)


def flat_executor(graph: fx.GraphModule) -> Callable[..., tuple[Any, ...]]:
    """The function of a graph with all its placeholders as arguments, returning the flat tuple."""
    return executor(graph, (), (), None)


class _Writer:
    def __init__(self, graph: fx.GraphModule, captures: Sequence[Tensor]) -> None:
        self.graph, self.captures = graph, list(captures)
        self.space: dict[str, Any] = {}
        self.names: dict[fx.Node, str] = {}
        self.lines: list[str] = []
        self.switches = False

    def write(self, outputs: Sequence[Any], out_spec: Any) -> Callable[..., Any]:
        nodes = list(self.graph.graph.nodes)
        last = self._last_uses(nodes)
        inputs: list[str] = []
        for node in nodes:
            if node.op == "placeholder":
                if len(self.names) < len(self.captures):
                    self.names[node] = self.bind(self.captures[len(self.names)])
                else:
                    self.names[node] = f"x{len(inputs)}"
                    inputs.append(self.names[node])
            elif node.op == "output":
                self._return(node.args[0], outputs, out_spec)
            else:
                self._call(node)
                unused = [self.names[n] for n in last.get(node, ()) if self.names[n][0] == "t"]
                if unused:
                    self.lines.append(f"del {', '.join(unused)}")
        if self.switches:
            self._restore_on_error()
        body = "\n    ".join(self.lines)
        source = f"def run({', '.join(inputs)}):\n    {body}\n"
        exec(compile(source, "<staged graph>", "exec"), self.space)
        run: Callable[..., Any] = self.space["run"]
        run.__source__ = source  # type: ignore[attr-defined]
        return run

    def _last_uses(self, nodes: Sequence[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
        last: dict[fx.Node, fx.Node] = {}
        for node in nodes:
            if node.op == "output":
                for used in node.all_input_nodes:
                    last.pop(used, None)
                continue
            for used in node.all_input_nodes:
                last[used] = node
            if node.op != "placeholder":
                last[node] = node  # not used at all: dropped where it is made
        found: dict[fx.Node, list[fx.Node]] = {}
        for used, user in last.items():
            found.setdefault(user, []).append(used)
        return found

    def _call(self, node: fx.Node) -> None:
        if node.op == "get_attr":
            self.names[node] = self.bind(_attribute(self.graph, str(node.target)))
            return
        name = self.names[node] = f"t{len(self.names)}"
        args = [self.text(value) for value in node.args]
        args += [f"{key}={self.text(value)}" for key, value in node.kwargs.items()]
        if node.op == "call_module":
            runner = _attribute(self.graph, str(node.target))
            inner = runner.module if isinstance(runner, GraphCall) else runner
            self.lines.append(f"{name} = {self.bind(flat_executor(inner))}({', '.join(args)})")
        elif node.target is operator.getitem:
            self.lines.append(f"{name} = {args[0]}[{args[1]}]")
        elif node.target is torch.ops.aten.sym_size.int:
            self.lines.append(f"{name} = {args[0]}.shape[{args[1]}]")
        else:
            target: Any = node.target
            self.switches |= is_switch(node)
            call = binding(target) if isinstance(target, torch._ops.OpOverload) else target
            self.lines.append(f"{name} = {self.bind(call)}({', '.join(args)})")

    def _return(self, results: Any, outputs: Sequence[Any], out_spec: Any) -> None:
        flat = [self.text(value) for value in results]
        if out_spec is None:
            self.lines.append(f"return ({''.join(value + ', ' for value in flat)})")
            return
        leaves = iter(flat[value.index] if isinstance(value, Out) else self.text(value) for value in outputs)
        self.lines.append(f"return {self._structure(out_spec, leaves)}")

    def _structure(self, spec: Any, leaves: Any) -> str:
        if spec.is_leaf():
            return str(next(leaves))
        inside = [self._structure(child, leaves) for child in spec.children()]
        if spec.type is tuple:
            return f"({''.join(item + ', ' for item in inside)})"
        if spec.type is list:
            return f"[{', '.join(inside)}]"
        if spec.type is dict:
            return "{" + ", ".join(f"{self.text(k)}: {v}" for k, v in zip(spec.context, inside, strict=True)) + "}"
        unflatten = pytree.SUPPORTED_NODES[spec.type].unflatten_fn
        return f"{self.bind(unflatten)}([{', '.join(inside)}], {self.bind(spec.context)})"

    def _restore_on_error(self) -> None:
        """A graph that switches modes leaves them as they were, also when an operator raises."""
        self.space |= {"save_modes": save_modes, "restore_modes": restore_modes}
        inner = [f"    {line}" for line in self.lines]
        self.lines = [
            "modes = save_modes()",
            "try:",
            *inner,
            "except BaseException:",
            "    restore_modes(modes)",
            "    raise",
        ]

    def text(self, value: Any) -> str:
        """A value as it stands in the source."""
        if isinstance(value, fx.Node):
            return self.names[value]
        if isinstance(value, tuple | list):
            inside = "".join(self.text(item) + ", " for item in value)
            return f"({inside})" if isinstance(value, tuple) else f"[{inside}]"
        if value is None or isinstance(value, bool | str) or type(value) is int:
            return repr(value)
        if type(value) is float and math.isfinite(value):
            return repr(value)
        return self.bind(value)

    def bind(self, value: Any) -> str:
        """A name of the function's own for an object."""
        name = f"k{len(self.space)}"
        self.space[name] = value
        return name


def is_switch(node: fx.Node) -> bool:
    """Whether a node turns a mode on or off: gradients, autocast."""
    return getattr(node.target, "__name__", "") in ("_set_grad_enabled", "_enter_autocast", "_exit_autocast")


def save_modes() -> tuple[Any, ...]:
    """Grad mode and autocast as they are."""
    kinds = ("cpu", "cuda")
    return torch.is_grad_enabled(), [(k, torch.is_autocast_enabled(k), torch.get_autocast_dtype(k)) for k in kinds]


def restore_modes(modes: tuple[Any, ...]) -> None:
    """Grad mode and autocast as they were."""
    torch._C._set_grad_enabled(modes[0])
    for kind, enabled, dtype in modes[1]:
        torch.set_autocast_enabled(kind, enabled)
        torch.set_autocast_dtype(kind, dtype)


def _attribute(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name)
    return module
