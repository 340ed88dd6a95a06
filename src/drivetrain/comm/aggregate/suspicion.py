"""Who is suspect? How often a rank was chosen, how far out it lies, what it broke or lost; when to leave it out.

This is bookkeeping of facts that rules put into `info`; it never looks at a gradient again. A rank with unlike data
looks suspect too: read the report before you believe it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .distances import squared_distances_to
from .errors import RobustnessError
from .rule import Round, Rule, as_matrix, check_mask

_NORMAL = 1.4826  # the median absolute deviation of a normal distribution times this is its standard deviation


@dataclass(frozen=True)
class RankReport:
    """What is known of one rank.

    Attributes:
        rank: its number.
        rounds: in how many rounds it was seen.
        selected_share: share of these rounds in which the rule gave it weight; None where the rule chooses nobody.
        influence: its mean weight times n: 1 is an equal part; None where the rule chooses nobody.
        z_distance: mean over the rounds of the robust z-score of its distance to the result, over all ranks.
        nonfinite: rounds in which it sent NaN or infinity.
        lost_share: share of its values that never arrived.
    """

    rank: int
    rounds: int
    selected_share: float | None
    influence: float | None
    z_distance: float
    nonfinite: int
    lost_share: float


@dataclass(frozen=True)
class Quarantine:
    """When a rank is left out of later rounds.

    Attributes:
        after: rounds to watch before any decision.
        nonfinite_share: left out above this share of rounds with NaN or infinity.
        z: left out above this mean z-score of the distance, but only if the rule also chose it in less than `selected`
            of the rounds (where the rule chooses at all): far away alone may be unlike data.
        selected: see z.
    """

    after: int = 50
    nonfinite_share: float = 0.5
    z: float = 6.0
    selected: float = 0.1

    def __post_init__(self) -> None:
        if self.after < 1 or not self.z > 0 or not 0 <= self.selected <= 1 or not 0 <= self.nonfinite_share <= 1:
            raise RobustnessError(f"comm: {self}: wanted after >= 1, z > 0, and shares between 0 and 1")

    def decide(self, reports: Sequence[RankReport], rule: Rule, f: int) -> list[int]:
        """Ranks to leave out, worst first: at most f, and so few that the rule can still bear the others.

        A left-out rank was one of the f, so the ranks that remain are judged with f less by as many.
        """
        suspects = sorted((r for r in reports if self.reason(r)), key=lambda r: (-_guilt(r), r.rank))[:f]
        while suspects and len(reports) - len(suspects) < rule.min_n(f - len(suspects)):
            suspects.pop()
        return [report.rank for report in suspects]

    def reason(self, report: RankReport) -> str | None:
        """Why a rank is suspect, in words; None when it is not."""
        if report.rounds < self.after:
            return None
        if report.nonfinite > self.nonfinite_share * report.rounds:
            return f"NaN or infinity in {report.nonfinite} of {report.rounds} rounds"
        unchosen = report.selected_share is None or report.selected_share < self.selected
        if report.z_distance <= self.z or not unchosen:
            return None
        chosen = "" if report.selected_share is None else f", chosen in {report.selected_share:.0%} of the rounds"
        return f"{report.z_distance:.1f} deviations farther out than the others{chosen}"


def _guilt(report: RankReport) -> float:
    return report.z_distance + 1e6 * report.nonfinite / max(report.rounds, 1)


class Suspicion:
    """The account of a run, a round at a time.

    Args:
        world_size: n.
    """

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self._sums = {key: torch.zeros(world_size, dtype=torch.float64) for key in _COLUMNS}

    def observe(
        self,
        info: dict[str, Any],
        *,
        sqdist_to_result: Tensor | None = None,
        lost_share: Tensor | None = None,
        ranks: Sequence[int] | None = None,
    ) -> None:
        """Add a round.

        Args:
            info: what a rule's call filled in: "weights" [n] or [theta, n], "nonfinite", "lost_share".
            sqdist_to_result: squared distance of each vector to the result [n] (`distances_to_result`).
            lost_share: share of each vector that never arrived [n]; None is info's, which a call with a mask fills in.
            ranks: which ranks took part, in the order of the vectors; None is all.
        """
        seen = torch.arange(self.world_size) if ranks is None else torch.tensor(list(ranks), dtype=torch.long)
        add = self._sums
        add["rounds"][seen] += 1
        weights = info.get("weights")
        if weights is not None:
            share = weights.double().cpu().reshape(-1, len(seen)).mean(0)
            add["chooser"][seen] += 1
            add["chosen"][seen] += (share > 0).double()
            add["influence"][seen] += share * len(seen)
        for index in info.get("nonfinite", ()):
            add["nonfinite"][seen[index]] += 1
        if sqdist_to_result is not None:
            add["measured"][seen] += 1
            add["z"][seen] += z_scores(sqdist_to_result.double().cpu().sqrt())
        lost_share = info.get("lost_share") if lost_share is None else lost_share
        if lost_share is not None:
            add["lost"][seen] += lost_share.double().cpu()

    def report(self) -> list[RankReport]:
        """What is known of every rank, in rank order."""
        return [self._report(rank) for rank in range(self.world_size)]

    def _report(self, rank: int) -> RankReport:
        row = {key: float(values[rank]) for key, values in self._sums.items()}

        def mean(key: str, count: str) -> float:
            return row[key] / row[count] if row[count] else 0.0

        chooses = row["chooser"] > 0
        return RankReport(
            rank=rank,
            rounds=int(row["rounds"]),
            selected_share=mean("chosen", "chooser") if chooses else None,
            influence=mean("influence", "chooser") if chooses else None,
            z_distance=mean("z", "measured"),
            nonfinite=int(row["nonfinite"]),
            lost_share=mean("lost", "rounds"),
        )

    def ignored(self, *, below: float = 0.1, after: int = 50) -> list[int]:
        """Ranks chosen in less than `below` of at least `after` rounds: faulty, or honest with unlike data."""
        return [
            r.rank
            for r in self.report()
            if r.rounds >= after and r.selected_share is not None and r.selected_share < below
        ]

    def state_dict(self) -> dict[str, Tensor]:
        """The sums, for a checkpoint."""
        return {key: values.clone() for key, values in self._sums.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a checkpoint.

        Raises:
            RobustnessError: it is of another world size, or of another version.
        """
        if set(state) != set(_COLUMNS) or any(len(values) != self.world_size for values in state.values()):
            sizes = sorted({len(values) for values in state.values()})
            raise RobustnessError(f"comm: a suspicion account of {sizes} ranks can't go on with {self.world_size}")
        self._sums = {key: values.clone().double() for key, values in state.items()}


