"""trust="replicated": did a rank send the same to all? (AggregaThor §2.4, without a trusted server.)

Every rank tells a 16-byte digest of what it received from each. A column in which the digests differ names a sender
that told different ranks different things, or a witness that lies about it. At most f ranks are faulty, so a witness
that contradicts most others about more than f senders is itself one of the faulty.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

DIGEST = 16  # bytes
_NOTHING = bytes(DIGEST)


def digests(arrived: Sequence[Tensor | None]) -> Tensor:
    """The digests of what each rank sent to this one, uint8 [16 n]; zeros where nothing came."""
    found = b"".join(_NOTHING if message is None else digest(message) for message in arrived)
    return torch.frombuffer(bytearray(found), dtype=torch.uint8)


def digest(message: Tensor) -> bytes:
    """BLAKE2b-128 of a tensor's bytes."""
    data = message.detach().cpu().contiguous().view(torch.uint8).numpy().data
    return hashlib.blake2b(data, digest_size=DIGEST).digest()


def equivocators(told: Sequence[Tensor], f: int) -> list[int]:
    """Ranks to leave out, the same everywhere: those whose messages differ between ranks, and witnesses that lie.

    Args:
        told: what `digests` gave on each rank, in rank order.
        f: how many ranks may be faulty.
    """
    n = len(told)
    table = [[bytes(row[DIGEST * s : DIGEST * (s + 1)].tolist()) for s in range(n)] for row in told]
    usual = [Counter(row[sender] for row in table).most_common(1)[0][0] for sender in range(n)]
    contradicts = [sum(row[sender] != usual[sender] for sender in range(n)) for row in table]
    liars = {witness for witness, count in enumerate(contradicts) if count > f > 0}
    honest = [row for witness, row in enumerate(table) if witness not in liars]
    two_faced = {s for s in range(n) if len({row[s] for row in honest}) > 1}
    return sorted(liars | two_faced)
