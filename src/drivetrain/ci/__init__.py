"""Statistical continuous integration: may this model replace that one? (system 08, ease.ml/ci)"""

from .condition import Clause, Condition, ConditionError, parse_condition
from .evaluate import ClauseVerdict, Verdict, evaluate
from .plan import ClausePlan, Plan, TestSetTooSmall, plan

__all__ = [
    "Clause",
    "ClausePlan",
    "ClauseVerdict",
    "Condition",
    "ConditionError",
    "Plan",
    "TestSetTooSmall",
    "Verdict",
    "evaluate",
    "parse_condition",
    "plan",
]
