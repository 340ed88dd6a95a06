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

from drivetrain.base.errors import DrivetrainError, InvalidValue, RunFailed

from .. import aggregate
from .. import codec as codecs
from .agreement import check_agreement, share_model
from .anchor import Anchor, MakeOuter
from .averager import NORM, NOTE, Averager, Outcome
from .controller import Controller
from .layout import Layout
from .levels import Levels, TwoLevels
from .measure import Losses, Meter
from .missing import missing_error
from .registry import get
from .report import LocalReport, SyncRow
from .rules import PeriodRule
from .wrapper import OptimizerWrapper

Momentum = Literal["auto", "reset", "average", "keep"]
OK, RULE_FAILED, OUT_OF_STEP = 0.0, 1.0, 2.0  # the decision's second place
_NO_LOSS = -math.inf  # in a note: this rank observed none


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
        codec: carries the changes, both ways, with error feedback: a name, a `Codec`, or `CodecRules`.
        aggregator: a robust rule of `comm.aggregate` in place of the mean, by name or object, for `f` hostile ranks.
        weights: this rank's weight in the mean, or "steps": by the local steps it did. None: equal.
        balance: ranks whose steps are faster than the slowest one's do more of them in a period.
        delay: local steps that an averaging may take beside training; the result is applied so many steps later.
        budget: seconds of the whole run, for rules that anneal.
        timeout: seconds until a missing rank is an error; None: the process group's own.
        clock: seconds.

    Raises:
        InvalidValue: options that contradict each other, or models or options that differ between ranks.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module,
        rule: PeriodRule | str = "adacomm-plateau",
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
        codec = codecs.get(codec) if isinstance(codec, str) else codec
        aggregator = aggregate.get(aggregator) if isinstance(aggregator, str) else aggregator
        if aggregator is not None and weights is not None:
            raise InvalidValue("comm: a robust rule weighs the ranks itself: give weights or an aggregator")
        shared_weights = self._agree(model, group, weights, codec, aggregator, f, outer, block_momentum)
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
        self.controller = Controller(self.rule, lr0=self._lr(), budget=budget)
        self.meter, self.losses = Meter(clock), Losses()
        self.tau = self._own_tau = self.controller.tau
        self.steps_done, self.syncs = 0, 0
        self._since_inside = 0
        self._spread = (0.0, 0.0)
        self._own_note = torch.zeros(NOTE)
        self._pending: _Pending | None = None
        self._failure: DrivetrainError | None = None
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
        decide = partial(self._decide, t=t, step=self.steps_done, lr=self._lr(), spread=self._spread)
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
        self, change: Tensor, rest: Tensor, note: Tensor, decide: Callable[[Tensor], Tensor]
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
        tau, verdict, loss, y, d = outcome.decision[:5].tolist()
        self._refuse(verdict, outcome.notes)
        self.meter.d.add(seconds)
        layout, excluded = self.layout, self._excluded(outcome.notes)
        moved = None if pending.params is None else layout.flat(list(layout.params)) - pending.params
        rest_moved = None if pending.rest is None else self._rest_moved(pending.rest)
        self._spread = _spread(outcome)
        self.anchor.step(outcome.change)
        layout.set_params(self.anchor.values, moved)
        layout.set_rest(outcome.rest, rest_moved)
        if self.momentum == "reset":
            layout.reset_momentum()
        self.tau = int(tau)
        self._own_tau = self._balanced(self.tau, y)
        observed = None if loss == _NO_LOSS else loss
        self.rows.append(
            SyncRow(pending.t, self.steps_done, pending.steps, self.tau, observed, y, d, outcome.sent, excluded)
        )
        self.syncs += 1
        self._since_inside = 0
        if not self.delay:
            self.meter.begin_period()

    def _note(self, change: Tensor, rest: Tensor) -> Tensor:
        """loss, first loss, steps, Y, D, ||change||² (NaN: don't use it), averagings done, 0; (8,) float32."""
        loss, first = self.losses.take()
        norm = float(change.double().square().sum())
        if not bool(torch.isfinite(rest).all()):
            norm = math.nan
        values = [
            _NO_LOSS if loss is None else loss, _NO_LOSS if first is None else first, float(self.meter.steps),
            self.meter.y.value, self.meter.d.value, norm, float(self.syncs), 0.0,
        ]  # fmt: skip
        self._own_note = torch.tensor(values)
        return self._own_note

    def _decide(self, notes: Tensor, *, t: float, step: int, lr: float, spread: tuple[float, float]) -> Tensor:
        """Rank 0: notes of all ranks -> tau, verdict, loss, Y, D."""
        notes = notes.cpu()
        if len(notes[:, 6].unique()) > 1:
            return torch.tensor([0.0, OUT_OF_STEP, 0, 0, 0, 0, 0, 0])
        seen = notes[:, 0] != _NO_LOSS
        loss = float(notes[seen, 0].mean()) if bool(seen.any()) else None
        # The slowest rank sets Y. It waits for nobody, so the shortest D is what averaging takes without the waiting.
        y, d = float(notes[:, 3].max()), float(notes[:, 4].min())
        try:
            tau = self.controller.decide(
                t=t, step=step, steps=round(float(notes[:, 2].mean())), loss=loss,
                first_loss=float(notes[seen, 1].mean()) if bool(seen.any()) else None, lr=lr,
                y=y, d=d, disagreement=spread[0], progress=spread[1],
            )  # fmt: skip
        except DrivetrainError as error:
            self._failure = error
            return torch.tensor([0.0, RULE_FAILED, 0, 0, 0, 0, 0, 0])
        return torch.tensor([float(tau), OK, _NO_LOSS if loss is None else loss, y, d, 0, 0, 0])

    def _refuse(self, verdict: float, notes: Tensor) -> None:
        """Raise on all ranks what rank 0 found; nothing was overwritten yet."""
        if verdict == OUT_OF_STEP:
            raise RunFailed(
                f"comm: the ranks have done {[int(k) for k in notes[:, 6].tolist()]} averagings, they must be equal",
                hint="were the ranks restored from checkpoints of one step, and do all call sync() alike?",
            )
        if verdict == RULE_FAILED:
            failure, self._failure = self._failure, None
            raise failure or InvalidValue(f"comm: the period rule failed on rank 0 at step {self.steps_done}")
        if not bool(torch.isfinite(notes[:, NORM]).any()):
            raise RunFailed(
                f"comm: no rank has a finite model at step {self.steps_done}",
                hint="lower the learning rate or clip gradients; the anchor still holds the last average",
            )

    def _excluded(self, notes: Tensor) -> tuple[int, ...]:
        bad = torch.nonzero(~torch.isfinite(notes[:, NORM])).flatten().tolist()
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
        own = float(self._own_note[3])
        return max(1, round(tau * y / own)) if self.balance and own > 0 and y > 0 else tau

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
        aggregator: Any, f: int, outer: Any, block_momentum: float,
    ) -> Tensor | str | None:  # fmt: skip
        """Compare the ranks, share rank 0's model; the weights of all ranks."""
        if isinstance(weights, str) and weights != "steps":
            raise InvalidValue(f'comm: weights={weights!r}, wanted a number or "steps"')
        if not (dist.is_available() and dist.is_initialized()):
            return None
        options = {
            "rule": repr(self.rule), "momentum": self.momentum, "delay": self.delay, "balance": self.balance, "f": f,
            "codec": getattr(codec, "name", type(codec).__name__), "aggregator": getattr(aggregator, "name", None),
            "outer": outer is not None, "block_momentum": block_momentum, "weights": type(weights).__name__,
            "average_buffers": len(self.layout.buffers),
        }  # fmt: skip
        number = float(weights) if isinstance(weights, int | float) else 1.0
        shared = check_agreement(self.layout.describe(model), options, number, group)
        share_model(self.layout, group)
        return weights if isinstance(weights, str) or weights is None else shared


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
    norms = outcome.notes[:, NORM]
    progress = float(outcome.change.double().square().sum())
    return max(0.0, float(norms[torch.isfinite(norms)].double().mean()) - progress), progress
