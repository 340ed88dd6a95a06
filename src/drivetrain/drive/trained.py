"""A drive's model: built from its name, alone or with the weights of a finished run."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from drivetrain.base.errors import InvalidValue, MissingFile, unknown_name
from drivetrain.base.modules import explain_failure, is_spec, load_attribute
from drivetrain.base.seeds import derive


def build_model(
    spec: str, options: dict[str, Any], folder: Path, *, seed: int, shape: dict[str, int], where: str | None = None
) -> nn.Module:
    """Build a model by "module:attribute" or by the name of a network in `drivetrain.nets`, with seeded weights.

    Args:
        options: keyword arguments for it.
        folder: where user modules lie.
        seed: fixes the initial weights; torch's global generator is left as it was.
        shape: `in_features` and `num_classes` of the data, passed where the model takes them and `options` is silent.
        where: the key's place, for the message.

    Raises:
        InvalidValue: there is none of that name, or it fails while it is built.
    """
    make = _maker(spec, folder, where)
    accepted = inspect.signature(make).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
    arguments = {name: size for name, size in shape.items() if name in accepted and not takes_all} | options
    for name in options:
        if name not in accepted and not takes_all:
            raise unknown_name(f"train: option of {spec}", name, accepted, where=where)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "init"))
        try:
            model = make(**arguments)
        except Exception as error:
            raise InvalidValue(
                f"train: model {spec} could not be built", hint=explain_failure(error), where=where
            ) from error
    if not isinstance(model, nn.Module):
        raise InvalidValue(f"train: {spec} gives a {type(model).__name__}, not a torch.nn.Module", where=where)
    return model


def loss_function(spec: str, folder: Path, *, where: str | None = None) -> Callable[[Tensor, Tensor], Tensor]:
    """A loss by its name in torch.nn.functional or by "module:attribute": (outputs, targets) -> scalar mean."""
    if is_spec(spec):
        return _on_matching_shapes(load_attribute(spec, folder, where=where))
    functions = {
        name: function
        for name, function in vars(nn.functional).items()
        if callable(function) and (name.endswith("_loss") or "cross_entropy" in name)
    }
    if spec not in functions:
        raise unknown_name("train: loss", spec, functions, where=where)
    return _on_matching_shapes(functions[spec])


def _on_matching_shapes(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """One output a row, [B, 1], meets float targets [B] as [B]: broadcast, it would silently compare every pair."""

    def matched(outputs: Tensor, targets: Tensor) -> Tensor:
        if targets.is_floating_point() and outputs.shape == (len(targets), 1):
            outputs = outputs.squeeze(1)
        return loss(outputs, targets)

    return matched


def load_model(run_folder: str | Path) -> nn.Module:
    """The trained model of a finished run, in eval mode; `folder` of the drive must still hold its module.

    Args:
        run_folder: "runs/<name>".
    """
    train = Path(run_folder) / "train"
    try:
        task = json.loads((train / "task.json").read_text())
        state = torch.load(train / "model.pt", weights_only=True)
    except FileNotFoundError as error:
        raise MissingFile(f"drive: {run_folder} holds no trained model: {error.filename} is missing") from None
    model = build_model(
        task["model"], task["model_options"], Path(task["folder"]), seed=task["seed"], shape=task["shape"]
    )
    model.load_state_dict(state)
    return model.eval()


def _maker(spec: str, folder: Path, where: str | None) -> Callable[..., nn.Module]:
    if is_spec(spec):
        return load_attribute(spec, folder, where=where)
    from drivetrain.nets import NETS

    if spec not in NETS:
        raise unknown_name("train: model", spec, [*NETS, "module:attribute"], where=where)
    return NETS[spec]
