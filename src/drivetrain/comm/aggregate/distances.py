"""Squared distances between workers, exact although vectors are long and lie close together; weighted sums of vectors.

Shapes: n workers, d coordinates. On the CPU the kernel sums squared differences, which never cancel. The torch version
takes the Gram matrix (a matrix product, fast on a GPU), which loses digits where norms are much larger than distances:
it subtracts the coordinate median first, leaves broken rows out, and sums in float64 the pairs that still came out
small (AggregaThor spec §6). With a mask, a distance is over the coordinates that both vectors have, scaled by d / their
number.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import kernel
from .coordinate import Statistic, column_chunks, coordinate_statistic, finite_values
from .rule import Round

_CANCELLED = 1e-3  # a Gram distance below this share of the two norms has lost three of float32's seven digits
_TINY = 1e-25  # squares of float32 differences below this underflow


def squared_distances(r: Round) -> tuple[Tensor, Tensor]:
    """All squared distances of a round, over all shards.

    Returns:
        float64 [n, n] on the CPU, symmetric, 0 on the diagonal, infinite to and from a row that holds NaN or infinity
        (and between rows with no common coordinate); and those broken rows (bool [n]).
    """
    n = r.n
    sums, common, bad = _partial_distances(r.g, r.mask)
    upper = torch.triu_indices(n, n, 1)
    i, j = upper[0], upper[1]
    size = torch.tensor([float(r.d)], dtype=torch.float64)
    packed = r.reduce(torch.cat([sums[i, j], common[i, j], bad.double(), size]))
    pairs = len(i)
    counts, bad, d = packed[pairs : 2 * pairs], packed[2 * pairs : -1] > 0, packed[-1]
    scaled = torch.where(counts > 0, packed[:pairs] * (d / counts.clamp(min=1)), torch.where(d > 0, torch.inf, 0.0))
    sqdist = torch.zeros(n, n, dtype=torch.float64)
    sqdist[i, j] = torch.where(bad[i] | bad[j], torch.inf, scaled)
    return sqdist + sqdist.T, bad


def squared_distances_to(r: Round, point: Tensor | None) -> tuple[Tensor, Tensor]:
    """Squared distance of every row to `point` [d] (None: the origin), over all shards (float64 [n]); broken rows."""
    sums, common, bad = _partial_distances_to(r.g, r.mask, point)
    size = torch.tensor([float(r.d)], dtype=torch.float64)
    packed = r.reduce(torch.cat([sums, common, bad.double(), size]))
    sums, common, bad, d = packed[: r.n], packed[r.n : 2 * r.n], packed[2 * r.n : -1] > 0, packed[-1]
    scaled = torch.where(common > 0, sums * (d / common.clamp(min=1)), torch.where(d > 0, torch.inf, 0.0))
    return torch.where(bad, torch.inf, scaled), bad


def combine(r: Round, weights: Tensor) -> Tensor:
    """weights [n] or [k, n] times the vectors: [d] or [k, d], in the type of g.

    Rows of weight 0 are never read, so they may hold anything. A coordinate that some rows lack is divided by the
    weight that is there; one that no weighted row has gets the median of all who sent it, 0 if nobody did (counted in
    info["empty"]).
    """
    rows = torch.atleast_2d(weights).to(torch.float64).cpu()
    if kernel.fits(r.g):
        out, unfilled = kernel.combine(r.g, r.mask, rows)
    else:
        out, unfilled = _torch_combine(r.g, r.mask, rows)
    empty = 0
    if unfilled:
        columns = torch.nonzero(torch.isnan(out).any(0)).flatten()
        mask = None if r.mask is None else r.mask[:, columns].contiguous()
        median, _, empty = coordinate_statistic(r.g[:, columns].contiguous(), mask, Statistic("mean", r.f))
        out[:, columns] = torch.where(torch.isnan(out[:, columns]), median, out[:, columns])
    r.info["empty"] = empty
    return out if weights.ndim == 2 else out[0]


def _partial_distances(g: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """One shard's sums of squared differences, numbers of common coordinates (upper triangles), and broken rows."""
    if not kernel.fits(g):
        return _gram_distances(g, mask)
    sums, common, bad = kernel.distances(g, mask, exact=False)
    whole = ~bad
    inside = sums[whole][:, whole]
    largest = inside.max() if inside.numel() else torch.zeros(())
    if not torch.isfinite(largest) or 0 <= largest < _TINY:
        sums, common, bad = kernel.distances(g, mask, exact=True)
    return sums, common, bad


