"""One exchange: n ranks' gradients become one (3LC §2.6, AggregaThor §2.6).

    sharded      encode -> push to owners -> aggregate -> encode -> pull -> decode
    server       the same with rank 0 as the only owner
    replicated   encode -> push to all -> compare digests -> aggregate everywhere
    (allgather)  encode -> push to all -> aggregate everywhere: a topology of "sharded", where latency counts

What goes wrong on one rank is told to all in the step itself: by a notice in place of its push message, or in the head
of its answer. So all ranks raise, skip or go on together. n ranks, d values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from drivetrain.base.errors import DrivetrainError, RunFailed

from .aggregate import Quarantine, Rule, Suspicion, TooManyNonFinite, distances_by_weights, distances_to_result
from .aggregate.krum import DistanceRule
from .answer import FAILED, NONFINITE, OK, Head, Notice, no_values, ranks_in_words
from .codec import NonFiniteGradient, WireError
from .coder import Coder
from .equivocation import digests, equivocators
from .report import ExchangeReport
from .slices import Trust, Unit, slices_for
from .transport import Arrived, Transport


class Equivocation(RunFailed):
    """A rank sent different messages to different ranks, and more ranks are faulty than the rule tolerates."""


class Pipeline:
    """What one rank does in every exchange.

    Args:
        transport, coder, rule, account: the parts.
        f: how many ranks may be faulty.
        trust: who aggregates.
        to_all: every rank gets every message and aggregates alone.
        quarantine: when a rank is left out for good; None: never.
    """

    def __init__(
        self,
        transport: Transport,
        coder: Coder,
        rule: Rule,
        account: ExchangeReport,
        *,
        f: int,
        trust: Trust,
        quarantine: Quarantine | None,
    ) -> None:
        self.transport, self.coder, self.rule, self.account = transport, coder, rule, account
        self.f, self.trust, self.quarantine = f, trust, quarantine
        self.to_all = trust == "replicated"
        self.may_miss = transport.lossy or getattr(transport, "deadline_s", None) is not None
        self.suspicion = Suspicion(transport.world_size)
        self.left_out: list[int] = []
        self.transform: Callable[[Sequence[Unit], Tensor], Tensor] | None = None  # of the result, at its owner

    def run(self, units: Sequence[Unit], gradients: Mapping[str, Tensor], order: Sequence[str], step: int) -> None:
        """Replace gradients by their aggregate, in place.

        Args:
            units: of the parameters in `gradients`, the same on every rank.
            gradients: by parameter.
            order: names of all parameters; notices name them by their place.
            step: number of this exchange.

        Raises:
            NonFiniteGradient: too many ranks had values that are not finite; on all ranks, nothing was changed.
            WireError: a message to this rank was broken; the other ranks raise RunFailed.
            RunFailed: another rank could not do its part.
        """
        account, transport = self.account, self.transport
        before = transport.sent
        with account.timed("encode"):
            notice = find_broken(gradients, order)
            outgoing = self.coder.outgoing(units, gradients) if notice is None else self._broken(units, notice)
        with account.timed("push"):
            mine = slices_for(units, transport.rank)
            expect = sum(piece.numel for piece in mine)
            arrived = transport.push(outgoing, step=step, expect=expect)
        if self.trust == "replicated":
            with account.timed("pull"):
                arrived = self._without_equivocators(arrived, step)
        with account.timed("aggregate"):
            head, result, error = self._aggregate(arrived, units, order, step)
        if self.to_all:
            heads, by_owner, payloads = [head], [result], []
        else:
            with account.timed("pull"):
                payload = self.coder.answer(result, units, transport.rank) if head.code == OK else no_values()
                answers = transport.pull(head.pack(payload))
            parts = [Head.split(answer, owner, step) for owner, answer in enumerate(answers)]
            heads, payloads = [part[0] for part in parts], [part[1] for part in parts]
            if self.quarantine is not None and heads[0].code == OK and heads[0].text:
                self.left_out = [int(rank) for rank in heads[0].text.split(",")]
        self._stop_if_told(
            heads, step, error, lambda owners: self._take_back(units, gradients, outgoing, owners, notice)
        )
        missed_by = [owner for owner, head in enumerate(heads) if transport.rank in head.absent]
        self._take_back(units, gradients, outgoing, missed_by, notice)
        with account.timed("decode"):
            if not self.to_all:
                by_owner = [
                    self.coder.read(
                        payload, [p for u in units for p in u.slices if p.owner == owner], f"rank {owner} answered"
                    )
                    for owner, payload in enumerate(payloads)
                ]
            self.coder.write(by_owner, units, gradients)
        account.bytes_wire += transport.sent - before
        n = transport.world_size
        account.bytes_raw += 2 * (n - 1) * 4 * sum(gradients[name].numel() for name in gradients) // n

    def _take_back(
        self,
        units: Sequence[Unit],
        gradients: Mapping[str, Tensor],
        outgoing: Sequence[Tensor],
        owners: Sequence[int],
        notice: Notice | None,
    ) -> None:
        if notice is None:  # a rank with a broken gradient encoded nothing
            self.coder.take_back(units, gradients, outgoing, owners[:1] if self.to_all else owners)

    def _broken(self, units: Sequence[Unit], notice: Notice) -> list[Tensor]:
        """What a rank with a broken gradient sends: a notice, or NaN where only values can travel."""
        ranks = range(self.transport.world_size)
        if not self.transport.lossy:
            return [notice.pack()] * len(ranks)
        return [torch.full((sum(p.numel for p in slices_for(units, rank)),), float("nan")) for rank in ranks]

    def _without_equivocators(self, arrived: list[Arrived], step: int) -> list[Arrived]:
        """Drop ranks that did not send the same to all; the same ones everywhere."""
        whole = [message if isinstance(message, Tensor) else None for message in arrived]
        answers = self.transport.pull(Head(OK, step).pack(digests(whole)))
        told = [Head.split(answer, owner, step)[1] for owner, answer in enumerate(answers)]
        out = equivocators(told, self.f)
        if len(out) > self.f:
            raise Equivocation(
                f"comm: {ranks_in_words(out)} did not send the same to all ranks in exchange {step}, f is {self.f}",
                hint="its memory, its link or its will is bad; a robust rule with f > 0 goes on without it",
            )
        return [None if rank in out else message for rank, message in enumerate(arrived)]

    def _aggregate(
        self, arrived: Sequence[Arrived], units: Sequence[Unit], order: Sequence[str], step: int
    ) -> tuple[Head, Tensor, DrivetrainError | None]:
        """This owner's part: its head, its slices of the aggregate, and the error that its head tells."""
        nothing = torch.empty(0, device=self.transport.device)
        if self.trust == "server" and self.transport.rank != 0:
            return Head(OK, step), nothing, None
        notices = {rank: found for rank, m in enumerate(arrived) if isinstance(m, Tensor) and (found := Notice.of(m))}
        gone = {rank for rank, message in enumerate(arrived) if message is None}
        if not self.transport.lossy and len(set(notices) - set(self.left_out)) > self.f - len(self.left_out):
            return Head(NONFINITE, step, _nonfinite_text(notices, order, step)), nothing, None
        absent = frozenset(gone)
        error: DrivetrainError | None = None
        rows: list[tuple[Tensor, Tensor | None]] = []
        width = sum(piece.numel for piece in slices_for(units, self.transport.rank))
        for rank, message in enumerate(arrived):
            try:
                if message is None or rank in notices:
                    rows.append((torch.full((width,), float("nan"), device=self.transport.device), None))
                else:
                    rows.append(self.coder.incoming(message, units, self.transport.rank, rank))
            except WireError as broken:
                # With f > 0 it is one faulty vector; with f = 0 the others still wait in the rule's sums.
                error = error or (None if self.f else WireError(f"{broken.message} (exchange {step})"))
                rows.append((torch.full((width,), float("nan") if self.f else 0.0, device=self.transport.device), None))
        try:
            result = self._decide(rows, gone)
        except TooManyNonFinite as broken:
            return Head(NONFINITE, step, str(broken.at_step(step))), nothing, None
        except DrivetrainError as refusal:
            return Head(FAILED, step, str(refusal)), nothing, refusal
        if error is not None:
            return Head(FAILED, step, str(error)), nothing, error
        if self.transform is not None:
            result = self.transform(units, result)
        return Head(OK, step, ",".join(map(str, self._quarantined())), absent), result, None

    def _decide(self, rows: Sequence[tuple[Tensor, Tensor | None]], gone: set[int]) -> Tensor:
        """The rule, on the ranks that are not in quarantine."""
        keep = [rank for rank in range(len(rows)) if rank not in self.left_out]
        vectors = torch.stack([rows[rank][0] for rank in keep])
        mask = None
        if self.may_miss:
            mask = torch.ones(vectors.shape, dtype=torch.bool, device=vectors.device)
            for index, rank in enumerate(keep):
                arrived = rows[rank][1]
                if rank in gone:
                    mask[index] = False
                elif arrived is not None:
                    mask[index] = arrived
            vectors = torch.where(mask, vectors, 0.0)
        alone = self.to_all or self.trust == "server"
        reduce = None if alone else self.transport.sum
        info: dict[str, Any] = {}
        result = self.rule(vectors, self.f - len(self.left_out), mask=mask, info=info, reduce=reduce)
        if self.f:
            weights = info.get("weights")
            if isinstance(self.rule, DistanceRule) and mask is None and weights is not None and weights.ndim == 1:
                squares = distances_by_weights(info["sqdist"], weights)  # known of all shards already
            else:
                squares = distances_to_result(vectors, result, mask=mask).double()
                squares = squares if alone else self.transport.sum(squares)
            self.suspicion.observe(info, sqdist_to_result=squares, ranks=keep)
        return result

    def _quarantined(self) -> list[int]:
        """Whom this rank would leave out from now on; rank 0's word counts."""
        if self.quarantine is None or (self.transport.rank and not self.to_all):
            return []
        if not self.left_out:
            decided = sorted(self.quarantine.decide(self.suspicion.report(), self.rule, self.f))
            if self.to_all:
                self.left_out = decided  # every rank has seen the same
            return decided
        return self.left_out

    def _stop_if_told(
        self,
        heads: Sequence[Head],
        step: int,
        error: DrivetrainError | None,
        take_back: Callable[[Sequence[int]], None],
    ) -> None:
        """Raise what an owner told, after taking back what was encoded for nothing."""
        bad = [(owner, head) for owner, head in enumerate(heads) if head.code != OK]
        if not bad:
            return
        take_back(range(self.transport.world_size))
        if error is not None:
            raise error
        owner, head = max(bad, key=lambda item: item[1].code)
        if head.code == NONFINITE:
            raise NonFiniteGradient(
                head.text, hint='on_nonfinite="skip" skips such a step on all ranks; a rule with f > 0 bears it'
            )
        raise RunFailed(
            f"comm: rank {owner} could not aggregate its part of exchange {step}: {head.text.removeprefix('comm: ')}"
        )


def find_broken(gradients: Mapping[str, Tensor], order: Sequence[str]) -> Notice | None:
    """The first parameter with a value that is not finite."""
    for name in order:
        if name in gradients and gradients[name].numel():
            low, high = torch.aminmax(gradients[name].detach())
            if not (bool(torch.isfinite(low)) and bool(torch.isfinite(high))):
                return Notice(order.index(name), int((~torch.isfinite(gradients[name])).sum()))
    return None


def _nonfinite_text(notices: Mapping[int, Notice], order: Sequence[str], step: int) -> str:
    found = []
    for rank, notice in sorted(notices.items()):
        name = order[notice.parameter] if notice.parameter < len(order) else "?"
        plural = "value" if notice.count == 1 else "values"
        found.append(f"parameter {name!r} has {notice.count} non-finite {plural} on rank {rank}")
    return f"comm: {'; '.join(found)} (step {step})"