_COLUMNS = ("rounds", "chooser", "chosen", "influence", "measured", "z", "nonfinite", "lost")


def z_scores(distance: Tensor, *, limit: float = 100.0) -> Tensor:
    """Robust z-scores [n]: distance from the median in units of the median absolute deviation, within +-`limit`."""
    finite = distance[torch.isfinite(distance)]
    if not len(finite):
        return torch.zeros_like(distance)
    middle = finite.median()
    deviation = float((finite - middle).abs().median()) * _NORMAL
    # Equal vectors have no spread: rounding alone must not look like an outlier.
    spread = max(deviation, 1e-6 * float(middle), math.ulp(0.0) * 2**52)
    return torch.nan_to_num((distance - middle) / spread, nan=limit, posinf=limit, neginf=-limit).clamp(-limit, limit)


def distances_to_result(g: Tensor, result: Tensor, *, mask: Tensor | None = None, reduce: Any | None = None) -> Tensor:
    """Squared distance of every vector to a rule's result, float64 [n]; infinite for one with NaN or infinity.

    Args:
        g: [n, d]; result: [d]; mask: bool [n, d], True where a value arrived; reduce: as in a rule's call.
    """
    matrix, _ = as_matrix(g)
    r = Round(matrix, 0, check_mask(mask, matrix))
    if reduce is not None:
        r.reduce = reduce
    return squared_distances_to(r, result)[0]


def distances_by_weights(sqdist: Tensor, weights: Tensor) -> Tensor:
    """Squared distance of every vector to the weighted mean of all, from their distances to one another alone.

    |g_i - sum_j w_j g_j|^2 = sum_j w_j D_ij - 1/2 sum_jk w_j w_k D_jk where the weights sum to 1: no second look at the
    vectors, and nothing more to be summed over shards.

    Args:
        sqdist: D, squared distances [n, n], infinite for a vector that is not finite.
        weights: w [n], zero for such a vector.

    Returns:
        float64 [n].
    """
    chosen = weights > 0
    w, to_chosen = weights.double()[chosen], sqdist.double()[:, chosen]
    return (to_chosen @ w - 0.5 * (w @ to_chosen[chosen] @ w)).clamp_min(0)
