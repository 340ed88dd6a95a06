"""`Spec`: the declared shape and dtype of an argument, with named or free sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from drivetrain.base.errors import unknown_name

from ..errors import SpecError

_SHORT = {
    "f16": torch.float16, "f32": torch.float32, "f64": torch.float64, "bf16": torch.bfloat16, "i8": torch.int8,
    "i16": torch.int16, "i32": torch.int32, "i64": torch.int64, "u8": torch.uint8, "bool": torch.bool,
    "c64": torch.complex64, "c128": torch.complex128,
}  # fmt: skip
_DIM = re.compile(r"(?P<name>[A-Za-z_]\w*)(?::(?P<low>\d+)\.\.(?P<high>\d+))?")


@dataclass(frozen=True)
class Dim:
    """One size: fixed, or named with a range; the same name is the same size everywhere in a call."""

    fixed: int | None = None
    name: str | None = None
    low: int = 0
    high: int | None = None

    def __str__(self) -> str:
        if self.fixed is not None:
            return str(self.fixed)
        bounds = f":{self.low}..{self.high}" if self.high is not None else ""
        return f"{self.name or '*'}{bounds}"


@dataclass(frozen=True)
class Spec:
    """What a tensor argument must be.

    Args:
        shape: a number is a fixed size, None a free one, a string a named one, with a range if wanted: "B:1..64".
        dtype: of the elements.
        device: where it must be; None takes any.

    Raises:
        SpecError: a size that is none of these.
    """

    shape: tuple[int | str | None, ...]
    dtype: torch.dtype = torch.float32
    device: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.shape, str) or not all(isinstance(s, int | str | type(None)) for s in self.shape):
            raise SpecError(f"graph: a Spec's shape is a tuple of numbers, names and None, found {self.shape!r}")
        object.__setattr__(self, "shape", tuple(self.shape))
        for dim in self.dims:
            if dim.fixed is not None and dim.fixed < 0:
                raise SpecError(f"graph: a size can't be negative, found {dim.fixed} in {self.shape!r}")

    @property
    def dims(self) -> tuple[Dim, ...]:
        """The sizes, taken apart."""
        return tuple(_dim(size, self.shape) for size in self.shape)

    @staticmethod
    def parse(text: str) -> Spec:
        """Read "B:1..64,3,224,224:f32" as the command line has it; sizes, then ":" and the dtype.

        Raises:
            SpecError: not of this form. InvalidValue: a dtype nobody knows.
        """
        sizes, _, dtype = text.rpartition(":")
        if not sizes and dtype in _SHORT:
            return Spec((), _SHORT[dtype])
        if not sizes or ".." in dtype:
            raise SpecError(f"graph: {text!r} is no Spec", hint='sizes, then the dtype: "B:1..64,3,224,224:f32"')
        if dtype not in _SHORT and not isinstance(getattr(torch, dtype, None), torch.dtype):
            raise unknown_name("graph: dtype", dtype, _SHORT)
        shape: list[int | str | None] = []
        for size in filter(None, (part.strip() for part in sizes.split(","))):
            shape.append(int(size) if size.isdecimal() else None if size in ("*", "?") else size)
        return Spec(tuple(shape), _SHORT.get(dtype) or getattr(torch, dtype))

    def misfit(self, value: Any, bound: dict[str, int]) -> str | None:
        """Why a value does not fit, None if it does.

        Args:
            value: what was given.
            bound: sizes that names stand for so far in this call; extended.
        """
        if not isinstance(value, Tensor):
            return f"a {type(value).__name__}"
        if value.dtype is not self.dtype or len(value.shape) != len(self.shape):
            return describe(value)
        if self.device is not None and value.device.type != torch.device(self.device).type:
            return f"{describe(value)} on {value.device}"
        for size, dim in zip(value.shape, self.dims, strict=True):
            if dim.fixed is not None and size != dim.fixed:
                return describe(value)
            if size < dim.low or (dim.high is not None and size > dim.high):
                return f"{describe(value)} ({dim.name} = {size} is outside {dim.low}..{dim.high})"
            if dim.name is not None and bound.setdefault(dim.name, size) != size:
                return f"{describe(value)} ({dim.name} is {bound[dim.name]} elsewhere in this call)"
        return None

    def example(self, sizes: Mapping[str, int]) -> Tensor:
        """A tensor that fits, of unset values; named sizes as given, others small and unlike."""
        shape = []
        for position, dim in enumerate(self.dims):
            free = max(dim.low, min(dim.high if dim.high is not None else 4 + position, 4 + position))
            shape.append(dim.fixed if dim.fixed is not None else sizes.get(dim.name or "", free))
        return torch.empty(shape, dtype=self.dtype, device=self.device or "cpu")

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')}[{', '.join(map(str, self.dims))}]"


def _dim(size: int | str | None, shape: Any) -> Dim:
    if size is None:
        return Dim()
    if isinstance(size, int):
        return Dim(fixed=size)
    found = _DIM.fullmatch(size)
    if found is None:
        raise SpecError(
            f"graph: the size {size!r} in {shape!r} is no name", hint='a name, or a name with a range: "B:1..64"'
        )
    low, high = int(found["low"] or 0), int(found["high"]) if found["high"] else None
    if high is not None and low > high:
        raise SpecError(f"graph: the range of {size!r} is empty")
    return Dim(name=found["name"], low=low, high=high)


def describe(value: Any) -> str:
    """A tensor as float32[2, 3]; anything else by its repr."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return repr(value)


def examples(value: Any, sizes: dict[str, int]) -> Any:
    """A pytree with its Specs replaced by tensors that fit; `sizes` collects what the names stand for."""
    if isinstance(value, Spec):
        made = value.example(sizes)
        sizes.update({dim.name: size for dim, size in zip(value.dims, made.shape, strict=True) if dim.name is not None})
        return made
    if isinstance(value, tuple | list):
        return type(value)(examples(item, sizes) for item in value)
    return {key: examples(item, sizes) for key, item in value.items()} if isinstance(value, dict) else value
