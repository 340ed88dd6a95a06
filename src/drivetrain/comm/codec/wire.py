"""The message: a 16-byte header, scales, payload, and if wished a CRC-32 of all that. Little-endian.

The layout is ours; the paper leaves framing open.

    0  u8   magic 0x3C       1  u8  version 1       2  u8  flags       3  u8  reserved, 0
    4  u32  numel N          8  u32 block size b (0: one scale for all)      12  u32 payload bytes P
    16 scales: ceil(N / b) or 1, float32 or float16; ternary messages only
    .. payload, P bytes      .. CRC-32 of everything before, where flags say so

The header alone tells the size of a message, so messages may stand one after another or in a longer buffer.
"""

from __future__ import annotations

import ctypes
import struct
import zlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .errors import CodecError, WireError
from .quantize import scale_count
from .quartic import quartic_length
from .zero_run import LONGEST_RUN

MAGIC, VERSION, HEADER_BYTES, CRC_BYTES = 0x3C, 1, 16, 4
SPARSEST = 2**20  # a sparse message sends at least one of so many values: an altered N can't ask for all memory
_LAYOUT = struct.Struct("<BBBBIII")


class Flag:
    """The bits of the header's flags. RAW, HALF and SPARSE exclude each other; none of them: ternary.

    Plain integers: the operators of enum.IntFlag would take half the time of a small message.
    """

    ZERO_RUN = 1  # the quartic bytes are zero-run coded
    RAW = 2  # payload: N float32
    HALF_SCALES = 4  # scales are float16
    CRC32 = 8
    HALF = 16  # payload: N float16
    SPARSE = 32  # payload: k u32 indices, ascending, then k float32 values


_KINDS = Flag.RAW | Flag.HALF | Flag.SPARSE
_KNOWN = _KINDS | Flag.ZERO_RUN | Flag.HALF_SCALES | Flag.CRC32


@dataclass(frozen=True)
class Header:
    """A message's header. Sizes are in bytes.

    Attributes:
        flags, numel, block, payload_bytes: as in the layout above.
    """

    flags: int
    numel: int
    block: int
    payload_bytes: int

    @property
    def kind(self) -> int:
        """Flag.RAW, HALF or SPARSE; 0 is a ternary message."""
        return self.flags & _KINDS

    @property
    def scale_count(self) -> int:
        return 0 if self.kind else scale_count(self.numel, self.block)

    @property
    def scale_bytes(self) -> int:
        return self.scale_count * (2 if self.flags & Flag.HALF_SCALES else 4)

    @cached_property
    def payload_start(self) -> int:
        return HEADER_BYTES + self.scale_bytes

    @cached_property
    def payload_end(self) -> int:
        return self.payload_start + self.payload_bytes

    @property
    def size(self) -> int:
        """The whole message."""
        return self.payload_end + (CRC_BYTES if self.flags & Flag.CRC32 else 0)

    def pack(self) -> bytes:
        """The header's 16 bytes."""
        return _LAYOUT.pack(MAGIC, VERSION, self.flags, 0, self.numel, self.block, self.payload_bytes)


def read_header(buffer: Tensor) -> Header:
    """Read and check the header at the front of a buffer (uint8, 1-D).

    Raises:
        WireError: names the field, the value found and the value wanted.
    """
    if buffer.dtype != torch.uint8 or buffer.dim() != 1:
        found = f"{str(buffer.dtype).removeprefix('torch.')} of shape {tuple(buffer.shape)}"
        raise WireError(f"comm: a message is a 1-D uint8 tensor, this is {found}")
    if buffer.numel() < HEADER_BYTES:
        raise WireError(f"comm: the message is cut: {buffer.numel()} bytes, the header alone has {HEADER_BYTES}")
    magic, version, flags, reserved, numel, block, payload = _LAYOUT.unpack(_peek(buffer, 0, HEADER_BYTES))
    if magic != MAGIC:
        raise WireError(f"comm: magic is {magic:#04x}, a message begins with {MAGIC:#04x}")
    if version != VERSION:
        raise WireError(
            f"comm: version is {version}, this reads version {VERSION}", hint="all ranks need one drivetrain"
        )
    if flags & ~_KNOWN:
        raise WireError(f"comm: flags are {flags:#04x}, bits {flags & ~_KNOWN:#04x} are unknown")
    if reserved != 0:
        raise WireError(f"comm: reserved byte is {reserved}, it must be 0")
    header = Header(flags, numel, block, payload)
    _check_kind(header)
    _check_payload_bytes(header)
    return header


def message_size(buffer: Tensor) -> int:
    """The bytes of the message at the front of a buffer that may be longer (padding, further messages).

    Raises:
        WireError: a bad header, or the buffer ends before the message does.
    """
    size = read_header(buffer).size
    if size > buffer.numel():
        raise WireError(f"comm: the message is cut: {buffer.numel()} bytes, its header tells {size}")
    return size


def split_messages(buffer: Tensor) -> list[Tensor]:
    """The messages that stand one after another in a buffer, as views of it."""
    messages = []
    while buffer.numel():
        size = message_size(buffer)
        messages.append(buffer[:size])
        buffer = buffer[size:]
    return messages


