"""`.3lc` files: named tensors as messages, framed like safetensors.

    0  8 bytes  "DT3LC" 0 0 1        8  u64  length of the header        16  the header, JSON        then the messages

The header maps each name to {shape, dtype, offset, nbytes}; offsets count from the end of the header. The dtype is
that of the original tensor. A floating-point tensor is a message (wire.py), whose header tells its codec; any other (a
step counter, a mask) is stored as its own bytes.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drivetrain.base.errors import MissingFile
from drivetrain.base.files import atomic_path

from .errors import CodecError, NonFiniteGradient, WireError, nonfinite_error
from .messages import decode
from .rules import CodecRules

MAGIC = b"DT3LC\0\0\1"
_PREFIX = len(MAGIC) + 8
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}


def write_3lc(path: str | Path, tensors: Mapping[str, Tensor], codecs: CodecRules | None = None) -> dict[str, int]:
    """Write tensors to a `.3lc` file, whole or not at all.

    Args:
        path: the file.
        tensors: name -> tensor, any shape.
        codecs: which codec each gets; None: 3lc, and raw below 1024 values.

    Returns:
        name -> bytes in the file.

    Raises:
        NonFiniteGradient: names the tensor.
        CodecError: a dtype the format does not have.
    """
    codecs = codecs or CodecRules()
    header: dict[str, dict[str, Any]] = {}
    with atomic_path(path) as beside, open(beside, "wb") as file:
        parts = {name: _encode(name, tensor, codecs) for name, tensor in tensors.items()}
        offset = 0
        for name, part in parts.items():
            dtype = str(tensors[name].dtype).removeprefix("torch.")
            header[name] = {
                "shape": list(tensors[name].shape),
                "dtype": dtype,
                "offset": offset,
                "nbytes": part.numel(),
            }
            offset += part.numel()
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        file.write(MAGIC + struct.pack("<Q", len(text)) + text)
        for part in parts.values():
            file.write(part.cpu().numpy().data)
    return {name: entry["nbytes"] for name, entry in header.items()}


def read_3lc(path: str | Path) -> dict[str, Tensor]:
    """Read all tensors of a `.3lc` file, in their original shapes and dtypes.

    Raises:
        MissingFile: there is no such file.
        WireError: not such a file, or it was cut or altered; names the tensor and the field.
    """
    try:
        content = torch.from_numpy(np.fromfile(path, dtype=np.uint8))
    except (FileNotFoundError, IsADirectoryError):
        raise MissingFile(f"comm: there is no file {path}") from None
    header, start = _read_header(Path(path), content)
    tensors, offset = {}, 0
    for name, entry in header.items():
        where = f"comm: {Path(path).name}: tensor {name!r}"
        shape, dtype, nbytes = _check_entry(where, entry, offset, content.numel() - start)
        part = content[start + offset : start + offset + nbytes]
        tensors[name] = _decode(where, part, shape, dtype)
        offset += nbytes
    if start + offset != content.numel():
        raise WireError(f"comm: {Path(path).name} has {content.numel() - start - offset} bytes beyond its last tensor")
    return tensors


def _encode(name: str, tensor: Tensor, codecs: CodecRules) -> Tensor:
    if tensor.dtype not in _DTYPES.values() or tensor.layout != torch.strided:
        raise CodecError(f"comm: tensor {name!r} is {tensor.dtype}, {tensor.layout}; a .3lc file can't hold that")
    if not tensor.is_floating_point():
        return tensor.detach().reshape(-1).contiguous().view(torch.uint8)
    try:
        return codecs(name, tensor).encode(tensor).data
    except NonFiniteGradient:
        raise nonfinite_error(tensor, name=name) from None


def _decode(where: str, part: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    numel = math.prod(shape)
    if not dtype.is_floating_point:
        if part.numel() != numel * dtype.itemsize:
            raise WireError(
                f"{where}: nbytes is {part.numel()}, {numel} values of {dtype} take {numel * dtype.itemsize}"
            )
        return part.clone().view(dtype).view(shape)
    try:
        values = decode(part)
    except WireError as error:
        raise WireError(f"{where}: {error.message.removeprefix('comm: ')}", hint=error.hint) from None
    if values.numel() != numel:
        raise WireError(f"{where}: shape {shape} has {numel} values, its message {values.numel()}")
    return values.to(dtype).view(shape)


def _read_header(path: Path, content: Tensor) -> tuple[dict[str, Any], int]:
    prefix = bytes(content[:_PREFIX].tolist())
    if prefix[: len(MAGIC)] != MAGIC:
        raise WireError(
            f"comm: {path.name} is not a .3lc file of version 1 (it begins with {prefix[: len(MAGIC)]!r})",
            hint="`drivetrain comm encode` writes them from .safetensors files",
        )
    length = int.from_bytes(prefix[len(MAGIC) :], "little")
    if len(prefix) < _PREFIX or _PREFIX + length > content.numel():
        raise WireError(f"comm: {path.name} is cut: {content.numel()} bytes, the header alone has {_PREFIX + length}")
    try:
        header = json.loads(content[_PREFIX : _PREFIX + length].numpy().tobytes())
    except ValueError as error:
        raise WireError(f"comm: {path.name}: the header is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise WireError(f"comm: {path.name}: the header is a JSON {type(header).__name__}, it must be an object")
    return header, _PREFIX + length


def _check_entry(where: str, entry: Any, offset: int, available: int) -> tuple[tuple[int, ...], torch.dtype, int]:
    """The entry's shape, dtype and nbytes; tensors stand one after another without gaps."""
    if not isinstance(entry, dict) or set(entry) != {"shape", "dtype", "offset", "nbytes"}:
        raise WireError(f"{where}: the entry must have shape, dtype, offset and nbytes, it is {str(entry)[:80]}")
    shape, dtype, nbytes = entry["shape"], entry["dtype"], entry["nbytes"]
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise WireError(f"{where}: shape is {shape!r}, it must be a list of sizes")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise WireError(f"{where}: dtype is {dtype!r}, it must be one of {', '.join(_DTYPES)}")
    if entry["offset"] != offset:
        raise WireError(f"{where}: offset is {entry['offset']!r}, the tensors before it end at {offset}")
    if type(nbytes) is not int or nbytes < 0 or offset + nbytes > available:
        raise WireError(f"{where}: nbytes is {nbytes!r}, the file has {available - offset} bytes from its offset on")
    return tuple(shape), _DTYPES[dtype], nbytes
