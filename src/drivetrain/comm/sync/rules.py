"""When to average next: period rules as pure functions of what was measured (AdaComm §2.4, §2.7).

A rule is asked at the first averaging point after every `interval_s` seconds (0: at every one), and answers with tau,
the number of local steps until the next averaging. It keeps no state: equal states give equal answers.

    tau_l = ceil( sqrt( (eta_0 / eta_l) (F_l - F_inf) / (F_0 - F_inf) ) tau_0 )      loss F, learning rate eta
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

from drivetrain.base.errors import InvalidValue

Coupling = Literal["none", "linear", "cubic", "wait"]
_POWER = {"none": 0, "linear": 1, "cubic": 3, "wait": 0}


@dataclass(frozen=True)
class LocalState:
    """What a rule may look at; every number is the same for all ranks.

    Attributes:
        tau, tau0: local steps between averagings, now and at the start.
        loss, loss0: F_l, the mean training loss of the interval that ended, and F_0, that of the first step.
        loss_before: the same of the interval before; None at the end of the first.
        lr, lr0, lr_before: learning rate now, the largest so far (the peak of a warm-up), and at the last decision.
        t_seconds, interval, step: rank 0's clock since the start, intervals that ended, local steps done.
        y, d: measured seconds of a local step (slowest rank) and of an averaging; 0 where not measured yet.
        disagreement, progress: mean_i ||x_i - mean x||² at the last averaging, and ||G||², G the mean's change.
        gain, gain_steps: (loss just before an averaging) / (loss just after) - 1, lately, and the mean period of those
            averagings; gain_steps is 0 where not measured yet.
        budget, total_steps: seconds the whole run may take, and its local steps; None: not known.
    """

    tau: int
    tau0: int
    loss: float = 1.0
    loss0: float = 1.0
    loss_before: float | None = None
    lr: float = 1.0
    lr0: float = 1.0
    lr_before: float | None = None
    t_seconds: float = 0.0
    interval: int = 0
    step: int = 0
    y: float = 0.0
    d: float = 0.0
    disagreement: float = 0.0
    progress: float = 0.0
    gain: float = 0.0
    gain_steps: float = 0.0
    budget: float | None = None
    total_steps: int | None = None

    @property
    def done(self) -> float | None:
        """Share of the run that is over, by its seconds or its steps; None where neither is known."""
        by_time = self.t_seconds / self.budget if self.budget else None
        by_steps = self.step / self.total_steps if self.total_steps else None
        return max((share for share in (by_time, by_steps) if share is not None), default=None)

    @property
    def alpha(self) -> float:
        """D / Y, the averaging's cost in local steps; 0 where not measured yet."""
        return self.d / self.y if self.y > 0 else 0.0


@runtime_checkable
class PeriodRule(Protocol):
    """What `LocalUpdate` and `simulate` call.

    Attributes:
        tau0: the first period.
        interval_s: seconds between decisions; 0 asks at every averaging.
    """

    @property
    def tau0(self) -> int: ...

    @property
    def interval_s(self) -> float: ...

    def next(self, s: LocalState) -> int:
        """The next period: a whole number of local steps, 1 or more."""
        ...


@dataclass(frozen=True)
class Fixed:
    """The same period always; 1 is synchronous SGD."""

    tau: int = 8
    name: ClassVar[str] = "fixed"
    interval_s: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        _whole(self.name, "tau", self.tau)

    @property
    def tau0(self) -> int:
        return self.tau

    def next(self, s: LocalState) -> int:
        return self.tau


@dataclass(frozen=True)
class PostLocal:
    """Synchronous until `switch_step` local steps are done, then every `tau` (post-local SGD, arXiv 1808.07217)."""

    switch_step: int
    tau: int = 8
    name: ClassVar[str] = "post-local"
    interval_s: ClassVar[float] = 0.0
    tau0: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _whole(self.name, "tau", self.tau)
        _whole(self.name, "switch_step", self.switch_step, least=0)

    def next(self, s: LocalState) -> int:
        return self.tau if s.step >= self.switch_step else 1


