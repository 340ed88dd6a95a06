"""[train]: workers as real processes train the model on the training split and predict the test split."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from drivetrain.base.config import Section
from drivetrain.base.errors import InvalidValue
from drivetrain.base.files import write_bytes, write_json
from drivetrain.base.modules import explain_failure, fingerprint, is_spec

from ..compiling import Backend, check
from ..compiling import show as show_compile
from ..exchange import ExchangeConfig
from ..exchange import show as show_exchange
from ..launch import launch_workers
from ..report.parts import Facts, Line, LinePlot, Part, Text
from ..splits import read_tensors
from ..stage import Drive, Outcome, Stage
from ..trained import build_model, loss_function
from ..worker import Task, correct, to_bytes


class OptimizerConfig(Section, extra="allow"):
    """[train.optimizer]: a name, and that optimizer's own options beside it."""

    name: str = Field("yellowfin", description="yellowfin, sgd, adam, any of torch.optim, or module:attribute")

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.model_extra or {})


class TrainConfig(Section):
    """[train]."""

    model: str = Field(description="module:attribute, or a network of drivetrain.nets")
    model_options: dict[str, Any] = Field({}, description="keyword arguments for it")
    features: list[str] | None = Field(None, description="columns to learn from; all but the label when absent")
    task: Literal["classification", "regression"] = "classification"
    tolerance: float = Field(0.0, ge=0, description="regression: a prediction this near to the label counts as right")
    loss: str = Field("", description="a loss of torch.nn.functional, or module:attribute")
    epochs: int = Field(10, ge=1)
    batch_size: int = Field(64, ge=1, description="rows a step, over all workers together")
    workers: int = Field(1, ge=1, le=64, description="processes")
    schedule: Literal["constant", "linear", "cosine"] = Field("constant", description="of the learning rate, down to 0")
    compile: Backend = Field("off", description="what the training step is compiled by")
    compile_options: dict[str, Any] = Field({}, description="options of the compiler; drivetrain's: bn, then, rewrite")
    optimizer: OptimizerConfig = OptimizerConfig(name="yellowfin")
    exchange: ExchangeConfig | None = None

    @model_validator(mode="after")
    def _fits(self) -> TrainConfig:
        if self.batch_size % self.workers:
            raise ValueError(f"batch_size {self.batch_size} must be a multiple of workers {self.workers}")
        if self.task == "regression" and not self.tolerance:
            raise ValueError("a regression needs tolerance > 0, the error that still counts as right")
        return self

    @property
    def loss_name(self) -> str:
        """The loss, by default the usual one of the task."""
        return self.loss or ("mse_loss" if self.task == "regression" else "cross_entropy")


