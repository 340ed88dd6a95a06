"""Between gradients and messages: codecs with what they hold back, on both ways (3LC §2.2).

Push residuals belong to the worker, pull residuals to the owner of a slice; they never mix. A transport that may lose
any value takes plain vectors instead of messages, float32 or float16.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from .answer import no_values
from .codec import FP16, Codec, ErrorFeedback, Raw, WireError, decode, split_messages
from .report import ExchangeReport
from .slices import ALL, Slice, Unit, slices_for
from .transport import Partial

RAW = Raw()


class Coder:
    """Encodes and decodes for one rank.

    Args:
        world_size: n.
        account: gets the bytes of each parameter.
        lossy: the transport takes vectors, not messages.
    """

    def __init__(self, world_size: int, account: ExchangeReport, *, lossy: bool) -> None:
        self.world_size, self.account, self.lossy = world_size, account, lossy
        self.push_feedback, self.pull_feedback = ErrorFeedback(), ErrorFeedback()
        self.plain = False  # warm-up: everything raw

    def outgoing(self, units: Sequence[Unit], gradients: Mapping[str, Tensor]) -> list[Tensor]:
        """One message a rank: the slices that it owns."""
        parts: dict[int, list[Tensor]] = {owner: [] for owner in (ALL, *range(self.world_size))}
        for unit in units:
            flat = unit.gather(gradients)
            wire = 0
            for piece in unit.slices:
                message = self._message(self.push_feedback, self._codec(unit), piece, flat[piece.begin : piece.end])
                parts[piece.owner].append(message)
                wire += message.numel() * message.element_size()
            self.account.add_bytes(unit, wire)
        device = flat.device
        everywhere = parts.pop(ALL)
        return [self._join([*everywhere, *messages], device) for messages in parts.values()]

    def take_back(
        self,
        units: Sequence[Unit],
        gradients: Mapping[str, Tensor],
        outgoing: Sequence[Tensor],
        owners: Collection[int],
    ) -> None:
        """Undo the residuals of what some owners never used: as if `outgoing` had not been called for them."""
        if self.lossy or not owners:
            return
        for owner in owners:
            messages = iter(split_messages(outgoing[owner]))
            for unit in units:
                for piece in unit.slices:
                    if piece.owner not in (owner, ALL):
                        continue
                    message = next(messages)
                    residual = self.push_feedback.residuals.get(piece.key)
                    if residual is None:
                        continue
                    values = unit.gather(gradients)[piece.begin : piece.end].to(residual)
                    residual.add_(decode(message)).sub_(values)  # S - sent + sent - x

    def drain(self, slices: Mapping[str, Sequence[Slice]], gradients: Mapping[str, Tensor]) -> None:
        """Add residuals to gradients whose plain mean is taken next, and forget them."""
        for name, pieces in slices.items():
            flat = gradients[name].detach().view(-1)
            for piece in pieces:
                for feedback, share in ((self.push_feedback, 1), (self.pull_feedback, self.world_size)):
                    if piece.key in feedback:
                        flat[piece.begin : piece.end].add_(feedback.residuals[piece.key].to(flat), alpha=share)
                        feedback.reset(piece.key)

    def incoming(
        self, arrived: Tensor | Partial, units: Sequence[Unit], owner: int, sender: int
    ) -> tuple[Tensor, Tensor | None]:
        """The values of a sender for this owner, flat, and where they arrived (None: everywhere).

        Raises:
            WireError: names the sender and the parameter.
        """
        mine = slices_for(units, owner)
        width = sum(piece.numel for piece in mine)
        if isinstance(arrived, Partial) or self.lossy:
            values, mask = (arrived.values, arrived.mask) if isinstance(arrived, Partial) else (arrived, None)
            if values.numel() != width:
                raise WireError(f"comm: rank {sender} sent {values.numel()} values, this owner has {width}")
            return values.float(), mask
        return self.read(arrived, mine, f"rank {sender} sent"), None

    def read(self, messages: Tensor, pieces: Sequence[Slice], whose: str) -> Tensor:
        """Decode messages that stand one after another, one a slice.

        Raises:
            WireError: a message is broken, or there are too few or too many; `whose` and the parameter begin the text.
        """
        out = torch.empty(sum(piece.numel for piece in pieces), device=messages.device)
        try:
            parts = split_messages(messages)
        except WireError as error:
            raise WireError(f"comm: {whose} a broken message: {_told(error)}") from None
        if len(parts) != len(pieces):
            raise WireError(f"comm: {whose} {len(parts)} messages, this exchange has {len(pieces)}")
        at = 0
        for piece, part in zip(pieces, parts, strict=True):
            try:
                decode(part, out=out[at : at + piece.numel])
            except ValueError as error:
                raise WireError(f"comm: {whose} a broken message of {piece.name!r}: {_told(error)}") from None
            at += piece.numel
        return out

    def answer(self, result: Tensor, units: Sequence[Unit], owner: int) -> Tensor:
        """This owner's slices of the aggregate as messages."""
        codec_of = {unit.name: self._codec(unit) for unit in units}
        mine = [piece for unit in units for piece in unit.slices if piece.owner == owner]
        if not mine:
            return no_values().to(result.device)
        parts = result.split([piece.numel for piece in mine])
        return torch.cat(
            [
                self._message(self.pull_feedback, codec_of[piece.name], piece, part)
                for piece, part in zip(mine, parts, strict=True)
            ]
        )

    def write(self, by_owner: Sequence[Tensor], units: Sequence[Unit], gradients: Mapping[str, Tensor]) -> None:
        """Put the decoded values of all owners back into the gradients."""
        taken = [0] * len(by_owner)
        for unit in units:
            parts = []
            for piece in unit.slices:
                source = 0 if piece.owner == ALL else piece.owner
                parts.append(by_owner[source][taken[source] : taken[source] + piece.numel])
                taken[source] += piece.numel
            unit.scatter(parts[0] if len(parts) == 1 else torch.cat(parts), gradients)

    def _codec(self, unit: Unit) -> Codec:
        return RAW if self.plain else unit.codec

    def _message(self, feedback: ErrorFeedback, codec: Codec, piece: Slice, values: Tensor) -> Tensor:
        """One slice as a message; what a raw message can't lose needs no residual."""
        pushed_as_vector = self.lossy and feedback is self.push_feedback
        if pushed_as_vector:
            return _vector(codec, values)
        if isinstance(codec, Raw) and piece.key not in feedback:
            return codec.encode(values).data
        return feedback.encode(codec, piece.key, values)

    def _join(self, parts: list[Tensor], device: torch.device) -> Tensor:
        if not parts:
            return torch.empty(0, dtype=torch.float32 if self.lossy else torch.uint8, device=device)
        if self.lossy and any(part.dtype == torch.float32 for part in parts):
            parts = [part.float() for part in parts]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def _vector(codec: Codec, values: Tensor) -> Tensor:
    if isinstance(codec, FP16):
        return values.float().clamp(-65504, 65504).half()
    return values.float()


def _told(error: Exception) -> str:
    return str(error).splitlines()[0].removeprefix("comm: ")