@dataclass(frozen=True)
class AdaComm:
    """The paper's rule: tau falls with the root of the loss, and by `gamma` where that would not make it fall.

    Args:
        tau0: the first period; `propose_tau0(alpha)` suggests one.
        interval_s: T0, seconds between decisions.
        gamma: factor when the loss stalls; 1 keeps tau.
        lr_coupling: power of eta_0 / eta_l under the root: "none" 0, "linear" 1, "cubic" 3 (the theory's, which
            multiplies tau by 31.6 at a decay by 10). "wait": 0, and `LocalUpdate.may_decay` is False until tau is 1.
        f_inf: the loss that can't be beaten.
        min, max: bounds of tau.
    """

    tau0: int = 20
    interval_s: float = 60.0
    gamma: float = 0.5
    lr_coupling: Coupling = "linear"
    f_inf: float = 0.0
    min: int = 1
    max: int | None = None
    name: ClassVar[str] = "adacomm"

    def __post_init__(self) -> None:
        _bounds(self.name, self.tau0, self.interval_s, self.min, self.max)
        _within(self.name, "gamma", self.gamma, 0, 1)
        if self.lr_coupling not in _POWER:
            raise InvalidValue(f"comm: adacomm: lr_coupling={self.lr_coupling!r}, wanted one of {', '.join(_POWER)}")

    def candidate(self, s: LocalState) -> int:
        """tau_l before saturation and bounds."""
        ratio = (s.lr0 / s.lr) ** _POWER[self.lr_coupling] * loss_ratio(s, self.f_inf)
        return max(1, math.ceil(math.sqrt(ratio) * self.tau0 - 1e-9))

    def next(self, s: LocalState) -> int:
        candidate = self.candidate(s)
        # A smaller learning rate is a new regime that bears a longer period; at a constant one tau only falls.
        decayed = s.lr_before is not None and s.lr < s.lr_before and _POWER[self.lr_coupling] > 0
        tau = candidate if candidate < s.tau or decayed else math.ceil(self.gamma * s.tau)
        return clamp(tau, self.min, self.max)

    @staticmethod
    def paddle(k0: int = 1, *, max: int = 16) -> Paddle:
        """The rule as PaddlePaddle's AdaptiveLocalSGD has it; see `Paddle`."""
        return Paddle(k0, max)


@dataclass(frozen=True)
class Paddle:
    """PaddlePaddle's rule: ceil(sqrt(lr_0/lr * loss/loss_0 * k_0)) at every averaging, in 1..max.

    k_0 stands inside the root, unlike in the paper and in Paddle's own guide: k0=16 begins at 16 and goes on with 4.
    """

    k0: int = 1
    max: int = 16
    name: ClassVar[str] = "paddle"
    interval_s: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        _whole(self.name, "k0", self.k0)
        _whole(self.name, "max", self.max)

    @property
    def tau0(self) -> int:
        return self.k0

    def next(self, s: LocalState) -> int:
        ratio = s.lr0 / s.lr * loss_ratio(s, 0.0) * self.k0
        return clamp(math.ceil(math.sqrt(ratio) - 1e-9), 1, self.max)


@dataclass(frozen=True)
class QSR:
    """The quadratic synchronisation rule: tau = max(tau_min, floor((c / eta)²)) (arXiv 2310.14423)."""

    c: float
    tau_min: int = 1
    max: int | None = None
    name: ClassVar[str] = "qsr"
    interval_s: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        _whole(self.name, "tau_min", self.tau_min)
        if not (isinstance(self.c, int | float) and math.isfinite(self.c) and self.c > 0):
            raise InvalidValue(f"comm: qsr: c={self.c!r}, wanted a number above 0 (try the learning rate * sqrt(tau))")

    @property
    def tau0(self) -> int:
        return self.tau_min

    def next(self, s: LocalState) -> int:
        return clamp(math.floor((self.c / s.lr) ** 2 * (1 + 1e-12)), self.tau_min, self.max)


def loss_ratio(s: LocalState, f_inf: float) -> float:
    """(F_l - F_inf) / (F_0 - F_inf), not below 0.

    Raises:
        InvalidValue: F_0 <= F_inf.
    """
    if s.loss0 <= f_inf:
        raise InvalidValue(
            f"comm: the first loss is {s.loss0:.6g}, f_inf is {f_inf:.6g}: the first loss must be above it",
            hint="f_inf is the loss that can't be beaten; leave it at 0 when in doubt",
        )
    return max(s.loss - f_inf, 0.0) / (s.loss0 - f_inf)


def clamp(tau: int, least: int, most: int | None) -> int:
    """tau within its bounds."""
    tau = max(tau, least)
    return tau if most is None else min(tau, most)


def _whole(rule: str, option: str, value: object, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidValue(f"comm: {rule}: {option}={value!r}, wanted a whole number of at least {least}")


def _within(rule: str, option: str, value: float, low: float, high: float) -> None:
    if not (isinstance(value, int | float) and low < value <= high):
        raise InvalidValue(f"comm: {rule}: {option}={value!r}, wanted a number above {low} and at most {high}")


def _positive(rule: str, **options: float) -> None:
    for option, value in options.items():
        if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
            raise InvalidValue(f"comm: {rule}: {option}={value!r}, wanted a number above 0")


def _bounds(rule: str, tau0: int, interval_s: float, least: int, most: int | None) -> None:
    _whole(rule, "tau0", tau0)
    _whole(rule, "min", least)
    if most is not None:
        _whole(rule, "max", most, least)
    if not (isinstance(interval_s, int | float) and math.isfinite(interval_s) and interval_s >= 0):
        raise InvalidValue(f"comm: {rule}: interval_s={interval_s!r}, wanted seconds, 0 or more")
