"""Statistical continuous integration: may this model replace that one? (system 08, ease.ml/ci)"""

from .condition import Clause, Condition, ConditionError, parse_condition
from .config import CiConfig
from .evaluate import ClauseVerdict, Verdict, evaluate
from .gate import Gate, gate
from .labels import LabelStore
from .ledger import Ledger, LedgerError, TestSetSpent
from .plan import ClausePlan, Plan, TestSetTooSmall, plan
from .predict import predict, read_predictions
from .testset import TestSet

__all__ = [
    "CiConfig",
    "Clause",
    "ClausePlan",
    "ClauseVerdict",
    "Condition",
    "ConditionError",
    "Gate",
    "LabelStore",
    "Ledger",
    "LedgerError",
    "Plan",
    "TestSet",
    "TestSetSpent",
    "TestSetTooSmall",
    "Verdict",
    "evaluate",
    "gate",
    "parse_condition",
    "plan",
    "predict",
    "read_predictions",
]
