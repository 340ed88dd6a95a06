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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drivetrain.base.errors import MissingFile
from drivetrain.base.files import atomic_path
from drivetrain.base.progress import track

from .errors import CodecError, NonFiniteGradient, WireError, nonfinite_error
from .messages import codec_name, decode
from .quantize import LARGEST
from .rules import CodecRules
from .wire import as_bytes, read_header

MAGIC = b"DT3LC\0\0\1"
_PREFIX = len(MAGIC) + 8
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}


def write_3lc(path: str | Path, tensors: Mapping[str, Tensor], codecs: CodecRules | None = None) -> None:
    """Write tensors to a `.3lc` file, whole or not at all.

    Args:
        path: the file.
        tensors: name -> tensor, any shape.
        codecs: which codec each gets; None: 3lc, and raw below 1024 values.

    Raises:
        NonFiniteGradient: names the tensor.
        CodecError: a dtype the format does not have.
    """
    codecs = codecs or CodecRules()
    header: dict[str, dict[str, Any]] = {}
    with atomic_path(path) as beside, open(beside, "wb") as file:
        parts = {name: _encode(name, tensor, codecs) for name, tensor in track(list(tensors.items()), "encoding")}
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


@dataclass(frozen=True)
class StoredTensor:
    """One tensor as it stands in a file.

    Attributes:
        label: file and name, for messages.
        shape, dtype: of the original tensor.
        data: its message, or its own bytes; uint8.
    """

    label: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    data: Tensor

    @property
    def codec(self) -> str:
        """The name of the codec that wrote it, or "bytes"."""
        return codec_name(read_header(self.data)) if self.dtype.is_floating_point else "bytes"

    def decode(self) -> Tensor:
        """The tensor. Raises: WireError."""
        if not self.dtype.is_floating_point:
            return self._own_bytes()
        try:
            values = decode(self.data)
        except WireError as error:
            raise WireError(f"{self.label}: {error.message.removeprefix('comm: ')}", hint=error.hint) from None
        if values.numel() != math.prod(self.shape):
            wanted = math.prod(self.shape)
            raise WireError(f"{self.label}: shape {self.shape} has {wanted} values, its message {values.numel()}")
        # With s near 2 a decoded value may be nearly twice the largest original, more than float16 holds.
        limit = min(torch.finfo(self.dtype).max, LARGEST)
        return values.clamp(-limit, limit).to(self.dtype).view(self.shape)

    def _own_bytes(self) -> Tensor:
        wanted = math.prod(self.shape) * self.dtype.itemsize
        if self.data.numel() != wanted:
            raise WireError(f"{self.label}: nbytes is {self.data.numel()}, shape and dtype take {wanted}")
        if self.dtype == torch.bool and bool((self.data > 1).any()):
            raise WireError(f"{self.label}: a byte of a bool tensor is {int(self.data.max())}, it must be 0 or 1")
        return self.data.clone().view(self.dtype).view(self.shape)


def read_3lc(path: str | Path) -> dict[str, Tensor]:
    """Read all tensors of a `.3lc` file, in their original shapes and dtypes.

    Raises:
        MissingFile: there is no such file.
        WireError: not such a file, or it was cut or altered; names the tensor and the field.
    """
    return {name: stored.decode() for name, stored in open_3lc(path).items()}


def open_3lc(path: str | Path) -> dict[str, StoredTensor]:
    """The tensors of a `.3lc` file, not decoded. Raises: as `read_3lc`."""
    try:
        content = torch.from_numpy(np.fromfile(path, dtype=np.uint8))
    except (FileNotFoundError, IsADirectoryError):
        raise MissingFile(f"comm: there is no file {path}") from None
    header, start = _read_header(Path(path), content)
    tensors, offset = {}, 0
    for name, entry in header.items():
        label = f"comm: {Path(path).name}: tensor {name!r}"
        shape, dtype, nbytes = _check_entry(label, entry, offset, content.numel() - start)
        tensors[name] = StoredTensor(label, shape, dtype, content[start + offset : start + offset + nbytes])
        offset += nbytes
    if start + offset != content.numel():
        raise WireError(f"comm: {Path(path).name} has {content.numel() - start - offset} bytes beyond its last tensor")
    return tensors


def _encode(name: str, tensor: Tensor, codecs: CodecRules) -> Tensor:
    if tensor.dtype not in _DTYPES.values() or tensor.layout != torch.strided:
        raise CodecError(f"comm: tensor {name!r} is {tensor.dtype}, {tensor.layout}; a .3lc file can't hold that")
    if not tensor.is_floating_point():
        return as_bytes(tensor.detach())
    try:
        return codecs(name, tensor).encode(tensor).data
    except NonFiniteGradient:
        raise nonfinite_error(tensor.float(), name=name) from None


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
