"""Relaxed graph substitutions (MetaFlow, spec 12): rules, costs, search, lowering, and the proof that it is faster."""

from .optimize import OptimizeResult, optimize
from .price import Objective
from .report import to_html
from .rule import Change, Rule
from .rules import RULES

__all__ = ["RULES", "Change", "Objective", "OptimizeResult", "Rule", "optimize", "to_html"]
