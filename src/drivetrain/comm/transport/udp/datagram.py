"""The datagram of the lossy channel: 22 bytes of header, a MAC of 8, and up to 1,370 bytes of values (spec 06 §2.5).

    magic u16 | version u8 | flags u8 | run u32 | step u32 | rank u16 | tensor u16 | offset u32 | count u16 | mac 8 B

in network byte order; `offset` and `count` are in values. The MAC is BLAKE2b of 8 bytes under the key that the receiver
gave to this one sender, over header and values: no third rank can speak in another's name, and a step, a run or a place
can't be changed. Values are float32 or float16 in little-endian order, as they lie in memory.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass

MAGIC, VERSION = 0xD7A6, 1
HEADER = struct.Struct("!HBBIIHHIH")
MAC_BYTES, KEY_BYTES = 8, 32
OVERHEAD = HEADER.size + MAC_BYTES
MAX_BYTES = 1400  # under Ethernet's 1,500 with headers and a tunnel, so that no router cuts it into fragments
LINK_BYTES = 42  # what Ethernet, IP and UDP add on the link: a rate is of the link, so these count

HALF = 1  # flag: values are float16
END = 2  # flag: the sender has sent all it has for this step


@dataclass(frozen=True)
class Datagram:
    """The header's fields, and the values as bytes."""

    run: int
    step: int
    rank: int
    tensor: int
    offset: int
    count: int
    flags: int = 0
    values: bytes = b""


def seal(datagram: Datagram, key: bytes) -> bytes:
    """The bytes that travel."""
    head = HEADER.pack(
        MAGIC, VERSION, datagram.flags, datagram.run, datagram.step, datagram.rank, datagram.tensor,
        datagram.offset, datagram.count,
    )  # fmt: skip
    return head + _mac(key, head, datagram.values) + datagram.values


def parse(data: bytes | memoryview) -> Datagram | None:
    """The fields of a datagram of our form, unchecked; None for anything else."""
    if not OVERHEAD <= len(data) <= MAX_BYTES:
        return None
    magic, version, flags, run, step, rank, tensor, offset, count = HEADER.unpack_from(data)
    if magic != MAGIC or version != VERSION:
        return None
    return Datagram(run, step, rank, tensor, offset, count, flags, bytes(data[OVERHEAD:]))


def is_genuine(data: bytes | memoryview, key: bytes) -> bool:
    """Whether the MAC of a parsed datagram holds."""
    expected = _mac(key, data[: HEADER.size], data[OVERHEAD:])
    return hmac.compare_digest(expected, bytes(data[HEADER.size : OVERHEAD]))


def _mac(key: bytes, head: bytes | memoryview, values: bytes | memoryview) -> bytes:
    digest = hashlib.blake2b(head, digest_size=MAC_BYTES, key=key)
    digest.update(values)
    return digest.digest()