def run(config: TrainConfig, drive: Drive) -> Outcome:
    """Encode the splits, rehearse one batch here, then train in `workers` processes."""
    data = read_tensors(drive, features=config.features, regression=config.task == "regression")
    rows = len(data.train_x)
    if rows < config.batch_size:
        raise InvalidValue(
            f"train: batch_size is {config.batch_size}, the training split has {rows} rows",
            where=drive.locate("train", "batch_size"),
        )
    task = Task(
        folder=str(drive.folder), model=config.model, model_options=config.model_options, shape=data.shape,
        features=config.features, loss=config.loss_name, task=config.task, tolerance=config.tolerance,
        epochs=config.epochs, batch_size=config.batch_size, workers=config.workers, optimizer=config.optimizer.name,
        optimizer_options=config.optimizer.options, schedule=config.schedule,
        compile=config.compile, compile_options=config.compile_options,
        exchange=config.exchange.model_dump() if config.exchange else None, seed=drive.seed,
    )  # fmt: skip
    _rehearse(task, data.train_x[:2], data.train_y[:2], drive)
    write_json(drive.work / "task.json", asdict(task))
    write_json(drive.work / "encoding.json", data.encoding)
    write_bytes(drive.work / "tensors.pt", to_bytes(data.tensors()))
    steps = config.epochs * (rows // config.batch_size)
    launch_workers("drivetrain.drive", drive.work, workers=config.workers, total_steps=steps)
    _sweep(drive.work)
    last = json.loads((drive.work / "curves.json").read_text())["epochs"][-1]
    what = "accuracy" if config.task == "classification" else f"share within ±{config.tolerance:g}"
    return Outcome(True, f"{config.epochs} epochs, test {what} {last['test_accuracy']:.4f}")


def _rehearse(task: Task, x: Tensor, y: Tensor, drive: Drive) -> None:
    """Build the model and run two rows through it here, where a mistake costs no processes and points at its key."""
    from drivetrain import optim

    model = build_model(
        task.model, task.model_options, drive.folder, seed=task.seed, shape=task.shape,
        where=drive.locate("train", "model"),
    )  # fmt: skip
    loss = loss_function(task.loss, drive.folder, where=drive.locate("train", "loss"))
    check(task.compile, task.compile_options, drive)
    optim.build(task.optimizer, model.parameters(), folder=drive.folder, **task.optimizer_options)
    with torch.random.fork_rng(devices=[]):
        outputs = _try(partial(model.eval(), x), f"model {task.model} fails on rows {_shape(x)}", drive, "model")
        told = f"loss {task.loss} fails on outputs {_shape(outputs)} and labels {_shape(y)}"
        value = _try(partial(loss, outputs, y), told, drive, "loss")
        _try(
            partial(correct, outputs, y, task.task, task.tolerance),
            f"outputs {_shape(outputs)} hold no prediction",
            drive,
            "task",
        )
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise InvalidValue(f"train: loss {task.loss} gives no single number", where=drive.locate("train", "loss"))


def _try(call: Callable[[], Any], what: str, drive: Drive, key: str) -> Any:
    try:
        return call()
    except Exception as error:
        raise InvalidValue(f"train: {what}", hint=explain_failure(error), where=drive.locate("train", key)) from error


def _shape(value: object) -> str:
    return f"{list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _sweep(work: Path) -> None:
    """Remove what only the running workers needed."""
    import shutil

    shutil.rmtree(work / "logs")
    for pattern in ("steps-*", "rendezvous*", "tensors.pt", "checkpoint.pt"):
        for left in work.glob(pattern):
            left.unlink()


def inputs(config: TrainConfig, drive: Drive) -> Mapping[str, str]:
    """The user's own source files: a changed model is a changed input."""
    specs = {"model": config.model, "loss": config.loss, "optimizer": config.optimizer.name}
    return {key: fingerprint(spec, drive.folder) for key, spec in specs.items() if is_spec(spec)}


def show(folder: Path) -> Iterable[Part]:
    """Loss, accuracy, and what the optimizer did."""
    task = json.loads((folder / "task.json").read_text())
    curves = json.loads((folder / "curves.json").read_text())
    steps, epochs = curves["steps"], curves["epochs"]
    last = epochs[-1]
    yield Facts({
        "model": task["model"], "optimizer": task["optimizer"], "workers": task["workers"],
        "batch size": task["batch_size"], "epochs": task["epochs"], "steps": len(steps),
        "test accuracy": f"{last['test_accuracy']:.4f}", "test loss": f"{last['test_loss']:.4f}",
    })  # fmt: skip
    number = [record["step"] for record in steps]
    per_epoch = len(steps) / len(epochs)
    at = [record["epoch"] * per_epoch for record in epochs]
    yield LinePlot(
        "Loss",
        [Line("each step", number, [r["loss"] for r in steps]), Line("test", at, [r["test_loss"] for r in epochs])],
        "step", "loss", log=all(record["loss"] > 0 for record in steps),
    )  # fmt: skip
    yield LinePlot("Test accuracy", [Line("test", at, [r["test_accuracy"] for r in epochs])], "step", "share right")
    yield from show_compile(folder, task["compile"])
    yield from show_exchange(folder, task["exchange"])
    tuned = " (tuned by YellowFin)" if task["optimizer"] == "yellowfin" else ""
    yield Text(f"What the optimizer did{tuned}", level=3)
    rates = [record["lr"] for record in steps]
    yield LinePlot("Learning rate", [Line("learning rate", number, rates)], "step", "learning rate", log=min(rates) > 0)
    yield LinePlot("Momentum", [Line("momentum", number, [r["momentum"] for r in steps])], "step", "momentum")


STAGE = Stage("train", "Training", ("data",), TrainConfig, run, inputs, show, needs=("data",))
