"""Local-update SGD: average models instead of gradients, every tau steps, tau by a rule that adapts."""

from .controller import Controller
from .delay_model import (
    averaging_seconds,
    bound,
    bound_holds,
    expected_max_exponential,
    expected_max_mean,
    propose_tau0,
    seconds_per_step,
    speedup,
    tau_star,
)
from .levels import Levels
from .local import LocalUpdate
from .marginal import Marginal
from .missing import RankMissing
from .plateau import AdaCommPlateau
from .prepare import prepare_local
from .problems import Problem, digits_cnn, digits_mlp, quadratic
from .registry import get, names
from .report import LocalReport, SyncRow
from .rules import QSR, AdaComm, Fixed, LocalState, Paddle, PeriodRule, PostLocal
from .simulate import Simulation, exponential, simulate

__all__ = [
    "AdaComm",
    "AdaCommPlateau",
    "Controller",
    "Fixed",
    "Levels",
    "LocalReport",
    "LocalState",
    "LocalUpdate",
    "Marginal",
    "Paddle",
    "PeriodRule",
    "PostLocal",
    "Problem",
    "QSR",
    "RankMissing",
    "Simulation",
    "SyncRow",
    "averaging_seconds",
    "bound",
    "bound_holds",
    "digits_cnn",
    "digits_mlp",
    "expected_max_exponential",
    "expected_max_mean",
    "exponential",
    "get",
    "names",
    "prepare_local",
    "propose_tau0",
    "quadratic",
    "seconds_per_step",
    "simulate",
    "speedup",
    "tau_star",
]
