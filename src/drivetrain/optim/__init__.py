"""Optimizers by name, and YellowFin: momentum SGD that tunes its own momentum and learning rate."""

from .momentum_sensor import measure_total_momentum
from .nonfinite import NonFiniteGradient
from .single_step import single_step
from .staleness import StaleGradients
from .stats import YellowFinStats
from .yellowfin import YellowFin

__all__ = [
    "NonFiniteGradient",
    "StaleGradients",
    "YellowFin",
    "YellowFinStats",
    "measure_total_momentum",
    "single_step",
]
