"""Relaxed graph substitutions (MetaFlow, spec 12): rules, costs, search, lowering, and the proof that it is faster."""

from ..verify import Report, check, verify_rules
from .optimize import OptimizeResult, optimize
from .pattern import PatternRule
from .price import Objective
from .report import to_html
from .result import Step
from .rule import Change, Rule, rule
from .rules import RULES
from .taso import read_rules
from .training import rewrite_training

__all__ = [
    "RULES",
    "Change",
    "Objective",
    "OptimizeResult",
    "PatternRule",
    "Report",
    "Rule",
    "Step",
    "check",
    "optimize",
    "read_rules",
    "rewrite_training",
    "rule",
    "to_html",
    "verify_rules",
]
