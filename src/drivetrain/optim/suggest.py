"""Learning rate and momentum for plain momentum SGD, found by training with YellowFin for a few hundred steps."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from drivetrain.base.errors import InvalidValue, unknown_name
from drivetrain.base.modules import load_attribute
from drivetrain.base.progress import track

from .stats import YellowFinStats
from .yellowfin import YellowFin

Loss = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class Suggestion:
    """What to freeze, and how it did.

    Attributes:
        lr, momentum: medians of what YellowFin used, slow start left out.
        steps: how many steps were tried.
        start, tuned: mean loss of the first and the last tenth of the steps with YellowFin.
        frozen: mean loss of the last tenth of as many steps of SGD with `lr` and `momentum`, from the same weights on
            the same batches; None when not checked, infinity when it diverged.
        stats: the last record of the trial.
    """

    lr: float
    momentum: float
    steps: int
    start: float
    tuned: float
    frozen: float | None
    stats: YellowFinStats

    @property
    def holds(self) -> bool:
        """Whether SGD with the frozen values learned: it ended below where the trial began (true when not checked)."""
        return self.frozen is None or self.frozen < self.start


def suggest(
    model: nn.Module,
    data: Iterable[Any],
    loss: str | Loss = "cross_entropy",
    *,
    steps: int = 200,
    check: bool = True,
    device: str | torch.device = "cpu",
    **options: Any,
) -> Suggestion:
    """Train a copy of `model` with YellowFin and read off what to freeze.

    Args:
        model: left as it is.
        data: batches (inputs, targets); begun again when it ends, so a one-shot iterator must hold enough.
        loss: a name in torch.nn.functional, "module:attribute", or a function (output, target) -> mean loss.
        steps: optimizer steps, at least 2.
        check: train a second copy by SGD with the result, on the same batches.
        device: where to train.
        options: of `YellowFin`.

    Raises:
        InvalidValue: an unknown loss, too few steps, no data, batches that are not pairs, a model or loss that fails.
        NonFiniteGradient: the loss is not finite.
    """
    if steps < 2:
        raise InvalidValue(f"optim: suggest needs at least 2 steps, got {steps}")
    loss_of = _loss(loss)
    batches = _take(data, steps)
    trial = copy.deepcopy(model).to(device).train()
    tuner = YellowFin([p for p in trial.parameters() if p.requires_grad], **options)
    losses = _train(trial, tuner, loss_of, batches, device, "training with YellowFin")
    found = tuner.suggest()
    tenth = max(1, steps // 10)
    frozen = None
    if check:
        trial = copy.deepcopy(model).to(device).train()
        weights = [p for p in trial.parameters() if p.requires_grad]
        sgd = torch.optim.SGD(weights, lr=found["lr"], momentum=found["momentum"])
        frozen = _mean(_train(trial, sgd, loss_of, batches, device, "checking with SGD")[-tenth:])
    return Suggestion(
        **found,
        steps=steps,
        start=_mean(losses[:tenth]),
        tuned=_mean(losses[-tenth:]),
        frozen=frozen,
        stats=tuner.stats(),
    )


def _train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of: Loss,
    batches: list[Any],
    device: str | torch.device,
    what: str,
) -> list[float]:
    losses = []
    for step, (inputs, targets) in enumerate(track(batches, what), 1):
        optimizer.zero_grad()
        try:
            loss = loss_of(model(_to(inputs, device)), _to(targets, device))
            loss.backward()
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise InvalidValue(
                f"optim: training step {step} failed in the model or the loss: {type(error).__name__}: {error}"
            ) from error
        losses.append(loss.item())
        if not math.isfinite(losses[-1]) and isinstance(optimizer, torch.optim.SGD):
            return [math.inf]
        optimizer.step()
    return losses


def _take(data: Iterable[Any], steps: int) -> list[Any]:
    """The first `steps` batches, going through the data again where it is shorter."""
    batches: list[Any] = []
    while len(batches) < steps:
        before = len(batches)
        for batch in _up_to(iter(data), steps - before):
            if not isinstance(batch, tuple | list) or len(batch) != 2:
                raise InvalidValue(
                    f"optim: suggest needs batches of (inputs, targets), got a {type(batch).__name__}"
                    + (f" of {len(batch)}" if isinstance(batch, tuple | list) else "")
                )
            batches.append(batch)
        if len(batches) == before:
            raise InvalidValue(f"optim: suggest got {before} batches and no more, for {steps} steps")
    return batches


def _up_to(batches: Iterator[Any], count: int) -> Iterator[Any]:
    for _, batch in zip(range(count), batches, strict=False):
        yield batch


def _to(value: Any, device: str | torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _to(item, device) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_to(item, device) for item in value)
    return value


def _loss(loss: str | Loss) -> Loss:
    if not isinstance(loss, str):
        return loss
    if ":" in loss:
        return load_attribute(loss, Path.cwd())
    found = getattr(nn.functional, loss, None)
    if not callable(found):
        known = [name for name in dir(nn.functional) if name.endswith(("_loss", "cross_entropy"))]
        raise unknown_name("optim: loss", loss, known)
    return found


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