def _gram_distances(g: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    n = g.shape[0]
    present, bad = _present(g, mask)
    center, _, _ = coordinate_statistic(g, mask, Statistic("mean"))
    sums, scale, common = (torch.zeros(n, n, dtype=torch.float64, device=g.device) for _ in range(3))
    for columns in column_chunks(g):
        here = present[:, columns]
        complete = bool(here.all())
        x = _centred(g[:, columns], center[columns], None if complete else here)
        gram = (x @ x.T).double()
        if complete:
            squares = gram.diagonal()[:, None].expand(n, n)
            common += x.shape[1]
        else:
            p = here.to(x.dtype)
            squares = ((x * x) @ p.T).double()
            common += (p @ p.T).double()
        sums += squares + squares.T - 2 * gram
        scale += squares + squares.T
    lost = ~(sums > _CANCELLED * scale) & ~(bad[:, None] | bad[None, :])
    for i, j in torch.nonzero(torch.triu(lost, 1)).tolist():
        both = present[i] & present[j]
        sums[i, j] = torch.where(both, g[i].double() - g[j].double(), 0.0).square().sum()
    return sums.cpu(), common.cpu(), bad.cpu()


def _present(g: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Where a finite value arrived (bool [n, d]), and the rows in which one arrived that is not finite."""
    finite = finite_values(g)
    return (finite, ~finite.all(1)) if mask is None else (finite & mask, (mask & ~finite).any(1))


def _centred(g: Tensor, center: Tensor, here: Tensor | None) -> Tensor:
    """g - center, 0 where `here` is False; in float64 where float32 products would overflow, underflow, or be rough."""
    x = g - center if here is None else torch.where(here, g - center, 0.0)
    rough = g.is_cuda and torch.get_float32_matmul_precision() != "highest"  # TF32 products have three digits
    if rough or not 1e-12 < x.abs().max() < 1e15:
        wide = g.double() - center.double()
        x = wide if here is None else torch.where(here, wide, 0.0)
    return x


def _partial_distances_to(g: Tensor, mask: Tensor | None, point: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    if kernel.fits(g):
        return kernel.distances_to(g, mask, None if point is None else point.to(torch.float32).contiguous())
    present, bad = _present(g, mask)
    sums = torch.zeros(g.shape[0], dtype=torch.float64, device=g.device)
    for columns in column_chunks(g):
        x = g[:, columns].double()
        if point is not None:
            x = x - point[columns].double()
        sums += torch.where(present[:, columns], x, 0.0).square().sum(1)
    return sums.cpu(), present.sum(1).double().cpu(), bad.cpu()


def _torch_combine(g: Tensor, mask: Tensor | None, weights: Tensor) -> tuple[Tensor, int]:
    out = torch.empty(weights.shape[0], g.shape[1], dtype=g.dtype, device=g.device)
    unfilled = 0
    for columns in column_chunks(g):
        chunk = g[:, columns]
        present = finite_values(chunk)
        if mask is not None:
            present &= mask[:, columns]
        for k, row in enumerate(weights.tolist()):
            total = torch.zeros(chunk.shape[1], dtype=torch.float64, device=g.device)
            share, whole = total.clone(), 0.0
            for weight, x, here in zip(row, chunk, present, strict=True):
                if weight:
                    whole += weight
                    total += torch.where(here, x.double(), 0.0) * weight
                    share += here.double() * weight
            value = total * torch.where(share == whole, 1.0, whole / share)
            missing = share <= 0
            unfilled += int(missing.sum())
            out[k, columns] = torch.where(missing, torch.nan, value).to(g.dtype)
    return out, unfilled
