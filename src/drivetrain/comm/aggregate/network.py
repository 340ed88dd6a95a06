"""Sorting networks: fixed pairs to exchange, so that whole rows are sorted by minimum and maximum (Batcher 1968).

A network for n rows orders every column at once. Where only some of the sorted rows are wanted, the pairs that cannot
reach them are left out: 79 pairs instead of 98 for the middle of 19 rows, with no branch that depends on data.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

Pairs = tuple[tuple[int, int], ...]


@lru_cache(maxsize=256)
def sorting_network(n: int) -> Pairs:
    """Pairs (i, j), i < j, to exchange in order so that row i holds the smaller: Batcher's odd-even merge sort.

    It is built for the next power of two; rows beyond n would hold +infinity and never move, so their pairs are
    dropped.
    """
    size = 1 << max(n - 1, 0).bit_length()
    pairs = []
    p = 1
    while p < size:
        k = p
        while k >= 1:
            for start in range(k % p, size - k, 2 * k):
                for i in range(start, min(start + k, size - k)):
                    if i // (2 * p) == (i + k) // (2 * p):
                        pairs.append((i, i + k))
            k //= 2
        p *= 2
    return tuple((i, j) for i, j in pairs if j < n)


@lru_cache(maxsize=256)
def pruned_network(n: int, wanted: frozenset[int]) -> Pairs:
    """The pairs of `sorting_network(n)` that the `wanted` rows of the result depend on."""
    needed, kept = set(wanted), []
    for i, j in reversed(sorting_network(n)):
        if i in needed or j in needed:
            needed |= {i, j}
            kept.append((i, j))
    return tuple(reversed(kept))


def network(n: int, wanted: Iterable[int]) -> Pairs:
    """`pruned_network` for any iterable of rows."""
    return pruned_network(n, frozenset(wanted))