def check_message(msg: Tensor) -> Header:
    """Check one whole message: header, length, and CRC where it has one. The payload is checked by its decoder.

    Raises:
        WireError: names the field, the value found and the value wanted.
    """
    header = read_header(msg)
    if header.size != msg.numel():
        raise WireError(
            f"comm: the message has {msg.numel()} bytes, its header (N = {header.numel}, block = {header.block}, "
            f"payload = {header.payload_bytes}) tells {header.size}"
        )
    if header.flags & Flag.CRC32:
        body, crc = msg[:-CRC_BYTES], int.from_bytes(_peek(msg, header.payload_end, CRC_BYTES), "little")
        if (found := _crc32(body)) != crc:
            raise WireError(f"comm: crc32 is {found:#010x}, the message says {crc:#010x}: it was altered on the way")
    return header


def write_message(flags: int, numel: int, block: int, scales: Tensor, payload: Tensor, out: Tensor | None) -> Tensor:
    """Put a message together in a new buffer or in the front of `out`.

    Args:
        flags, numel, block: for the header.
        scales, payload: tensors of any type; their bytes are written.
        out: None, or a uint8 buffer.

    Returns:
        The message, uint8, 1-D.
    """
    scales, payload = as_bytes(scales), as_bytes(payload)
    header = Header(flags, numel, block, payload.numel())
    message = message_buffer(header.size, payload.device, out)
    message[HEADER_BYTES : header.payload_start] = scales
    message[header.payload_start : header.payload_end] = payload
    return seal(message, header)


def seal(message: Tensor, header: Header) -> Tensor:
    """Write the header and the CRC around scales and payload that are already in place; return the message."""
    _poke(message, 0, header.pack())
    if header.flags & Flag.CRC32:
        _poke(message, header.payload_end, _crc32(message[: header.payload_end]).to_bytes(CRC_BYTES, "little"))
    return message[: header.size]


def message_buffer(size: int, device: torch.device, out: Tensor | None) -> Tensor:
    """The first `size` bytes of `out`, or a new buffer.

    Raises:
        CodecError: `out` is not a contiguous 1-D uint8 tensor of the device, or is too small.
    """
    if out is None:
        return torch.empty(size, dtype=torch.uint8, device=device)
    if out.dtype != torch.uint8 or out.dim() != 1 or not out.is_contiguous() or out.device != device:
        raise CodecError(
            f"comm: out must be a contiguous 1-D uint8 tensor on {device}, this is "
            f"{str(out.dtype).removeprefix('torch.')} of shape {tuple(out.shape)} on {out.device}"
        )
    if out.numel() < size:
        raise CodecError(f"comm: out has {out.numel()} bytes, this message may need {size}")
    return out[:size]


def as_bytes(tensor: Tensor) -> Tensor:
    """The bytes of a tensor, uint8, 1-D; a view where it can be."""
    # An empty tensor may have any stride, and view() is particular about strides.
    flat = tensor.reshape(-1).contiguous() if tensor.numel() else tensor.new_empty(0)
    return flat.view(torch.uint8)


def read_floats(msg: Tensor, begin: int, count: int, dtype: torch.dtype) -> Tensor:
    """`count` numbers from byte `begin` on, as a tensor of their own (a message may start at any address)."""
    return msg[begin : begin + count * dtype.itemsize].clone().view(dtype)


def _peek(buffer: Tensor, begin: int, count: int) -> bytes:
    """Some bytes of a buffer; on the CPU without a tensor operation, which would cost more than a small message."""
    if buffer.device.type == "cpu" and buffer.is_contiguous():
        return ctypes.string_at(buffer.data_ptr() + begin, count)
    return bytes(buffer[begin : begin + count].tolist())


def _poke(buffer: Tensor, begin: int, content: bytes) -> None:
    """Write some bytes into a contiguous buffer."""
    if buffer.device.type == "cpu":
        ctypes.memmove(buffer.data_ptr() + begin, content, len(content))
    else:
        buffer[begin : begin + len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8)


def _check_kind(header: Header) -> None:
    kind = header.kind
    if bin(kind).count("1") > 1:
        raise WireError(f"comm: flags are {header.flags:#04x}: a payload is raw, half or sparse, not two of them")
    if kind and header.flags & (Flag.ZERO_RUN | Flag.HALF_SCALES):
        raise WireError(f"comm: flags are {header.flags:#04x}: only a ternary message has scales or zero runs")
    if kind and header.block:
        raise WireError(f"comm: block is {header.block} in a message without scales, it must be 0")


def _check_payload_bytes(header: Header) -> None:
    """P against what N values can take (the size law: L >= P >= ceil(L / 14))."""
    found, length = header.payload_bytes, quartic_length(header.numel)
    low = high = length
    if header.kind == Flag.RAW:
        low = high = 4 * header.numel
    elif header.kind == Flag.HALF:
        low = high = 2 * header.numel
    elif header.kind == Flag.SPARSE:
        low, high = 8 * -(-header.numel // SPARSEST), 8 * header.numel
    elif header.flags & Flag.ZERO_RUN:
        low = -(-length // LONGEST_RUN)
    if not low <= found <= high:
        wanted = str(low) if low == high else f"{low} to {high}"
        raise WireError(f"comm: payload size is {found} bytes, {header.numel} values of this kind take {wanted}")
    if header.kind == Flag.SPARSE and found % 8:
        raise WireError(f"comm: payload size is {found} bytes, a sparse payload is a multiple of 8")


def _crc32(data: Tensor) -> int:
    return zlib.crc32(data.cpu().numpy().data)
