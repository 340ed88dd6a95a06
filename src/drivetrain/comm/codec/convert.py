"""safetensors to `.3lc` and back, with a report of sizes and errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from drivetrain.base.errors import InvalidValue, MissingFile
from drivetrain.base.extras import require
from drivetrain.base.files import atomic_path
from drivetrain.base.progress import track

from .files import StoredTensor, open_3lc, write_3lc
from .rules import CodecRules


@dataclass(frozen=True)
class TensorReport:
    """One tensor of a file.

    Attributes:
        name, shape, dtype: the tensor's.
        codec: that wrote it; "bytes" where it is no floating-point tensor and was stored as it is.
        raw_bytes, coded_bytes: its size in the safetensors file and in the `.3lc` file.
        max_error: largest |original - decoded|, None where the original is not known.
        peak: largest |original|, to compare it with.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    codec: str
    raw_bytes: int
    coded_bytes: int
    max_error: float | None
    peak: float


@dataclass(frozen=True)
class FileReport:
    """A conversion between the two formats; the sizes are of the whole files."""

    source: str
    target: str
    raw_bytes: int
    coded_bytes: int
    tensors: tuple[TensorReport, ...]

    @property
    def ratio(self) -> float:
        """How much smaller the `.3lc` file is."""
        return self.raw_bytes / self.coded_bytes

    @property
    def max_error(self) -> float | None:
        """The largest error of all tensors, None where the originals are not known."""
        errors = [tensor.max_error for tensor in self.tensors if tensor.max_error is not None]
        return max(errors) if errors else None


def encode_file(source: str | Path, target: str | Path, codecs: CodecRules | None = None) -> FileReport:
    """Write a safetensors file as a `.3lc` file, read it back and compare.

    Raises:
        MissingFile, InvalidValue: `source` is not there, or no safetensors file.
        NonFiniteGradient, CodecError: a tensor that can't be encoded; nothing is written.
    """
    _check_target(source, target)
    originals = _load(source)
    write_3lc(target, originals, codecs)
    coded = open_3lc(target)
    decoded = {name: stored.decode() for name, stored in track(list(coded.items()), "decoding")}
    return FileReport(str(source), str(target), _size(source), _size(target), _compare(coded, decoded, originals))


def decode_file(source: str | Path, target: str | Path, original: str | Path | None = None) -> FileReport:
    """Write a `.3lc` file as a safetensors file.

    Args:
        source, target: the two files.
        original: the safetensors file that `source` was made of, to tell the error.

    Raises:
        MissingFile, WireError: `source` is not there, or was cut or altered; nothing is written.
        InvalidValue: `original` has other tensors.
    """
    _check_target(source, target)
    coded = open_3lc(source)
    decoded = {name: stored.decode() for name, stored in track(list(coded.items()), "decoding")}
    originals = _load(original) if original is not None else None
    if originals is not None:
        _check_same(originals, decoded, original)
    with atomic_path(target) as beside:
        require("safetensors.torch", extra="comm").save_file(decoded, beside, metadata={"format": "pt"})
    return FileReport(str(source), str(target), _size(target), _size(source), _compare(coded, decoded, originals))


def _compare(
    coded: Mapping[str, StoredTensor], decoded: Mapping[str, Tensor], originals: Mapping[str, Tensor] | None
) -> tuple[TensorReport, ...]:
    tensors = []
    for name, value in decoded.items():
        known = value if originals is None else originals[name]
        tensors.append(
            TensorReport(
                name=name,
                shape=tuple(value.shape),
                dtype=str(value.dtype).removeprefix("torch."),
                codec=coded[name].codec,
                raw_bytes=value.numel() * value.dtype.itemsize,
                coded_bytes=coded[name].data.numel(),
                max_error=None if originals is None else _largest(known.double() - value.double()),
                peak=_largest(known.double()),
            )
        )
    return tuple(tensors)


def _check_target(source: str | Path, target: str | Path) -> None:
    if Path(source).resolve() == Path(target).resolve():
        raise InvalidValue(f"comm: {target} would be written over itself; give another name for the result")


def _size(path: str | Path) -> int:
    return Path(path).stat().st_size


def _load(path: str | Path) -> dict[str, Tensor]:
    safetensors: Any = require("safetensors.torch", extra="comm")
    if not Path(path).is_file():
        raise MissingFile(f"comm: there is no file {path}")
    try:
        return safetensors.load_file(path)
    except Exception as error:  # the library's own error type is not public in all versions
        raise InvalidValue(f"comm: {Path(path).name} is not a safetensors file: {error}") from None


def _check_same(originals: Mapping[str, Tensor], decoded: Mapping[str, Tensor], path: str | Path | None) -> None:
    for name in {**originals, **decoded}:
        shapes = [tuple(side[name].shape) if name in side else None for side in (originals, decoded)]
        if shapes[0] != shapes[1]:
            found = [f"has shape {shape}" if shape is not None else "is missing" for shape in shapes]
            raise InvalidValue(f"comm: tensor {name!r} {found[0]} in {path}, and {found[1]} in the .3lc file")


def _largest(values: Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0
