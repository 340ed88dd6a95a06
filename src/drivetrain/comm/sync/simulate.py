"""Local-update SGD on a simulated clock: real gradients of a small task, computed times (AdaComm §2.2, §2.7).

All workers' parameters are held as one stack and stepped together, so a run of thousands of steps takes seconds; the
clock advances by max_i(tau draws of Y) + D a period. The period rule is driven by the `Controller` of real runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from drivetrain.base.errors import InvalidValue

from .controller import Controller
from .problems import Params, Problem, noise_generator
from .registry import get
from .rules import PeriodRule

MARKS = 200  # losses on all data are taken at so many points of a run


@dataclass
class Simulation:
    """What a simulated run did.

    Attributes:
        rule: the rule's name.
        seconds, losses: the curve of the training loss of the averaged model on all data, over simulated seconds.
        periods: (seconds, tau) at every averaging.
        steps, syncs: local steps of a worker, averagings.
        end: simulated seconds at the end; communication: those of them that averaging took.
    """

    rule: str
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    periods: list[tuple[float, int]] = field(default_factory=list)
    steps: int = 0
    syncs: int = 0
    end: float = 0.0
    communication: float = 0.0

    @property
    def seconds_per_step(self) -> float:
        return self.end / self.steps

    @property
    def communication_share(self) -> float:
        return self.communication / self.end

    @property
    def final_loss(self) -> float:
        """Mean of the last 5 % of the curve: one point of a noisy curve tells little."""
        tail = self.losses[-max(1, len(self.losses) // 20) :]
        return sum(tail) / len(tail)

    def seconds_to(self, loss: float) -> float:
        """When the curve first stays at or below `loss` for two marks; infinity when it never does."""
        for here, after, t in zip(self.losses, [*self.losses[1:], self.losses[-1]], self.seconds, strict=True):
            if here <= loss and after <= loss:
                return t
        return float("inf")


def simulate(
    rule: PeriodRule | str,
    problem: Problem,
    m: int = 4,
    Y: float | Callable[[torch.Generator, int], Tensor] = 1.0,
    D: float = 4.0,
    T: float = 3000.0,
    seed: int = 0,
    *,
    lr: float | Callable[[float], float] | None = None,
    max_steps: int | None = None,
) -> Simulation:
    """Train `problem` with m workers until the simulated clock shows T seconds.

    Args:
        rule: a period rule or its name with options, "fixed:20".
        problem: see `problems`.
        m: workers.
        Y: seconds of a local step; or (generator, m) -> (m,) draws, for stragglers.
        D: seconds of an averaging.
        T: seconds of the run, also the rule's budget.
        seed: of the initial model, the batches and the delays; independent streams.
        lr: learning rate, or share of the run that is over -> learning rate; None: the problem's.
        max_steps: end after so many local steps, if that comes first; T may then be infinite.

    Raises:
        InvalidValue: an unknown rule, no workers, or no time.
    """
    if m < 1 or T <= 0 or D < 0:
        raise InvalidValue(f"comm: simulate: m={m}, T={T}, D={D}: wanted m >= 1, T > 0 and D >= 0")
    rate = lr if callable(lr) else lambda share: problem.lr if lr is None else lr
    rule = get(rule)
    controller = Controller(rule, lr0=rate(0.0), budget=T if math.isfinite(T) else None, total_steps=max_steps)
    mean = problem.initial(seed)
    batches, delays = noise_generator(seed, "batches"), noise_generator(seed, "delays")
    run = Simulation(getattr(rule, "name", type(rule).__name__), [0.0], [problem.loss(mean)])
    clock, before_loss = 0.0, None

    def share(step: int) -> float:
        return max(min(clock / T, 1.0), 0.0 if max_steps is None else step / max_steps)

    while clock < T and (max_steps is None or run.steps < max_steps):
        tau = controller.tau if max_steps is None else min(controller.tau, max_steps - run.steps)
        rates = [rate(share(run.steps + k)) for k in range(tau)]
        workers, losses = _period(problem, mean, m, rates, batches)
        busy = _compute_seconds(Y, m, tau, delays)
        before, mean = mean, {key: p.mean(0) for key, p in workers.items()}
        clock += busy + D
        run.steps += tau
        run.syncs += 1
        run.communication += D
        run.periods.append((clock, tau))
        if share(run.steps) >= min(len(run.losses) / MARKS, 1.0):
            run.seconds.append(clock)
            run.losses.append(problem.loss(mean))
        controller.decide(
            t=clock, step=run.steps, steps=tau, loss=float(losses.mean()), before=before_loss,
            after=float(losses[0]), lr=rates[-1], y=busy / tau, d=D, **_spread(before, mean, workers),
        )  # fmt: skip
        before_loss = float(losses[-1])
    run.end = clock
    if run.seconds[-1] < clock:
        run.seconds.append(clock)
        run.losses.append(problem.loss(mean))
    return run


def _period(
    problem: Problem, mean: Params, m: int, rates: list[float], batches: torch.Generator
) -> tuple[Params, Tensor]:
    """A local step a rate, of all workers from the same model; the mean loss of each step (tau,)."""
    workers = {key: p.expand(m, *p.shape).clone() for key, p in mean.items()}
    losses = []
    for eta in rates:
        gradients, loss = problem.step(workers, batches)
        for key, p in workers.items():
            p.sub_(gradients[key], alpha=eta)
        losses.append(loss.detach().mean())
    return workers, torch.stack(losses)


def _compute_seconds(
    y: float | Callable[[torch.Generator, int], Tensor], m: int, tau: int, delays: torch.Generator
) -> float:
    if not callable(y):
        return y * tau
    return float(torch.stack([y(delays, m) for _ in range(tau)]).sum(0).max())


def exponential(mean: float = 1.0) -> Callable[[torch.Generator, int], Tensor]:
    """Exponential step times: stragglers of the memoryless kind, for `simulate(Y=...)`."""

    def draw(generator: torch.Generator, m: int) -> Tensor:
        return torch.empty(m, dtype=torch.float64).exponential_(generator=generator) * mean

    return draw


def _spread(before: Params, mean: Params, workers: Params) -> dict[str, float]:
    """How far the workers lie from their mean, and how far the mean went."""
    disagreement = sum(float((p - mean[key]).square().sum()) for key, p in workers.items())
    progress = sum(float((mean[key] - p).square().sum()) for key, p in before.items())
    return {"disagreement": disagreement / len(next(iter(workers.values()))), "progress": progress}
