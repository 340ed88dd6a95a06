"""The native kernel of the lossy channel (udp.cpp): the same two classes as plain.py, many datagrams a call.

Python can't send more than one datagram in a system call, and pays some microseconds for each; ctypes releases Python's
global lock during a call, so that a receiver's thread works beside the training. Linux only.
"""

from __future__ import annotations

import ctypes
import math
import socket
import struct
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from drivetrain.base import native

from .datagram import MAX_BYTES
from .layout import Plan
from .pacer import Pacer
from .table import Table

_P, _I, _U, _L, _D = ctypes.c_void_p, ctypes.c_int32, ctypes.c_uint32, ctypes.c_int64, ctypes.c_double


class _Sender(ctypes.Structure):
    _fields_: ClassVar[Any] = [
        *((name, _I) for name in ("fd", "value_bytes")),
        *((name, _U) for name in ("run", "rank")),
        *((name, _P) for name in ("keys", "addresses")),
        ("planned", _L),
        *((name, _P) for name in ("to", "tensor", "offset", "count", "at")),
        *((name, _D) for name in ("rate", "burst", "tokens", "last")),
    ]


class _Receiver(ctypes.Structure):
    _fields_: ClassVar[Any] = [
        *((name, _I) for name in ("fd", "value_bytes")),
        *((name, _U) for name in ("run", "rank", "n", "per_chunk")),
        ("keys", _P),
        *((name, _L) for name in ("tensors", "width", "chunks")),
        *((name, _P) for name in ("sizes", "starts", "first_chunks")),
        *((name, _P) for name in ("values", "marks", "arrived", "ended", "counted")),
    ]


@cache
def load() -> ctypes.CDLL | None:
    """The kernel, or None where it can't be built (one warning says so) or the system is not Linux."""
    library = native.load(Path(__file__).with_name("udp.cpp")) if sys.platform == "linux" else None
    if library is None:
        return None
    library.udp_send.argtypes = [_P, _U, _P, _P, _D]
    library.udp_receive.argtypes = [_P, _U, _L]
    library.udp_mac.argtypes = [ctypes.c_char_p, ctypes.c_char_p, _L]
    library.udp_send.restype = library.udp_receive.restype = _L
    library.udp_mac.restype = ctypes.c_uint64
    return library


class NativeSender:
    """`PlainSender` by the kernel; the same arguments."""

    def __init__(
        self,
        door: socket.socket,
        plan: Plan,
        addresses: Sequence[tuple[str, int]],
        keys: Sequence[bytes],
        run: int,
        rank: int,
        value_bytes: int,
        pacer: Pacer,
    ) -> None:
        where = b"".join(_sockaddr(host, port) for host, port in addresses)
        signing = b"".join(keys)
        self._kept = (door, plan, where, signing)  # what the structure points at
        infinite = math.isinf(pacer.bytes_per_second)
        self._fields = _Sender(
            door.fileno(), value_bytes, run, rank, _address(signing), _address(where), len(plan),
            *(column.ctypes.data for column in (plan.to, plan.tensor, plan.offset, plan.count, plan.at)),
            math.inf if infinite else pacer.bytes_per_second, float(max(pacer.burst, MAX_BYTES + 42)), 0.0, 0.0,
        )  # fmt: skip

    def send(self, step: int, vectors: Sequence[np.ndarray], skip: np.ndarray | None, until: float) -> int:
        """As `PlainSender.send`."""
        starts = (_P * len(vectors))(*(vector.ctypes.data for vector in vectors))
        skipped = None if skip is None else np.ascontiguousarray(skip, dtype=np.uint8)
        left_out = None if skipped is None else skipped.ctypes.data
        return int(_library().udp_send(ctypes.byref(self._fields), step, starts, left_out, until))


class NativeReceiver:
    """`PlainReceiver` by the kernel; the same arguments."""

    def __init__(self, door: socket.socket, table: Table, keys: Sequence[bytes], run: int) -> None:
        layout = table.layout
        numbers = [np.array(column, dtype=np.int64) for column in (layout.sizes, layout.starts, layout.first_chunks)]
        signing = b"".join(keys)
        self.table = table
        self._kept = (door, numbers, signing)
        self._fields = _Receiver(
            door.fileno(), layout.value_bytes, run, table.rank, table.n, layout.per_chunk, _address(signing),
            len(layout.sizes), layout.width, layout.chunks, *(column.ctypes.data for column in numbers),
            table.values.data_ptr(),
            *(column.ctypes.data for column in (table.marks, table.arrived, table.ended, table.counted)),
        )  # fmt: skip

    def receive(self, most: int) -> int:
        """As `PlainReceiver.receive`."""
        return int(_library().udp_receive(ctypes.byref(self._fields), self.table.step, most))


def _sockaddr(host: str, port: int) -> bytes:
    return struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + socket.inet_aton(host) + bytes(8)


def _address(data: bytes) -> int:
    return ctypes.cast(ctypes.c_char_p(data), _P).value or 0


def _library() -> ctypes.CDLL:
    library = load()
    assert library is not None, "ask load() first"
    return library
