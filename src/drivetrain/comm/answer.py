"""What ranks say beside the values: a rank that its gradient is broken, an owner how its part of a step went.

A notice stands in place of a push message. An answer's head stands before an owner's pulled messages. Both are structs
of fixed layout, little-endian, and UTF-8 text: nothing that is read can run.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from .codec import WireError

_NOTICE = struct.Struct("<BBHIQ")  # magic, version, reserved, index of the parameter, non-finite values
_HEAD = struct.Struct("<BBHIQ")  # magic, code, count of ranks, bytes of text, step
_NOTICE_MAGIC, _HEAD_MAGIC = 0x4E, 0x41

OK, NONFINITE, FAILED = 0, 1, 2


@dataclass(frozen=True)
class Notice:
    """Why a rank has nothing to give: its parameter number `parameter` holds `count` values that are not finite."""

    parameter: int
    count: int

    def pack(self) -> Tensor:
        return _bytes(_NOTICE.pack(_NOTICE_MAGIC, 1, 0, self.parameter, self.count))

    @staticmethod
    def of(message: Tensor) -> Notice | None:
        """The notice that a push message is, or None when it holds values."""
        if message.numel() != _NOTICE.size or int(message[0]) != _NOTICE_MAGIC:
            return None
        _, _, _, parameter, count = _NOTICE.unpack(bytes(message.tolist()))
        return Notice(parameter, count)


@dataclass(frozen=True)
class Head:
    """How an owner's part of a step went.

    Attributes:
        code: OK; NONFINITE: too many ranks had broken gradients; FAILED: the owner could not aggregate.
        step: of the exchange.
        text: what was wrong.
        absent: ranks from which nothing came to this owner.
    """

    code: int
    step: int
    text: str = ""
    absent: frozenset[int] = frozenset()

    def pack(self, payload: Tensor) -> Tensor:
        """The whole answer: this, then the owner's messages."""
        text = self.text.encode()
        head = _HEAD.pack(_HEAD_MAGIC, self.code, len(self.absent), len(text), self.step)
        ranks = struct.pack(f"<{len(self.absent)}I", *sorted(self.absent))
        return torch.cat([_bytes(head + ranks + text).to(payload.device), payload])

    @staticmethod
    def split(answer: Tensor, owner: int, step: int) -> tuple[Head, Tensor]:
        """An owner's head and its messages.

        Raises:
            WireError: the answer was cut or altered, or is of another step; names the owner.
        """
        if answer.numel() < _HEAD.size:
            raise WireError(
                f"comm: the answer of rank {owner} is cut: {answer.numel()} bytes, its head has {_HEAD.size}"
            )
        magic, code, count, length, found = _HEAD.unpack(bytes(answer[: _HEAD.size].tolist()))
        end = _HEAD.size + 4 * count + length
        if magic != _HEAD_MAGIC or code > FAILED or end > answer.numel():
            raise WireError(f"comm: the answer of rank {owner} in exchange {step} is broken at its head")
        if found != step:
            raise WireError(f"comm: rank {owner} answers exchange {found}, this is exchange {step}")
        rest = bytes(answer[_HEAD.size : end].tolist())
        absent = frozenset(struct.unpack(f"<{count}I", rest[: 4 * count]))
        return Head(code, step, rest[4 * count :].decode(errors="replace"), absent), answer[end:]


def no_values() -> Tensor:
    """An empty payload."""
    return torch.empty(0, dtype=torch.uint8)


def ranks_in_words(ranks: Collection[int]) -> str:
    """ "rank 3", or "ranks 1 and 3"."""
    listed = sorted(ranks)
    if len(listed) == 1:
        return f"rank {listed[0]}"
    return f"ranks {', '.join(map(str, listed[:-1]))} and {listed[-1]}"


def _bytes(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)
