"""Optimizers by name, and YellowFin: momentum SGD that tunes its own momentum and learning rate."""

from .momentum_sensor import measure_total_momentum
from .nonfinite import NonFiniteGradient
from .options import STEADY
from .registry import build, names
from .single_step import single_step
from .staleness import StaleGradients
from .stats import YellowFinStats
from .suggest import Suggestion, suggest
from .yellowfin import YellowFin

__all__ = [
    "STEADY",
    "NonFiniteGradient",
    "StaleGradients",
    "Suggestion",
    "YellowFin",
    "YellowFinStats",
    "build",
    "measure_total_momentum",
    "names",
    "single_step",
    "suggest",
]
