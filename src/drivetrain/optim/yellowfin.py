"""YellowFin: momentum SGD that tunes its own momentum and learning rate.

One momentum and one rate for all parameters, derived anew at each step from four statistics of the gradient.
P parameters. Source: Zhang & Mitliagkas, MLSys 2019, arXiv 1706.03471.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.optim import Optimizer

from drivetrain.base.errors import InvalidValue

from . import checkpoint
from .foreach import Foreach, Loop, Passes
from .fused import fits, load
from .momentum_sensor import MomentumSensor, feed_back
from .nonfinite import DeferredReport, NonFiniteGradient, nonfinite_error, warn_of_sums
from .options import YellowFinOptions
from .sharding import Reduction
from .statistics import Statistics
from .stats import Record, YellowFinStats
from .work import Work, check_parameters, collect, masked


class YellowFin(Optimizer):
    """Momentum SGD with automatic momentum and learning rate.

    `param_groups[i]["lr"]` is a multiplier of the tuned rate, 1.0 at first: any `torch.optim.lr_scheduler` works on it,
    and groups may have their own. The tuned rate is in `stats().lr`. Losses should be means over samples.

    Args:
        params: parameters or groups; a group may set `lr` (its multiplier) and `weight_decay`.
        lr, momentum: used for the first step, before anything is known.
        beta: smoothing of every statistic. Short runs (under 1,000 steps) forget faster with 0.99.
        window: w, gradients over which the curvature range is taken.
        weight_decay: adds weight_decay * x to the gradient, statistics included; decoupled, shrinks x by rate * decay.
        decoupled_weight_decay: as AdamW does.
        nesterov: look-ahead momentum.
        clip: limit on the gradient norm, before everything else.
        adaptive_clip: clip the update to √h_max when ‖g‖² reaches the h_max before this step.
        protect: the gradient norm is limited to √(protect h_max) before the statistics.
        max_move: limit on rate * ‖g‖.
        log_smooth: average the logarithm of the curvature.
        zero_debias: divide averages by 1 - beta^t.
        smooth_hyper: average momentum and rate too, as the paper's text does and the authors' code does not.
        slow_start: the rate rises linearly over this many steps; None is 10 * window, 0 is off.
        sparsity_debias: correct statistics for rarely used weights (embeddings); sparse gradients are accepted then.
        staleness: age of the gradients in steps; above 0 the closed loop holds the *total* momentum at its target.
        feedback: gain of that loop.
        sample: coordinates that the loop watches at most.
        foreach: True for torch's multi-tensor operations, False for a plain loop, None for the fastest: the native
            kernel for float32 on the CPU, multi-tensor operations elsewhere.
        process_group: group across which plain parameters are shards of one model; DTensors know theirs.
        hyper_debias: ours: with `smooth_hyper`, average the rate's logarithm and debias both averages, so that they are
            right from the second step on. `STEADY` is a set of options around it.

    Raises:
        InvalidValue: an option out of range, no or complex parameters, sparse gradients without `sparsity_debias`.
        NonFiniteGradient: from `step`, on an infinite or NaN gradient; nothing is changed then. On a device that the
            check would force the host to wait for, the step is skipped there and a later step raises.
    """

    # torch.amp.GradScaler hands over grad_scale and found_inf instead of reading them
    _step_supports_amp_scaling = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        momentum: float = 0.0,
        *,
        beta: float = 0.999,
        window: int = 20,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        nesterov: bool = False,
        clip: float | None = None,
        adaptive_clip: bool = True,
        protect: float = 100.0,
        max_move: float = 100.0,
        log_smooth: bool = True,
        zero_debias: bool = True,
        smooth_hyper: bool = False,
        hyper_debias: bool = False,
        slow_start: int | None = None,
        sparsity_debias: bool = False,
        staleness: int = 0,
        feedback: float = 0.01,
        sample: int = 65536,
        foreach: bool | None = None,
        process_group: Any = None,
    ) -> None:
        self.options = YellowFinOptions(
            lr=lr,
            momentum=momentum,
            beta=beta,
            window=window,
            clip=clip,
            adaptive_clip=adaptive_clip,
            protect=protect,
            max_move=max_move,
            log_smooth=log_smooth,
            zero_debias=zero_debias,
            smooth_hyper=smooth_hyper,
            hyper_debias=hyper_debias,
            slow_start=10 * window if slow_start is None else slow_start,
            sparsity_debias=sparsity_debias,
            staleness=staleness,
            feedback=feedback,
            sample=sample,
            nesterov=nesterov,
            decoupled_weight_decay=decoupled_weight_decay,
        )
        self.foreach = foreach
        self.process_group = process_group
        self.statistics: Statistics | None = None
        self.sensor: MomentumSensor | None = None
        self._reduction: tuple[tuple[int, ...], Reduction] | None = None
        self._remaining = torch.ones(0)
        self._warned = False
        params = list(params)
        if not params:
            raise InvalidValue("optim: YellowFin got an empty parameter list (params)")
        super().__init__(params, {"lr": 1.0, "weight_decay": weight_decay})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, also in mid-training: their gradient averages are debiased from their own first step."""
        super().add_param_group(param_group)
        check_parameters(self.param_groups[-1])
        if self.statistics is not None:
            new = len(self.param_groups[-1]["params"])
            self._remaining = torch.cat([self._remaining, self._remaining.new_ones(new)])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step with the gradients in `.grad`; returns what `closure` returned, if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._step()
        return loss

    @_disable_dynamo  # a compiled training step breaks its graph here, instead of tracing ctypes and 0-dim bookkeeping
    def _step(self) -> None:
        work = collect(self)
        if work.params:
            self._begin(work.params[0].device)
            self._advance(work)

    def stats(self) -> YellowFinStats:
        """What the last step measured and decided; reads one row from the device."""
        if self.statistics is None:
            raise InvalidValue("optim: YellowFin.stats() needs at least one step")
        return self._record.stats()

    def suggest(self) -> dict[str, float]:
        """What to freeze in plain momentum SGD: medians over the last max(200, 10 * window) steps."""
        if self.statistics is None:
            raise InvalidValue("optim: YellowFin.suggest() needs at least 2 steps with a gradient, had none")
        return self._record.medians()

    def state_dict(self) -> dict[str, Any]:
        """torch's layout and one more entry, "yellowfin"."""
        return checkpoint.save(self, super().state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a YellowFin checkpoint, or the momentum buffers of a `torch.optim.SGD` checkpoint (with a warning)."""
        content = checkpoint.check(self, state_dict)
        super().load_state_dict(content)
        checkpoint.restore(self, content)

    def __getstate__(self) -> dict[str, Any]:
        # torch's own drops everything but state and groups, so that a deep copy would lose the statistics
        kept = {name: value for name, value in self.__dict__.items() if name not in ("step", "_reduction")}
        return {**kept, "_reduction": None}

    def _begin(self, device: torch.device) -> None:
        """Make what lives beside the parameters, once their device is known."""
        if self.statistics is not None:
            return
        self.statistics = Statistics(self.options, device)
        everything = [p for group in self.param_groups for p in group["params"]]
        # (P,), as Statistics.remaining for each parameter's own average
        self._remaining = torch.ones(len(everything), dtype=torch.float64, device=device)
        self._record = Record(self.options, device)
        self._mu = torch.full((), self.options.momentum, dtype=torch.float64, device=device)
        self._report = DeferredReport(device)

    def _advance(self, work: Work) -> None:
        """One step: measure, tune, move."""
        if self.options.staleness:
            self._watch(work)
        if not work.reads and (late := self._report.poll()):
            step, index = late
            raise nonfinite_error(index, self._shape(index), step, skipped=True)
        found_inf = getattr(self, "found_inf", None)
        if work.reads and found_inf is not None and found_inf.item():
            if self.sensor is not None:
                self.sensor.hold()
            return
        passes, reduction = self._passes(work), self._reduce(work)
        squares = passes.squares(work.grads)
        norm2 = reduction.total(squares)
        keep = norm2.isfinite()
        if not work.reads:
            work, norm2, keep = self._skip_bad(work, squares, norm2)
        elif not keep.item():
            raise self._bad_gradient(work, squares)
        else:
            self._warned = self._warned or warn_of_sums(norm2.item())
        guard = self._known().guard(norm2)
        lr, explosion = self._observe(work, passes, reduction, norm2, guard, keep)
        mu, total = self._move(work, passes, lr, guard * explosion, keep)
        self._record.write(self._known(), mu, lr, total, norm2, guard * explosion)

    def _observe(
        self, work: Work, passes: Passes, reduction: Reduction, norm2: Tensor, guard: Tensor, keep: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Fold the gradient into the statistics and tune; the rate, and the factor of the explosion clip."""
        statistics, beta = self._known(), self.options.beta
        # zero gradients before the first nonzero one say nothing about curvature, and would poison the window
        observed = keep & ((statistics.steps > 0) | (norm2 > 0))
        if work.reads and not observed.item():
            return statistics.lr, torch.ones_like(norm2)
        before = statistics.values()
        decay = beta if work.reads else torch.where(observed, beta, 1.0).to(norm2.dtype)
        weight = (1 - beta) * (guard.item() if work.reads else guard)
        folded = passes.fold(work.averages, work.grads, decay, weight)
        remaining = self._remaining * decay if work.places is None else self._remaining[work.places] * decay
        divisor = (1 - remaining).square() if self.options.zero_debias else torch.ones_like(remaining)
        norm2 = norm2 * guard.square()
        statistics.observe(norm2, reduction.total(folded / divisor), work.density(reduction, self.options))
        lr, explosion = statistics.tune(norm2, before["h_max"])
        if not work.reads:
            statistics.restore(before, keep=observed)
            lr, explosion = torch.where(observed, lr, statistics.lr), torch.where(observed, explosion, 1.0)
        if work.places is not None:
            remaining = self._remaining.index_copy(0, work.places, remaining)
        self._remaining = remaining
        return lr, explosion

    def _move(self, work: Work, passes: Passes, lr: Tensor, scale: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        """The momentum step, group by group, and the closed loop behind it; the momentum used, and the total."""
        target = self._known().mu
        mu = self._mu if self.options.staleness else target
        used_lr, used_mu = (lr, mu) if work.reads else (torch.where(keep, lr, 0.0), torch.where(keep, mu, 1.0))
        rates: list[Tensor] = []
        for group, inside in work.groups:
            rate = used_lr * group["lr"]
            rates += [rate] * (inside.stop - inside.start)
            shrink = rate * group["weight_decay"] if self.options.decoupled_weight_decay else torch.zeros_like(rate)
            numbers = {"mu": used_mu, "scale": scale, "rate": rate, "shrink": shrink}
            if work.reads:
                numbers = {name: number.item() for name, number in numbers.items()}
            lists = (work.params[inside], work.buffers[inside], work.grads[inside])
            passes.move(*lists, nesterov=self.options.nesterov, **numbers)
        if self.sensor is None:
            return mu, mu
        total = self._reduce(work).mean_known(self.sensor.measure(work.params, work.grads, scale, rates))
        self._mu = feed_back(mu, target, total, self.options.feedback)
        return mu, total

    def _watch(self, work: Work) -> None:
        if self.sensor is None:
            sizes = [p.numel() for p in work.params]
            self.sensor = MomentumSensor(sizes, self.options.staleness, self.options.sample, work.params[0].device)
        if len(work.params) != len(self.sensor.indices):
            raise InvalidValue(
                f"optim: YellowFin with staleness={self.options.staleness} needs a gradient for the same "
                f"{len(self.sensor.indices)} parameters at every step, got {len(work.params)}"
            )
        self.sensor.begin(work.params)

    def _skip_bad(self, work: Work, squares: Tensor, norm2: Tensor) -> tuple[Work, Tensor, Tensor]:
        """Without a host read: gradients become zero where the step must not count, and the report is sent."""
        finite = norm2.isfinite()
        found_inf = getattr(self, "found_inf", None)
        expected = torch.zeros_like(finite) if found_inf is None else found_inf.reshape(()) != 0
        bad_place = (~squares.isfinite()).double().argmax()
        index = bad_place if work.places is None else work.places[bad_place]
        self._report.post(~finite & ~expected, self._known().steps + 1, index)
        keep = finite & ~expected
        return work.with_grads(masked(work.grads, keep)), torch.where(keep, norm2, 0.0), keep

    def _bad_gradient(self, work: Work, squares: Tensor) -> NonFiniteGradient:
        bad = (~squares.isfinite()).nonzero().flatten()
        step = int(self._known().steps) + 1
        if not len(bad):
            return NonFiniteGradient(
                f"YellowFin: a gradient on another process is not finite at step {step}; nothing was changed"
            )
        index = int(bad[0] if work.places is None else work.places[bad[0]])
        return nonfinite_error(index, self._shape(index), step)

    def _shape(self, index: int) -> tuple[int, ...]:
        return tuple([p for group in self.param_groups for p in group["params"]][index].shape)

    def _passes(self, work: Work) -> Passes:
        if self.foreach is False:
            return Loop()
        if self.foreach is None and fits(work.params, work.grads, work.averages, work.buffers):
            return load() or Foreach()
        return Foreach()

    def _reduce(self, work: Work) -> Reduction:
        key = tuple(map(id, work.originals))
        if self._reduction is None or self._reduction[0] != key:
            self._reduction = (key, Reduction(work.originals, self.process_group))
        return self._reduction[1]

    def _known(self) -> Statistics:
        assert self.statistics is not None
        return self.statistics
