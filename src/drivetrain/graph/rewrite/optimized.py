"""A rewritten program as a module that is called as the original is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from drivetrain.base.errors import InvalidValue

from ..lower_onnxruntime import Session
from ..lowering import Runner
from .emit import memory_format_of
from .meta import Meta


class Optimized(nn.Module):
    """Takes and returns what the original did: structure, shapes, dtypes, and how results lie in memory.

    What can be looked up is looked up here: on a network of 20 us the way in and out is a tenth of the time.

    Args:
        runner: flat tensors in, flat outputs out.
        in_spec, out_spec: the original's structure of arguments and results.
        inputs: what each flat input is; another shape or dtype is refused, since a rewrite holds for these.
        channels_last: 4-D arguments are brought into this memory format first.
        given: outputs that are inputs, by position: the caller gets back its own tensor.
    """

    def __init__(
        self, runner: Runner, in_spec: Any, out_spec: Any, inputs: Sequence[Meta], *,
        channels_last: bool = False, given: Mapping[int, int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.runner, self.in_spec, self.out_spec = runner, in_spec, out_spec
        self.inputs, self.given = tuple(inputs), dict(given or {})
        self.results: dict[int, Meta] = {}
        self._kinds = tuple((torch.Size(meta.shape), meta.dtype) for meta in inputs)
        self._images = [i for i, meta in enumerate(inputs) if len(meta.shape) == 4] if channels_last else []
        count, outputs = in_spec.num_leaves, out_spec.num_leaves
        self._plain = count if in_spec == pytree.tree_structure((tuple(range(count)), {})) else -1
        self._single = out_spec == pytree.tree_structure(0)
        self._tuple = out_spec == pytree.tree_structure(tuple(range(outputs)))
        self._find_run()

    def _find_run(self) -> None:
        """What to call, without the ways round; a session refuses other sizes itself."""
        runner = self.runner
        self._checked = () if isinstance(runner, Session) else self._kinds
        self._run: Runner = runner.run if isinstance(runner, Session) else getattr(runner, "forward", runner)

    def lie_as(self, wanted: Sequence[Meta | None], found: Sequence[Meta | None]) -> None:
        """From now on lay results out as the original's; those that lie so already are left alone.

        Args:
            wanted: the original's flat results; None for what is no tensor.
            found: this module's.
        """
        for index, (one, other) in enumerate(zip(wanted, found, strict=True)):
            if one is not None and other is not None and not same_layout(one, other) and is_dense(one):
                self.results[index] = one

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program.

        Raises:
            InvalidValue: other arguments than it was optimised for.
        """
        flat: Sequence[Any] = args
        if kwargs or len(args) != self._plain:
            flat, spec = pytree.tree_flatten((args, kwargs))
            if spec != self.in_spec:
                raise InvalidValue(f"graph: called with the arguments {spec}, optimised for {self.in_spec}")
        if self._checked and not self._suits(flat):
            raise self._refused(flat)
        if self._images:
            flat = list(flat)
            for position in self._images:
                flat[position] = flat[position].contiguous(memory_format=torch.channels_last)
        try:
            results = self._run(*flat)
        except Exception:
            if not self._suits(flat):
                raise self._refused(flat) from None
            raise
        if self.results or self.given:
            results = self._finished(results, args, kwargs)
        if self._single:
            return results[0]
        return tuple(results) if self._tuple else pytree.tree_unflatten(list(results), self.out_spec)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As any module's; what serves its hooks is entered only where there are some."""
        if self._forward_hooks or self._forward_pre_hooks or self._backward_hooks or self._backward_pre_hooks:
            return super().__call__(*args, **kwargs)
        return self.forward(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_run", "_checked")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._find_run()

    def _suits(self, flat: Sequence[Any]) -> bool:
        for x, (shape, dtype) in zip(flat, self._kinds, strict=True):
            if not isinstance(x, Tensor) or x.shape != shape or x.dtype is not dtype:
                return False
        return True

    def _finished(self, results: Sequence[Any], args: Any, kwargs: Any) -> list[Any]:
        results = list(results)
        for index, meta in self.results.items():
            results[index] = laid_out(results[index], meta)
        if self.given:
            leaves = pytree.tree_leaves((args, kwargs))
            for index, position in self.given.items():
                results[index] = leaves[position]
        return results

    def _refused(self, flat: Sequence[Any]) -> InvalidValue:
        found = ", ".join(f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__ for x in flat)
        wanted = ", ".join(f"{dtype} {list(shape)}" for shape, dtype in self._kinds)
        return InvalidValue(
            f"graph: called with {found}; optimised for {wanted}", hint="optimise for each size that is served"
        )


def same_layout(one: Meta, other: Meta) -> bool:
    """Whether two tensors of a shape lie alike; an axis of one element has no stride that anyone could see."""
    axes = zip(one.shape, one.stride, other.stride, strict=True)
    return all(size <= 1 or a == b for size, a, b in axes)


def is_dense(meta: Meta) -> bool:
    """Whether a tensor covers its memory once: not expanded, not a slice of something larger."""
    expected = 1
    for stride, size in sorted(
        (stride, size) for stride, size in zip(meta.stride, meta.shape, strict=True) if size > 1
    ):
        if stride != expected:
            return False
        expected *= size
    return True


def laid_out(x: Tensor, meta: Meta) -> Tensor:
    """A tensor with these strides; the same one where it lies so already."""
    form = memory_format_of(meta)
    if form is not None:
        return x.contiguous(memory_format=form)
    if x.stride() == meta.stride:
        return x
    return torch.empty_strided(meta.shape, meta.stride, dtype=x.dtype, device=x.device).copy_(x)
