"""Aggregation rules that bear faulty and hostile workers: n vectors in, f of them not to be trusted, one vector out."""

from .attacks import Attack, attack_names, flip_labels, simulate
from .bulyan import Bulyan
from .compose import ARC, NNM, Bucketing, Chain, Clip, PreAggregator
from .coordinate import Average, AverageNan, MeaMed, Median, Phocas, TrimmedMean
from .errors import FaultCountError, RobustnessError, TooManyMissing, TooManyNonFinite, VectorError
from .explain import Explanation, explain
from .geometric import CGE, CenteredClipping, GeometricMedian
from .krum import Krum, MultiKrum
from .mda import MDA
from .registry import get, names, pre_names
from .rule import Aggregator, Rule, Selector
from .suspicion import Quarantine, RankReport, Suspicion, distances_by_weights, distances_to_result

__all__ = [
    "ARC",
    "CGE",
    "MDA",
    "NNM",
    "Aggregator",
    "Attack",
    "Average",
    "AverageNan",
    "Bucketing",
    "Bulyan",
    "CenteredClipping",
    "Chain",
    "Clip",
    "Explanation",
    "FaultCountError",
    "GeometricMedian",
    "Krum",
    "MeaMed",
    "Median",
    "MultiKrum",
    "Phocas",
    "PreAggregator",
    "Quarantine",
    "RankReport",
    "RobustnessError",
    "Rule",
    "Selector",
    "Suspicion",
    "TooManyMissing",
    "TooManyNonFinite",
    "TrimmedMean",
    "VectorError",
    "attack_names",
    "distances_by_weights",
    "distances_to_result",
    "explain",
    "flip_labels",
    "get",
    "names",
    "pre_names",
    "simulate",
]
