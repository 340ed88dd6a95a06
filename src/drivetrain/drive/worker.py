"""One training worker: `python -m drivetrain.drive WORK`, started by the launcher.

All ranks hold all rows and take every world_size-th row of each batch, so the batch and thus the result is the same for
any number of workers up to the order of a sum. After each epoch rank 0 writes a checkpoint; every random choice is
drawn from (seed, epoch, rank), so a run that was cut off goes on as if it had not been.
N rows, B rows a batch, W workers.
"""

from __future__ import annotations

import io
import json
import math
import os
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from drivetrain import optim
from drivetrain.base.errors import DrivetrainError, RunFailed
from drivetrain.base.files import atomic_path, write_bytes, write_json
from drivetrain.base.modules import explain_failure
from drivetrain.base.seeds import derive, torch_generator

from .compiling import Backend, StepClock, compiled
from .exchange import Traffic
from .launch import StepCounter, report_error
from .trained import build_model, loss_function


@dataclass(frozen=True)
class Task:
    """What to train, as the [train] stage wrote it to task.json."""

    folder: str
    model: str
    model_options: dict[str, Any]
    shape: dict[str, int]
    features: list[str] | None
    loss: str
    task: str
    tolerance: float
    epochs: int
    batch_size: int
    workers: int
    optimizer: str
    optimizer_options: dict[str, Any]
    schedule: str
    compile: Backend
    compile_options: dict[str, Any]
    exchange: dict[str, Any] | None
    seed: int


@dataclass
class Progress:
    """What a checkpoint holds besides the weights: where the run is and the curves up to there."""

    epoch: int = 0
    steps: list[dict[str, float]] = field(default_factory=list)
    epochs: list[dict[str, float]] = field(default_factory=list)


def main(work: Path) -> None:
    """Train the task in `work` as rank RANK of WORLD_SIZE; leave a known error in `work` for the launcher."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    try:
        task = Task(**json.loads((work / "task.json").read_text()))
        store = f"file://{work}/rendezvous-{os.environ['TORCHELASTIC_RUN_ID']}"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
        Trainer(task, work, rank, world).run()
        dist.barrier()
    except DrivetrainError as error:
        report_error(work, rank, error)
        sys.exit(2)
    except OSError as error:
        report_error(
            work, rank, RunFailed(f"train: {error.filename or work}: {(error.strerror or str(error)).lower()}")
        )
        sys.exit(2)
    # All artifacts are written and every rank is here. Taking gloo's and DDP's threads down one by one aborts now and
    # then ("terminate called without an active exception", one run in ten on a busy machine) and fails a good run.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


class Trainer:
    """The training loop of one rank."""

    def __init__(self, task: Task, work: Path, rank: int, world: int) -> None:
        self.task, self.work, self.rank, self.world = task, work, rank, world
        folder = Path(task.folder)
        model = build_model(task.model, task.model_options, folder, seed=task.seed, shape=task.shape)
        self.loss = loss_function(task.loss, folder)
        self.model: nn.Module = model
        self.optimizer = optim.build(task.optimizer, model.parameters(), folder=folder, **task.optimizer_options)
        self.parallel = compiled(model, task.compile, task.compile_options)
        self.traffic: Traffic | None = None
        if task.exchange is None:
            self.parallel = DistributedDataParallel(self.parallel)
        else:
            self.traffic = Traffic(task.exchange, model, self.optimizer)
            self.optimizer = self.traffic.optimizer
        tensors = torch.load(work / "tensors.pt", mmap=True, weights_only=True)
        self.train: tuple[Tensor, Tensor] = (tensors["train_x"], tensors["train_y"])
        self.test: tuple[Tensor, Tensor] = (tensors["test_x"], tensors["test_y"])
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.total_steps = task.epochs * (len(self.train[0]) // task.batch_size)
        self.progress = Progress()
        self.counter, self.clock = StepCounter(work, rank), StepClock()

    def run(self) -> None:
        """Train from the last checkpoint to the last epoch; rank 0 then writes the artifacts."""
        self._resume()
        for epoch in range(self.progress.epoch, self.task.epochs):
            self._train_epoch(epoch)
            outputs = self._predict()
            held_back = self._held_back()
            if self.rank == 0:
                self._close_epoch(epoch, outputs, held_back)
        outputs = self._predict()
        if self.rank == 0:
            self._write_artifacts(outputs)

    def _train_epoch(self, epoch: int) -> None:
        x, y = self.train
        batch = self.task.batch_size
        order = torch.randperm(len(x), generator=torch_generator(self.task.seed, "order", epoch))
        torch.manual_seed(derive(self.task.seed, "epoch", epoch, self.rank))  # dropout and the like
        self.parallel.train()
        per_epoch = len(x) // batch
        for number in range(per_epoch):
            mine = order[number * batch : (number + 1) * batch][self.rank :: self.world]
            with self.clock.step():
                loss = self._step(x[mine], y[mine], epoch, epoch * per_epoch + number)
            if self.rank == 0:
                record = {"step": epoch * per_epoch + number, "loss": loss}
                self.progress.steps.append(record | _optimizer_record(self.optimizer))

    def _step(self, x: Tensor, y: Tensor, epoch: int, step: int) -> float:
        self.counter.set(step)
        for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * schedule_factor(self.task.schedule, step / self.total_steps)
        self.optimizer.zero_grad()
        try:
            loss = self.loss(self.parallel(x), y)
            value = loss.item()
            if not math.isfinite(value):
                raise RunFailed(
                    f"train: the loss became {value} in epoch {epoch + 1}, step {step}",
                    hint="a smaller learning rate, clipped gradients, or a look at the data's extremes",
                )
            loss.backward()
            if self.traffic is not None:
                self.traffic.observe(value)
            self.optimizer.step()
        except DrivetrainError:
            raise
        except FloatingPointError as error:
            raise RunFailed(f"train: {error}", hint="the loss was finite; its gradient was not") from error
        except Exception as error:
            raise RunFailed(f"train: step {step} failed", hint=explain_failure(error)) from error
        return value

    @torch.no_grad()
    def _predict(self) -> Tensor:
        """Outputs for the whole test split, each rank computing its share; equal on all ranks."""
        self.parallel.eval()
        if self.traffic is not None:
            self.traffic.settle()
        for buffer in self.model.buffers():  # each rank's batch norm has seen rows of its own; rank 0's is the model's
            dist.broadcast(buffer, 0)
        x = self.test[0]
        mine = torch.arange(self.rank, len(x), self.world)
        parts = [self.model(x[rows]) for rows in mine.split(1024)]
        shares: list[Any] = [None] * self.world
        dist.all_gather_object(shares, (mine, torch.cat(parts)) if parts else None)
        shares = [share for share in shares if share is not None]
        outputs = torch.empty(len(x), *shares[0][1].shape[1:])
        for rows, values in shares:
            outputs[rows] = values
        return outputs

    def _held_back(self) -> list[Any]:
        """What each rank's exchange still owes the others: a checkpoint without it would lose it."""
        states: list[Any] = [None] * self.world
        if self.traffic is not None:
            dist.all_gather_object(states, self.traffic.state_dict())
        return states

    def _close_epoch(self, epoch: int, outputs: Tensor, held_back: list[Any]) -> None:
        y = self.test[1]
        score = correct(outputs, y, self.task.task, self.task.tolerance).float().mean().item()
        test_loss = self.loss(outputs, y).item()
        per_epoch = len(self.train[0]) // self.task.batch_size
        train_loss = float(np.mean([record["loss"] for record in self.progress.steps[-per_epoch:]]))
        self.progress.epochs.append(
            {"epoch": epoch + 1, "train_loss": train_loss, "test_loss": test_loss, "test_accuracy": score}
        )
        self.progress.epoch = epoch + 1
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict() if self.traffic is None or self.traffic.local is None else {},
            "exchange": held_back,
            "progress": vars(self.progress),
        }
        write_bytes(self.work / "checkpoint.pt", to_bytes(state))

    def _resume(self) -> None:
        checkpoint = self.work / "checkpoint.pt"
        if not checkpoint.exists():
            return
        # Our own file, which may hold any optimizer's state: not limited to plain weights.
        state = torch.load(checkpoint, weights_only=False)
        self.model.load_state_dict(state["model"])
        if self.traffic is None or self.traffic.local is None:  # local updates keep the optimizer's state themselves
            self.optimizer.load_state_dict(state["optimizer"])
        if self.traffic is not None:
            self.traffic.load_state_dict(state["exchange"][self.rank])
        self.progress = Progress(**state["progress"])

    def _write_artifacts(self, outputs: Tensor) -> None:
        write_bytes(self.work / "model.pt", to_bytes(self.model.state_dict()))
        predicted = predictions(outputs, self.task.task)
        with atomic_path(self.work / "predictions.npy") as beside:
            np.save(beside, predicted.numpy())
        with atomic_path(self.work / "labels.npy") as beside:
            np.save(beside, self.test[1].numpy())
        if self.traffic is not None:
            self.traffic.write(self.work)
        if self.task.compile != "off":
            self.clock.write(self.work)
        write_json(self.work / "curves.json", {"steps": self.progress.steps, "epochs": self.progress.epochs})


