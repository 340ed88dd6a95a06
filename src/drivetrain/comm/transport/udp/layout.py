"""How tensors are cut into datagrams: on a fixed grid, so that a datagram's header alone tells where it belongs.

A vector is all tensors of one sender to one receiver, end to end; a chunk is what one datagram carries of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from drivetrain.base.errors import InvalidValue

from .datagram import MAX_BYTES, OVERHEAD

END_REPEATS = 3  # without any, the receiver waits until it has been quiet for long
MOST_TENSORS, MOST_VALUES = 1 << 16, 1 << 32  # what the header's fields can number


@dataclass(frozen=True)
class Layout:
    """The grid of one receiver.

    Args:
        sizes: values in each tensor; may be 0.
        value_bytes: 4 or 2.

    Raises:
        InvalidValue: more tensors, or more values in one, than the header can number.
    """

    sizes: tuple[int, ...]
    value_bytes: int

    def __post_init__(self) -> None:
        if len(self.sizes) > MOST_TENSORS or any(not 0 <= size < MOST_VALUES for size in self.sizes):
            raise InvalidValue(
                f"comm: udp: {len(self.sizes)} tensors, the largest of {max(self.sizes, default=0)} values: a datagram "
                f"can number {MOST_TENSORS} tensors of fewer than {MOST_VALUES} values"
            )

    @property
    def per_chunk(self) -> int:
        """Values in a full datagram: 342 of float32, 685 of float16."""
        return (MAX_BYTES - OVERHEAD) // self.value_bytes

    @cached_property
    def width(self) -> int:
        """Values in the vector."""
        return sum(self.sizes)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """The place of each tensor's first value in the vector."""
        return _running_sum(self.sizes)

    @cached_property
    def chunks_of(self) -> tuple[int, ...]:
        """Chunks of each tensor."""
        return tuple(-(-size // self.per_chunk) for size in self.sizes)

    @cached_property
    def first_chunks(self) -> tuple[int, ...]:
        """The number of each tensor's first chunk."""
        return _running_sum(self.chunks_of)

    @cached_property
    def chunks(self) -> int:
        """Chunks of the vector."""
        return sum(self.chunks_of)

    def fits(self, tensor: int, offset: int, count: int, size: int) -> bool:
        """Whether these header fields and `size` bytes of values are exactly a chunk of the grid."""
        if tensor >= len(self.sizes) or count == 0 or offset % self.per_chunk:
            return False
        return count == min(self.per_chunk, self.sizes[tensor] - offset) and size == count * self.value_bytes

    def spread(self, marks: Tensor) -> Tensor:
        """A mark per value, [n, width], out of one per chunk, [n, chunks]."""
        n, parts = len(marks), []
        for size, first, count in zip(self.sizes, self.first_chunks, self.chunks_of, strict=True):
            of_tensor = marks[:, first : first + count, None].expand(n, count, self.per_chunk)
            parts.append(of_tensor.reshape(n, -1)[:, :size])
        return torch.cat(parts, dim=1) if parts else marks


def _running_sum(values: Sequence[int]) -> tuple[int, ...]:
    total, sums = 0, []
    for value in values:
        sums.append(total)
        total += value
    return tuple(sums)


@dataclass(frozen=True)
class Plan:
    """What a sender sends in every step, in order: chunks to all receivers in turn, end marks last.

    Taking turns loads all receivers' links evenly: a burst to one of them would overflow its queue.

    Attributes:
        to, tensor, offset, count: of each datagram; a count of 0 is an end mark.
        at: byte of the receiver's vector where its values begin.
    """

    to: np.ndarray
    tensor: np.ndarray
    offset: np.ndarray
    count: np.ndarray
    at: np.ndarray

    def __len__(self) -> int:
        return len(self.to)


def make_plan(layouts: Sequence[Layout], rank: int) -> Plan:
    """The plan of `rank`, whose receiver r takes vectors of layouts[r]; nothing is sent to itself."""
    others = [(rank + turn) % len(layouts) for turn in range(1, len(layouts))]
    chunks = [(position, turn, other) for turn, other in enumerate(others) for position in _chunks(layouts[other])]
    chunks.sort(key=lambda entry: (entry[0][0], entry[1]))
    rows = [(other, *position[1:]) for position, _, other in chunks]
    rows += [(other, 0, 0, 0, 0) for _ in range(END_REPEATS) for other in others]
    columns = np.array(rows, dtype=np.int64).reshape(-1, 5).T
    kinds = (np.int32, np.uint16, np.uint32, np.uint16, np.int64)
    return Plan(*(np.ascontiguousarray(column, dtype=kind) for column, kind in zip(columns, kinds, strict=True)))


def _chunks(layout: Layout) -> list[tuple[int, int, int, int, int]]:
    """(number, tensor, offset, count, byte) of every chunk of a vector."""
    found: list[tuple[int, int, int, int, int]] = []
    for tensor, (size, start) in enumerate(zip(layout.sizes, layout.starts, strict=True)):
        for offset in range(0, size, layout.per_chunk):
            count = min(layout.per_chunk, size - offset)
            found.append((len(found), tensor, offset, count, (start + offset) * layout.value_bytes))
    return found
