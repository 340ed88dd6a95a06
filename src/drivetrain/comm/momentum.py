"""Worker momentum: what robust rules see is each worker's running mean, m = beta m + (1 - beta) g.

Running means of honest workers lie closer together than their gradients, so a rule tells hostile ones better
(El Mhamdi et al. 2021; AggregaThor §8).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class WorkerMomentum:
    """The running means of one worker.

    Args:
        beta: 0 to below 1.
    """

    def __init__(self, beta: float) -> None:
        self.beta = beta
        self.means: dict[str, Tensor] = {}

    def of(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """New running means with these gradients; kept when `keep` is called."""
        return {
            name: torch.lerp(g.detach(), self.means[name].to(g), self.beta)
            if name in self.means
            else g.detach().clone()
            for name, g in gradients.items()
        }

    def keep(self, means: Mapping[str, Tensor]) -> None:
        """The step counted."""
        self.means |= means