def schedule_factor(schedule: str, done: float) -> float:
    """What the learning rate is multiplied by after the share `done` of all steps: from 1 down to 0, or always 1."""
    if schedule == "constant":
        return 1.0
    return 1.0 - done if schedule == "linear" else (1.0 + math.cos(math.pi * done)) / 2


def predictions(outputs: Tensor, task: str) -> Tensor:
    """Class numbers int64 [N] from logits [N, C] or from the sign of one logit; for regression the values [N]."""
    if task == "regression":
        return outputs.reshape(len(outputs), -1).squeeze(1)
    if outputs.ndim == 2 and outputs.shape[1] > 1:
        return outputs.argmax(1)
    return (outputs.reshape(len(outputs)) > 0).long()


def correct(outputs: Tensor, y: Tensor, task: str, tolerance: float) -> Tensor:
    """Whether each prediction is right, bool [N]: the class equals, or the value lies within `tolerance`."""
    predicted = predictions(outputs, task)
    return (predicted - y).abs() <= tolerance if task == "regression" else predicted == y


def to_bytes(state: object) -> bytes:
    """`torch.save` as bytes: written to a path it would store the path's name, and equal weights differ in bytes."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _optimizer_record(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Learning rate and momentum of this step, from the optimizer's own statistics where it keeps some."""
    group = optimizer.param_groups[0]
    if hasattr(inner := getattr(optimizer, "optimizer", optimizer), "stats"):
        seen = inner.stats()
        return {"lr": float(seen.lr) * float(group["lr"]), "momentum": float(seen.mu)}
    momentum = group.get("momentum", group.get("betas", (0.0,))[0])
    return {"lr": float(group["lr"]), "momentum": float(momentum)}


def _end_with(parent: int) -> None:
    """End this worker when its launcher is gone, however that ended; a killed drive must leave nobody writing."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)
