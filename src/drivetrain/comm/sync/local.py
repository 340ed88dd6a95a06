"""Local-update SGD: every worker steps alone, and every tau steps all take the mean of their models (AdaComm §2.1).

    x_i <- x_i - eta g(x_i)        every tau steps: x_i <- mean_j x_j for all i

The period is counted from the last averaging, never as step % period, so it may change at any time. Rank 0 decides the
next one by its clock and its rule, and the averaging's own message tells the others.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from drivetrain.base.errors import DrivetrainError, InvalidValue

from .. import aggregate
from .. import codec as codecs
from .agreement import check_agreement, share_model
from .anchor import Anchor, MakeOuter
from .averager import Averager, Outcome
from .controller import Controller
from .decision import UNKNOWN, Chair, Note
from .layout import Layout
from .levels import Levels, TwoLevels
from .measure import Losses, Meter
from .missing import missing_error
from .registry import get
from .report import LocalReport, SyncRow
from .rules import PeriodRule
from .wrapper import OptimizerWrapper

Momentum = Literal["auto", "reset", "average", "keep"]


@dataclass
class _Pending:
    """An averaging on its way: what was sent, and what comes back."""

    params: Tensor | None  # x as sent, (P,), and the rest, (R,); None where nothing moves meanwhile
    rest: Tensor | None
    result: Future[tuple[Outcome, float]]
    t: float
    steps: int


class LocalUpdate(OptimizerWrapper):
    """An optimizer that averages models every tau steps, tau by a rule; use it in place of `optimizer`.

    Args:
        optimizer: any torch optimizer of the model's parameters; it does the local steps.
        model: a plain module on every rank (no DDP). All ranks begin with rank 0's values.
        rule: when to average: a name with options ("fixed:20", "adacomm:tau0=20,interval_s=60") or an object.
        group: the process group; None: the default one, or no other rank where torch.distributed is not set up.
        levels: groups for two levels, in place of `group`.
        outer: makes the optimizer that steps the shared model by the mean change; None: plain averaging.
        block_momentum: beta of the paper's block momentum (0.3 there); 0: plain averaging.
        momentum: what happens to the inner optimizer's momentum at an averaging: "reset" (the paper's), "average"
            (more bytes), "keep". "auto": reset for SGD and its kind, keep for Adam and its kind, whose bias
            correction a reset would break.
        average_buffers: average the model's buffers too (batch norm's statistics drift apart quickly).
        codec: carries the changes, both ways, with error feedback: a name, a `Codec`, or `CodecRules`. By name, 3lc
            takes blocks of 256: averagings are rare, and error feedback mends what coarse scales hold back slowly.
        aggregator: a robust rule of `comm.aggregate` in place of the mean, by name or object, for `f` hostile ranks.
        weights: this rank's weight in the mean, or "steps": by the local steps it did. None: equal.
        balance: ranks whose steps are faster than the slowest one's do more of them in a period.
        delay: local steps that an averaging may take beside training; the result is applied so many steps later.
        budget, total_steps: seconds, or local steps, of the whole run, for rules that anneal.
        timeout: seconds until a missing rank is an error; None: the process group's own.
        clock: seconds.

    Raises:
        InvalidValue: options that contradict each other, or models or options that differ between ranks.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module,
        rule: PeriodRule | str = "marginal",
        *,
        group: dist.ProcessGroup | None = None,
        levels: Levels | None = None,
        outer: MakeOuter | None = None,
        block_momentum: float = 0.0,
        momentum: Momentum = "auto",
        average_buffers: bool = True,
        codec: str | codecs.Codec | codecs.CodecRules | None = None,
        aggregator: str | aggregate.Rule | None = None,
        f: int = 0,
        weights: float | Literal["steps"] | None = None,
        balance: bool = False,
        delay: int = 0,
        budget: float | None = None,
        total_steps: int | None = None,
        timeout: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        super().__init__(optimizer)
        self.rule = get(rule)
        self.momentum = _momentum(momentum, optimizer)
        if isinstance(delay, bool) or not isinstance(delay, int) or delay < 0:
            raise InvalidValue(f"comm: delay={delay!r}, wanted a whole number of local steps, 0 or more")
        if levels is not None and (group is not None or delay or isinstance(weights, float)):
            raise InvalidValue("comm: levels bring their own groups, and go without delay and weights per rank")
        self.delay, self.balance, self.levels = delay, balance, levels
        self.layout = Layout(model, optimizer, buffers=average_buffers, momentum=self.momentum == "average")
        weights = "steps" if weights is None and balance else weights
        if isinstance(codec, str):
            codec = codecs.get(codec, **({"block": 256} if codec.casefold() == "3lc" else {}))
        aggregator = aggregate.get(aggregator) if isinstance(aggregator, str) else aggregator
        if aggregator is not None and weights is not None:
            raise InvalidValue("comm: a robust rule weighs the ranks itself: give weights or an aggregator")
        shared_weights, sharing = self._agree(model, group, weights, codec, aggregator, f, outer, block_momentum, clock)
        group = self._dedicated(group)  # after the comparison: making a group waits for all ranks
        options: dict[str, Any] = {
            "codec": codec, "aggregator": aggregator, "f": f, "timeout": timeout, "weights": shared_weights,
        }  # fmt: skip
        self.averager: Averager | TwoLevels
        if levels is None:
            self.averager = Averager(self.layout, group, **options)
        else:
            between = Averager(self.layout, levels.leaders, **options) if levels.leaders is not None else None
            self.averager = TwoLevels(self.layout, levels, between)
        self.group = group
        self.anchor = Anchor(self.layout, outer, block_momentum)
        self.controller = Controller(self.rule, lr0=self._lr(), budget=budget, total_steps=total_steps)
        self.chair = Chair(self.controller, f)
        self.meter, self.losses = Meter(clock), Losses()
        # The model has just crossed the network once. That is near what an averaging takes, so the first decision has
        # a D; a codec makes averagings so much faster that no guess is the better one.
        self.meter.d.guess = sharing if codec is None and levels is None else 0.0
        self.tau = self._own_tau = self.controller.tau
        self.steps_done, self.syncs = 0, 0
        self._since_inside = 0
        self._spread = (0.0, 0.0)
        self._own_y = 0.0
        self._ended = self._everyone_ended = False  # this rank's data has, and that of all ranks
        self._pending: _Pending | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="averaging") if delay else None
        self.rows: list[SyncRow] = []

    # -- the loop's calls -----------------------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """A local step; every tau of them an averaging. Returns the closure's loss, which is observed too.

        Raises:
            RankMissing: a rank left or did not come; names it. The model is as the local steps left it.
            InvalidValue: the rule's answer was no period.
        """
        loss = self.optimizer.step(closure) if closure is not None else self.optimizer.step()
        if loss is not None:
            self.observe(loss)
        self.steps_done += 1
        self.meter.steps += 1
        if self.steps_done == 1:
            self.meter.first_step()
        self._since_inside += 1
        if self._pending is not None and self.meter.steps >= self.delay:
            self._finish()
        if self._pending is None and self.meter.steps >= self._own_tau:
            self.sync()
        elif self.levels is not None and self._since_inside >= self.levels.every:
            assert isinstance(self.averager, TwoLevels)
            self.averager.inside()
            self._since_inside = 0
        return loss

    def observe(self, loss: Tensor | float) -> None:
        """Tell the training loss of a step; rules that adapt need it. It stays on its device until an averaging."""
        self.losses.add(loss)

    def sync(self, force: bool = False) -> None:
        """Average now; all ranks must call it at the same place. Without local steps since, only where forced."""
        if self._pending is not None:
            self._finish()
        if self.meter.steps or force:
            self._send()
            if not self.delay or force:
                self._finish()

    def drain(self) -> None:
        """This rank's data has ended: join the averagings of ranks that have more, until theirs has ended too.

        Every rank calls it at the end of its epoch. A rank without new steps does not count in a mean.

        Raises:
            InvalidValue: with levels or an aggregator, which count every rank.
        """
        if self.levels is not None or self.averager.aggregator is not None:  # type: ignore[union-attr]
            what = "levels" if self.levels is not None else "an aggregator"
            raise InvalidValue(
                f"comm: drain() does not go with {what}, where every rank counts",
                hint="give all ranks equally many batches (drop_last=True, or a DistributedSampler)",
            )
        self._ended, everyone = True, False
        while not everyone:
            self.sync(force=True)
            everyone = self._everyone_ended
        self._ended = False

    @property
    def may_decay(self) -> bool:
        """Whether a scheduler may lower the learning rate: False while a rule with lr_coupling="wait" has tau > 1."""
        return getattr(self.rule, "lr_coupling", None) != "wait" or self.tau == 1

    def report(self) -> LocalReport:
        """Period, loss, Y and D over the run so far."""
        return LocalReport(getattr(self.rule, "name", type(self.rule).__name__), tuple(self.rows))

    def state_dict(self) -> dict[str, Any]:
        """The inner optimizer's layout, and the entry "local_update"; every rank saves its own."""
        from .checkpoint import save

        return save(self, self.optimizer.state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, also in mid-period; load the model's own state dict first.

        Raises:
            InvalidValue: of another version, or of another model.
        """
        from .checkpoint import restore

        restore(self, state_dict)

    # -- an averaging ---------------------------------------------------------------------------------------------

    def _send(self) -> None:
        layout, meter = self.layout, self.meter
        meter.end_period(layout.device)
        t, steps = meter.elapsed(), meter.steps
        change, rest = layout.change(self.anchor.values), layout.rest()
        note = self._note(change, rest)
        decide = partial(self.chair.decide, t=t, step=self.steps_done, lr=self._lr(), spread=self._spread)
        run = partial(self._run, change, rest, note, decide)
        if self._thread is not None:
            sent = (layout.flat(list(layout.params)), rest)
            self._pending = _Pending(*sent, self._thread.submit(run), t, steps)
            meter.begin_period()
        else:
            done: Future[tuple[Outcome, float]] = Future()
            done.set_result(run())
            self._pending = _Pending(None, None, done, t, steps)

    def _run(
        self, change: Tensor, rest: Tensor, note: Note, decide: Callable[[Tensor], Tensor]
    ) -> tuple[Outcome, float]:
        began = self.meter.clock()
        try:
            outcome = self.averager.run(change, rest, note, decide)
        except DrivetrainError:
            raise
        except RuntimeError as error:
            raise missing_error(error, self.group, self.syncs, self.steps_done) from error
        return outcome, self.meter.clock() - began

    def _finish(self) -> None:
        pending, self._pending = self._pending, None
        assert pending is not None
        outcome, seconds = pending.result.result()
        decision = outcome.decision
        self.chair.refuse(decision, outcome.notes, self.steps_done)
        excluded = self._excluded(outcome.notes)
        self.meter.d.add(seconds)
        self._spread = _spread(outcome)
        self._apply(pending, outcome)
        self.losses.averaged()
        self.tau, self._everyone_ended = int(decision.tau), bool(decision.ended)
        self._own_tau = self._balanced(self.tau, decision.y)
        self.rows.append(
            SyncRow(
                pending.t, self.steps_done, pending.steps, self.tau,
                None if decision.loss == UNKNOWN else decision.loss, decision.y, decision.d, outcome.sent, excluded,
            )
        )  # fmt: skip
        self.syncs += 1
        self._since_inside = 0
        if not self.delay:
            self.meter.begin_period()

    def _apply(self, pending: _Pending, outcome: Outcome) -> None:
        """The shared model takes its step, and this rank its values, with what it moved since it sent its own."""
        layout = self.layout
        moved = None if pending.params is None else layout.flat(list(layout.params)) - pending.params
        rest_moved = None if pending.rest is None else self._rest_moved(pending.rest)
        self.anchor.step(outcome.change)
        layout.set_params(self.anchor.values, moved)
        layout.set_rest(outcome.rest, rest_moved)
        if self.momentum == "reset":
            layout.reset_momentum()

    def _note(self, change: Tensor, rest: Tensor) -> Note:
        mean, before, after = (UNKNOWN if loss is None else loss for loss in self.losses.take())
        norm = float(torch.linalg.vector_norm(change, dtype=torch.float64)) ** 2
        if rest.numel() and not bool(torch.isfinite(rest).all()):
            norm = math.nan
        self._own_y = self.meter.y.value
        return Note(
            mean, before, after, self.meter.steps, self._own_y, self.meter.d.value, norm, self.syncs, self._ended
        )

    def _excluded(self, notes: Tensor) -> tuple[int, ...]:
        bad = torch.nonzero(~torch.isfinite(Note.columns(notes).norm)).flatten().tolist()
        if bad:
            warnings.warn(
                f"comm: rank {', '.join(map(str, bad))} brought NaN or infinity to the averaging at step "
                f"{self.steps_done}; it does not count, and goes on with the others' model",
                UserWarning,
                stacklevel=4,
            )
        return tuple(bad)

    def _rest_moved(self, sent: Tensor) -> Tensor:
        """What buffers and momentum moved since they were sent; from zero where the state came up meanwhile."""
        now = self.layout.rest()
        return now - sent if now.shape == sent.shape else torch.zeros_like(now)

    def _balanced(self, tau: int, y: float) -> int:
        """This rank's steps in a period: as many as fit in the time that the slowest rank needs for tau."""
        return max(1, round(tau * y / self._own_y)) if self.balance and self._own_y > 0 and y > 0 else tau

    # -- the making -----------------------------------------------------------------------------------------------

    def _lr(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def _dedicated(self, group: dist.ProcessGroup | None) -> dist.ProcessGroup | None:
        """Averagings beside training need a group of their own: two threads must not mix messages in one."""
        if not self.delay or not (dist.is_available() and dist.is_initialized()):
            return group
        ranks = dist.get_process_group_ranks(group) if group is not None else list(range(dist.get_world_size()))
        return dist.new_group(ranks, use_local_synchronization=True)

    def _agree(
        self, model: nn.Module, group: dist.ProcessGroup | None, weights: float | str | None, codec: Any,
        aggregator: Any, f: int, outer: Any, block_momentum: float, clock: Callable[[], float],
    ) -> tuple[Tensor | str | None, float]:  # fmt: skip
        """Compare the ranks, share rank 0's model; the weights of all ranks, and the seconds of sharing."""
        if isinstance(weights, str) and weights != "steps":
            raise InvalidValue(f'comm: weights={weights!r}, wanted a number or "steps"')
        if not (dist.is_available() and dist.is_initialized()):
            return None, 0.0
        options = {
            "rule": repr(self.rule), "momentum": self.momentum, "delay": self.delay, "balance": self.balance, "f": f,
            "codec": getattr(codec, "name", type(codec).__name__), "aggregator": getattr(aggregator, "name", None),
            "outer": outer is not None, "block_momentum": block_momentum, "weights": type(weights).__name__,
            "average_buffers": len(self.layout.buffers),
        }  # fmt: skip
        number = float(weights) if isinstance(weights, int | float) else 1.0
        shared = check_agreement(self.layout.describe(model), options, number, group)
        seconds = share_model(self.layout, group, clock)
        return (weights if isinstance(weights, str) or weights is None else shared), seconds


def _momentum(momentum: str, optimizer: Optimizer) -> str:
    if momentum not in ("auto", "reset", "average", "keep"):
        raise InvalidValue(f"comm: momentum={momentum!r}, wanted one of auto, reset, average, keep")
    corrected = "betas" in optimizer.defaults
    if momentum == "reset" and corrected:
        raise InvalidValue(
            f'comm: momentum="reset" would break the bias correction of {type(optimizer).__name__}',
            hint='momentum="keep", or "average" at the price of more bytes',
        )
    return ("keep" if corrected else "reset") if momentum == "auto" else momentum


def _spread(outcome: Outcome) -> tuple[float, float]:
    """mean_i ||x_i - mean x||² = mean_i ||c_i||² - ||mean c||², and ||mean c||²."""
    norms = Note.columns(outcome.notes).norm
    progress = float(outcome.change.double().square().sum())
    return max(0.0, float(norms[torch.isfinite(norms)].double().mean()) - progress), progress
