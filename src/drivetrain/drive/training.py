"""A drive's training, opened without running it: model, batches and loss, for tools that try things."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from drivetrain.base.errors import InvalidValue
from drivetrain.base.seeds import torch_generator

from .config import DriveFile
from .runner import run_drive
from .splits import read_tensors
from .stage import Drive
from .stages.train import TrainConfig
from .trained import build_model, loss_function

Batches = list[tuple[Tensor, Tensor]]


def open_training(
    drive_file: DriveFile, *, runs: str | Path = "runs"
) -> tuple[nn.Module, Batches, Callable[[Tensor, Tensor], Tensor]]:
    """The untrained model, one epoch of batches (x, y) in the drive's own order, and the loss of a drive's [train].

    Its [data] stage runs first where it is not up to date.

    Raises:
        InvalidValue: the drive has no [train], its data breaks the schema, or as `run_drive`.
    """
    config = cast(TrainConfig | None, drive_file.config("train"))
    if config is None:
        raise InvalidValue(f"drive: {drive_file.path.name} has no [train]")
    result = run_drive(drive_file, runs=runs, only="data")
    if not result.passed:
        raise InvalidValue(f"drive: the data of {drive_file.path.name} breaks its schema: {result.stages[0].summary}")
    folder, locate = drive_file.path.parent, drive_file.locate
    drive = Drive(drive_file.name, drive_file.seed, folder, result.folder, result.folder, locate)
    data = read_tensors(drive, features=config.features, regression=config.task == "regression")
    model = build_model(
        config.model, config.model_options, folder, seed=drive.seed, shape=data.shape, where=locate("train", "model")
    )
    order = torch.randperm(len(data.train_x), generator=torch_generator(drive.seed, "order", 0))
    whole = len(order) // config.batch_size * config.batch_size
    batches = [(data.train_x[rows], data.train_y[rows]) for rows in order[:whole].split(config.batch_size)]
    return model, batches, loss_function(config.loss_name, folder, where=locate("train", "loss"))
