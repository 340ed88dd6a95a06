"""Attacks, to test a defence with: what colluding workers send who know all honest vectors.

For simulation only: `simulate("alie")` is the one door, so that no configuration turns an attack on by accident.

Shapes: h honest workers, b faulty ones, n = h + b, d coordinates. A call is
attack(honest, b, rule=, f=, rng=) with honest [h, d]; it gives [b, d].
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, ClassVar

import torch
from torch import Tensor

from drivetrain.base.errors import DrivetrainError, InvalidValue, check_options, unknown_name

from .rule import Rule


@dataclass(frozen=True)
class Attack(ABC):
    """What faulty workers send. Subclasses are built by `simulate`."""

    name: ClassVar[str]
    adaptive: ClassVar[bool] = False

    @abstractmethod
    def __call__(
        self,
        honest: Tensor,
        n_byz: int,
        *,
        rule: Rule | None = None,
        f: int | None = None,
        rng: torch.Generator | None = None,
    ) -> Tensor:
        """The vectors of the faulty workers.

        Args:
            honest: [h, d].
            n_byz: how many faulty workers there are.
            rule, f: the defence, which adaptive attacks call; f is `n_byz` if not given.
            rng: the source of chance, for attacks that draw.

        Returns:
            [n_byz, d], in the type of `honest`.
        """


def _same(vector: Tensor, n_byz: int) -> Tensor:
    return vector.expand(n_byz, -1).clone()


def _normal(honest: Tensor, n_byz: int, rng: torch.Generator | None) -> Tensor:
    if rng is None:
        raise InvalidValue("comm: this attack draws at random: give rng, a torch.Generator")
    return torch.randn(n_byz, honest.shape[1], generator=rng, dtype=honest.dtype)


@dataclass(frozen=True)
class SignFlip(Attack):
    """-scale times the honest mean; Garfield's "reverse" is scale=100."""

    name = "sign-flip"
    scale: float = 1.0

    def __call__(self, honest: Tensor, n_byz: int, **_: Any) -> Tensor:
        return _same(-self.scale * honest.mean(0), n_byz)


@dataclass(frozen=True)
class IPM(Attack):
    """Inner-product manipulation: -eps times the honest mean, near enough to be chosen (Xie et al. 2019)."""

    name = "ipm"
    eps: float = 0.5

    def __call__(self, honest: Tensor, n_byz: int, **_: Any) -> Tensor:
        return _same(-self.eps * honest.mean(0), n_byz)


@dataclass(frozen=True)
class ALIE(Attack):
    """A little is enough: mean + z * std in every coordinate, within the honest spread (Baruch et al. 2019).

    Args:
        z: how far, either way (ByzFL's default is 1.5). None is the paper's -z(n, f), which is 0 for small n: there the
            attack is the mean itself and does no harm.
    """

    name = "alie"
    z: float | None = None

    def __call__(self, honest: Tensor, n_byz: int, **_: Any) -> Tensor:
        z = -alie_z(len(honest) + n_byz, n_byz) if self.z is None else self.z
        return _same(honest.mean(0) + z * _deviation(honest), n_byz)


def alie_z(n: int, f: int) -> float:
    """The largest z that still hides among n workers: Phi^-1((n - f - s) / (n - f)), s = floor(n / 2 + 1) - f."""
    supporters = math.floor(n / 2 + 1) - f
    share = (n - f - supporters) / (n - f)
    return NormalDist().inv_cdf(min(max(share, 1e-9), 1 - 1e-9))


def _deviation(honest: Tensor) -> Tensor:
    return honest.std(0, correction=1) if len(honest) > 1 else torch.zeros_like(honest[0])


@dataclass(frozen=True)
class Random(Attack):
    """Normal noise of `scale` times the honest mean's root mean square, in place of a gradient."""

    name = "random"
    scale: float = 10.0

    def __call__(self, honest: Tensor, n_byz: int, *, rng: torch.Generator | None = None, **_: Any) -> Tensor:
        return _normal(honest, n_byz, rng) * self.scale * honest.mean(0).square().mean().sqrt()


@dataclass(frozen=True)
class Gaussian(Attack):
    """The honest mean plus normal noise of standard deviation `sd`, in the gradient's units."""

    name = "gaussian"
    sd: float = 1.0

    def __call__(self, honest: Tensor, n_byz: int, *, rng: torch.Generator | None = None, **_: Any) -> Tensor:
        return honest.mean(0) + _normal(honest, n_byz, rng) * self.sd


@dataclass(frozen=True)
class PartialDrop(Attack):
    """The honest mean with each coordinate set to 0 with probability `p`; p=1 sends zeros."""

    name = "partial-drop"
    p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise InvalidValue(f"comm: attack partial-drop: p={self.p}, wanted a probability")

    def __call__(self, honest: Tensor, n_byz: int, *, rng: torch.Generator | None = None, **_: Any) -> Tensor:
        if self.p == 1:
            return torch.zeros(n_byz, honest.shape[1], dtype=honest.dtype)
        if rng is None:
            raise InvalidValue("comm: this attack draws at random: give rng, a torch.Generator")
        kept = torch.rand(n_byz, honest.shape[1], generator=rng) >= self.p
        return torch.where(kept, honest.mean(0), 0.0)


@dataclass(frozen=True)
class Constant(Attack):
    """The same value everywhere."""

    value: float

    def __call__(self, honest: Tensor, n_byz: int, **_: Any) -> Tensor:
        return torch.full((n_byz, honest.shape[1]), self.value, dtype=honest.dtype)


@dataclass(frozen=True)
class Nan(Constant):
    """NaN in every coordinate."""

    name = "nan"
    value: float = math.nan


