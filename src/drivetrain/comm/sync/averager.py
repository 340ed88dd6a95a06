"""One averaging: push slices to their owners, combine there, pull the results (the exchange's pipeline, on changes).

n ranks, P values of change, R values of the rest; rank j owns the j-th of n slices of both. Every value is combined
once, by its owner, so all ranks end with the same bits whatever the codec or the rule. What ranks have to tell each
other rides along: a `Note` with every slice on the way out, from every rank to every owner; and rank 0's `Decision` on
the way back. So the decision costs no message of its own, and it can't differ between ranks.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from drivetrain.base.errors import DrivetrainError, InvalidValue

from ..aggregate import Rule
from ..codec import Codec, CodecRules, ErrorFeedback, decode, even_bounds, split_messages
from .decision import DECISION, NOTE, Decision, Note
from .layout import Layout

HEAD = 4 * (DECISION + 1)  # bytes before an owner's result: the decision, and whether the owner failed
Decide = Callable[[Tensor], Tensor]
Bounds = list[tuple[int, int]]


@dataclass
class Outcome:
    """What an averaging gave; the same on all ranks.

    Attributes:
        change: (P,) mean, or the rule's result.
        rest: (R,)
        notes: (n, 9), of every rank.
        decision: rank 0's.
        sent: bytes that this rank sent to others.
    """

    change: Tensor
    rest: Tensor
    notes: Tensor
    decision: Decision
    sent: int


class Averager:
    """Averages over one process group; without torch.distributed, over this process alone.

    Args:
        layout: what is sent.
        group: the process group; None: the default one.
        codec: for the changes, both ways, with error feedback; the rest travels as it is.
        aggregator: a robust rule in place of the mean, tolerating `f` hostile ranks.
        weights: (n,) of the ranks; None: equal. "steps": by local steps. A rank without steps never counts.
        timeout: seconds; None: the group's own.
    """

    def __init__(
        self,
        layout: Layout,
        group: dist.ProcessGroup | None = None,
        *,
        codec: Codec | CodecRules | None = None,
        aggregator: Rule | None = None,
        f: int = 0,
        weights: Tensor | str | None = None,
        timeout: float | None = None,
    ) -> None:
        self.layout, self.group = layout, group
        self.alone = not (dist.is_available() and dist.is_initialized())
        self.n = 1 if self.alone else dist.get_world_size(group)
        self.rank = 0 if self.alone else dist.get_rank(group)
        self.codec, self.aggregator, self.f, self.weights = codec, aggregator, f, weights
        self.timeout = None if timeout is None else datetime.timedelta(seconds=timeout)
        self.push, self.pull = ErrorFeedback(), ErrorFeedback()
        self.bounds = even_bounds(layout.numel, self.n)  # (begin, end) of every owner
        if aggregator is not None:
            aggregator.check(self.n, f)
        elif f:
            raise InvalidValue(f"comm: f={f} hostile ranks need a robust aggregator", hint='aggregator="median"')
        if codec is not None and layout.dtype != torch.float32:
            raise InvalidValue("comm: codecs carry float32, this model has float64 parameters")

    def run(self, change: Tensor, rest: Tensor, note: Note, decide: Decide) -> Outcome:
        """Average.

        Args:
            change: (P,), rest: (R,), in the layout's type.
            note: this rank's.
            decide: notes (n, 9) -> decision (6,); called on rank 0 alone.

        Raises:
            InvalidValue: a rule refused the changes.
            RuntimeError: as torch.distributed raises it when a rank is gone.
        """
        if self.n == 1:
            notes = note.tensor().view(1, NOTE)
            return Outcome(change, rest, notes, Decision(*decide(notes).tolist()), 0)
        usable, told = math.isfinite(note.norm), note.tensor()
        rest_bounds = even_bounds(rest.numel(), self.n)
        parts = [
            _bytes(told, self._encode(change, owner, usable), rest[begin:end])
            for owner, (begin, end) in enumerate(rest_bounds)
        ]
        received = self._to_owners(parts)
        notes = torch.stack([part[: 4 * NOTE].clone().view(torch.float32) for part in received])
        error, mine = None, (_cut(change, self.bounds, self.rank), _cut(rest, rest_bounds, self.rank))
        try:
            mine = self._combine(received, notes, rest_bounds)
        except DrivetrainError as refusal:  # the others still wait for this slice: refuse together, after the pull
            error = refusal
        decision = decide(notes) if self.rank == 0 else torch.zeros(DECISION)
        failed = torch.tensor([float(error is not None)])
        encoded = torch.zeros(0) if error is not None and self.codec is not None else self._encode_result(mine[0])
        answer = _bytes(decision, failed, encoded, mine[1])
        answers = self._to_all(answer, rest_bounds)
        if error is not None:
            raise error
        heads = [a[:HEAD].clone().view(torch.float32) for a in answers]
        if refused := [owner for owner, head in enumerate(heads) if head[DECISION]]:
            raise InvalidValue(f"comm: rank {refused[0]} could not combine its slice; its own message says why")
        results = [self._read(a[HEAD:], owner, rest_bounds) for owner, a in enumerate(answers)]
        slices, rests = zip(*results, strict=True)
        longest = max(a.numel() for a in answers)  # answers travel at one length
        sent = sum(part.numel() for j, part in enumerate(parts) if j != self.rank) + longest * (self.n - 1)
        return Outcome(torch.cat(slices), torch.cat(rests), notes, Decision(*heads[0][:DECISION].tolist()), sent)

    def _combine(self, received: list[Tensor], notes: Tensor, rest_bounds: Bounds) -> tuple[Tensor, Tensor]:
        """The owner's work: its slices of all ranks -> one."""
        rows = [self._read(part[4 * NOTE :], self.rank, rest_bounds) for part in received]
        change_ns, rest_nr = (torch.stack(column) for column in zip(*rows, strict=True))
        good_n = torch.isfinite(Note.columns(notes).norm).to(change_ns.device)
        if self.aggregator is not None:
            change_ns[~good_n] = torch.nan
            return self._aggregate(change_ns, self.bounds), self._aggregate(rest_nr, rest_bounds)
        weights = self._weights(notes).to(change_ns) * good_n
        weights = weights / weights.sum()
        return _mean(change_ns, weights, good_n), _mean(rest_nr, weights, good_n)

    def _aggregate(self, rows: Tensor, bounds: Bounds) -> Tensor:
        assert self.aggregator is not None
        width = max(end - begin for begin, end in bounds)
        if width == 0:
            return rows[0]
        # Zeros fill shorter slices up: an owner of none would leave the others alone in the rule's reductions.
        padded = torch.nn.functional.pad(rows, (0, width - rows.shape[1]))
        return self.aggregator(padded, self.f, reduce=self._reduce)[: rows.shape[1]]

    def _reduce(self, partial: Tensor) -> Tensor:
        summed = partial.to(self._wire_device())
        self._wait(dist.all_reduce(summed, group=self.group, async_op=True))
        return summed.to(partial.device)

    def _weights(self, notes: Tensor) -> Tensor:
        steps = Note.columns(notes).steps
        if not bool((steps > 0).any()):  # a forced averaging of models that stand still
            return torch.ones(self.n)
        if isinstance(self.weights, str):
            return steps.clone()
        return (steps > 0) * (torch.ones(self.n) if self.weights is None else self.weights.to(steps.device))

    # -- slices as bytes ------------------------------------------------------------------------------------------

    def _pieces(self, owner: int) -> list[tuple[str, int, int, int]]:
        """(name, begin, end, size of the whole parameter) of every piece of a parameter in a slice."""
        (low, high), at, found = self.bounds[owner], 0, []
        for name, p in zip(self.layout.names, self.layout.params, strict=True):
            begin, end = max(low, at), min(high, at + p.numel())
            if begin < end:
                found.append((name, begin, end, p.numel()))
            at += p.numel()
        return found

    def _encode(self, change: Tensor, owner: int, usable: bool) -> Tensor:
        if self.codec is None:
            return _cut(change, self.bounds, owner)
        feedback = self.push if usable else ErrorFeedback()  # a change that nobody uses leaves the residuals alone
        messages = [
            feedback.encode(self._codec(name, size), f"{name}[{a}:{b}]", change[a:b] if usable else torch.zeros(b - a))
            for name, a, b, size in self._pieces(owner)
        ]
        return torch.cat(messages) if messages else torch.empty(0, dtype=torch.uint8)

    def _encode_result(self, result: Tensor) -> Tensor:
        if self.codec is None or not result.numel():
            return result
        low = self.bounds[self.rank][0]
        return torch.cat(
            [
                self.pull.encode(self._codec(name, size), f"{name}[{a}:{b}]", result[a - low : b - low])
                for name, a, b, size in self._pieces(self.rank)
            ]
        )

    def _codec(self, name: str, size: int) -> Codec:
        return self.codec(name, size) if isinstance(self.codec, CodecRules) else self.codec  # type: ignore[return-value]

    def _read(self, part: Tensor, owner: int, rest_bounds: Bounds) -> tuple[Tensor, Tensor]:
        """A message without its note: the slice of changes and that of the rest, of `owner`."""
        layout, width = self.layout, self.layout.dtype.itemsize
        begin, end = rest_bounds[owner]
        end = part.numel() - width * (end - begin)
        rest = part[end:].clone().view(layout.dtype)
        if self.codec is None:
            return part[:end].clone().view(layout.dtype), rest
        decoded = [decode(message) for message in split_messages(part[:end].clone())]
        return (torch.cat(decoded) if decoded else torch.empty(0)).to(layout.device), rest

    # -- the network ----------------------------------------------------------------------------------------------

    def _wire_device(self) -> torch.device:
        return self.layout.device if dist.get_backend(self.group) == "nccl" else torch.device("cpu")

    def _to_owners(self, parts: list[Tensor]) -> list[Tensor]:
        """parts[j] goes to rank j; what came from every rank."""
        device = self._wire_device()
        sizes = [part.numel() for part in parts]
        if self.codec is None:
            arriving = [sizes[self.rank]] * self.n  # slices are cut alike everywhere
        else:
            counts = torch.empty(self.n, dtype=torch.int64, device=device)
            told = torch.tensor(sizes, device=device)
            self._wait(dist.all_to_all_single(counts, told, group=self.group, async_op=True))
            arriving = counts.tolist()
        buffer = torch.empty(sum(arriving), dtype=torch.uint8, device=device)
        sending = torch.cat([part.to(device) for part in parts])
        self._wait(dist.all_to_all_single(buffer, sending, arriving, sizes, group=self.group, async_op=True))
        return [part.to(self.layout.device) for part in buffer.split(arriving)]

    def _to_all(self, answer: Tensor, rest_bounds: Bounds) -> list[Tensor]:
        """Every rank's answer; compressed ones tell their sizes first, 8 bytes a rank."""
        device = self._wire_device()
        if self.codec is None:
            width = self.layout.dtype.itemsize
            spans = zip(self.bounds, rest_bounds, strict=True)
            sizes = [HEAD + width * (b - a + d - c) for (a, b), (c, d) in spans]
        else:
            counts = torch.empty(self.n, dtype=torch.int64, device=device)
            own = torch.tensor([answer.numel()], device=device)
            self._wait(dist.all_gather_into_tensor(counts, own, group=self.group, async_op=True))
            sizes = counts.tolist()
        padded = torch.zeros(max(sizes), dtype=torch.uint8, device=device)
        padded[: answer.numel()] = answer.to(device)
        every = torch.empty(self.n * max(sizes), dtype=torch.uint8, device=device)
        self._wait(dist.all_gather_into_tensor(every, padded, group=self.group, async_op=True))
        return [row[:size].to(self.layout.device) for row, size in zip(every.view(self.n, -1), sizes, strict=True)]

    def _wait(self, work: Any) -> None:
        if self.timeout is None:
            work.wait()
        else:
            work.wait(self.timeout)


def _mean(rows: Tensor, weights: Tensor, good: Tensor) -> Tensor:
    """Weighted mean over the good rows; NaN in a row that counts for nothing must not come through as 0 * NaN."""
    return (rows[good] * weights[good, None]).sum(0)


def _cut(flat: Tensor, bounds: Bounds, owner: int) -> Tensor:
    begin, end = bounds[owner]
    return flat[begin:end]


def _bytes(*tensors: Tensor) -> Tensor:
    device = tensors[-1].device
    return torch.cat([t.reshape(-1).to(device).contiguous().view(torch.uint8) for t in tensors])