@dataclass(frozen=True)
class Inf(Constant):
    """Infinity in every coordinate."""

    name = "inf"
    value: float = math.inf


@dataclass(frozen=True)
class MalformedInput(Constant):
    """A huge finite value in every coordinate, as a corrupt shard or an unscaled input makes it."""

    name = "malformed-input"
    value: float = 1e12


@dataclass(frozen=True)
class Mimic(Attack):
    """Copies of one honest worker: no vector is wrong, but that worker counts n_byz + 1 times."""

    name = "mimic"
    rank: int = 0

    def __call__(self, honest: Tensor, n_byz: int, **_: Any) -> Tensor:
        if not 0 <= self.rank < len(honest):
            raise InvalidValue(f"comm: attack mimic: rank={self.rank}, wanted 0 to {len(honest) - 1}")
        return _same(honest[self.rank], n_byz)


@dataclass(frozen=True)
class BigCoordinate(Attack):
    """The honest mean with `value` in coordinate `k`, which distances hardly see (the hole that Bulyan closes)."""

    name = "big-coordinate"
    k: int = 0
    value: float = 3.0

    def __call__(self, honest: Tensor, n_byz: int, **_: Any) -> Tensor:
        if not 0 <= self.k < honest.shape[1]:
            raise InvalidValue(f"comm: attack big-coordinate: k={self.k}, wanted 0 to {honest.shape[1] - 1}")
        sent = _same(honest.mean(0), n_byz)
        sent[:, self.k] = self.value
        return sent


@dataclass(frozen=True)
class LineSearch(Attack):
    """mean + factor * direction, with the factor that moves the real rule farthest from the honest mean.

    From 0 the factor grows by `step`, doubled while the damage grows; then ever half the step is tried around the best
    one. (ByzFL shrinks by 0.8, which from 10 needs 17 of its 16 to 20 calls to come down to where ALIE hides.)

    Args:
        evals: how often the rule may be called.
        step: the first factor.
    """

    adaptive: ClassVar[bool] = True
    evals: int = 16
    step: float = 10.0

    def __post_init__(self) -> None:
        if self.evals < 1 or not self.step > 0:
            raise InvalidValue(f"comm: attack {self.name}: evals={self.evals}, step={self.step}, wanted both above 0")

    @abstractmethod
    def direction(self, honest: Tensor) -> Tensor:
        """Where the faulty vectors go from the honest mean [d]."""

    def __call__(
        self, honest: Tensor, n_byz: int, *, rule: Rule | None = None, f: int | None = None, **_: Any
    ) -> Tensor:
        if rule is None:
            raise InvalidValue(f"comm: attack {self.name} searches against the real rule: give rule= and f=")
        mean, direction = honest.mean(0), self.direction(honest)
        declared = n_byz if f is None else f

        def damage(factor: float) -> float:
            sent = _same(mean + factor * direction, n_byz)
            try:
                result = rule(torch.cat([honest, sent]), declared)
            except DrivetrainError:
                return 0.0  # a stopped step does no damage
            distance = float((result.double() - mean.double()).norm())
            return distance if math.isfinite(distance) else math.inf

        return _same(mean + _maximise(damage, self.evals, self.step) * direction, n_byz)


def _maximise(value: Callable[[float], float], evals: int, step: float) -> float:
    """The argument of 0 or more with the largest value that `evals` calls find."""
    best, best_value, width = 0.0, value(0.0), step
    evals -= 1
    while evals > 0:
        found = value(best + width)
        evals -= 1
        if found <= best_value:
            break
        best, best_value, width = best + width, found, width * 2
    while evals > 0:
        width /= 2
        for tried in (best + width, best - width):
            if tried >= 0 and evals > 0:
                found = value(tried)
                evals -= 1
                if found > best_value:
                    best, best_value = tried, found
                    break
    return best


@dataclass(frozen=True)
class OptALIE(LineSearch):
    """ALIE with the z that harms this rule most."""

    name = "opt-alie"

    def direction(self, honest: Tensor) -> Tensor:
        return -_deviation(honest)


@dataclass(frozen=True)
class OptIPM(LineSearch):
    """IPM with the eps that harms this rule most."""

    name = "opt-ipm"

    def direction(self, honest: Tensor) -> Tensor:
        return -honest.mean(0)


_ATTACKS: dict[str, type[Attack]] = {
    kind.name: kind
    for kind in (
        *(SignFlip, IPM, ALIE, Random, Gaussian, PartialDrop, Nan, Inf),
        *(MalformedInput, Mimic, BigCoordinate, OptALIE, OptIPM),
    )
}


def attack_names() -> tuple[str, ...]:
    """Every attack that `simulate` knows, sorted."""
    return tuple(sorted(_ATTACKS))


def simulate(name: str, **options: Any) -> Attack:
    """An attack by name, for a simulation.

    Args:
        name: one of `attack_names()`, in any case, "_" or "-".
        options: its own, e.g. z of "alie".

    Raises:
        InvalidValue: an unknown name or option (the nearest is suggested), or a value out of range.
    """
    known = name.casefold().replace("_", "-")
    if known not in _ATTACKS:
        raise unknown_name("comm: attack", name, attack_names())
    check_options(f"comm: attack {name!r}", options, inspect.signature(_ATTACKS[known]).parameters)
    return _ATTACKS[known](**options)


def flip_labels(labels: Tensor, classes: int) -> Tensor:
    """The label-flip attack, which poisons a worker's data instead of its gradient: label y becomes classes - 1 - y."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise InvalidValue(f"comm: labels from {int(labels.min())} to {int(labels.max())}, wanted 0 to {classes - 1}")
    return classes - 1 - labels
