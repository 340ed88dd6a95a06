"""YellowFin's part of a checkpoint, and the way in from a plain SGD checkpoint."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch

from drivetrain.base.errors import InvalidValue

from .momentum_sensor import MomentumSensor

if TYPE_CHECKING:
    from .yellowfin import YellowFin

FORMAT = 1
RECORD = ("last", "history")


def save(optimizer: YellowFin, layout: dict[str, Any]) -> dict[str, Any]:
    """Add the entry "yellowfin" to torch's layout."""
    entry: dict[str, Any] = {"format": FORMAT, "window": optimizer.options.window, "statistics": None, "sensor": None}
    if optimizer.statistics is not None:
        entry["statistics"] = dict(optimizer.statistics.values())
        entry.update({"remaining": optimizer._remaining, "momentum": optimizer._mu})
        entry.update({name: getattr(optimizer._record, name) for name in RECORD})
    if optimizer.sensor is not None:
        entry["sensor"] = {**optimizer.sensor.state(), "indices": optimizer.sensor.indices}
    return {**layout, "yellowfin": entry}


def check(optimizer: YellowFin, state_dict: dict[str, Any]) -> dict[str, Any]:
    """The content to load; an SGD checkpoint is brought into our layout, anything else foreign is refused."""
    entry = state_dict.get("yellowfin")
    if entry is None:
        return _from_sgd(optimizer, state_dict)
    if entry["format"] != FORMAT:
        raise InvalidValue(f"optim: this YellowFin reads checkpoint format {FORMAT}, got {entry['format']}")
    if entry["window"] != optimizer.options.window:
        raise InvalidValue(
            f"optim: the checkpoint was written with window={entry['window']}, this YellowFin has "
            f"window={optimizer.options.window}"
        )
    return state_dict


def restore(optimizer: YellowFin, content: dict[str, Any]) -> None:
    """Take back what `save` added; statistics start afresh where there is nothing."""
    entry = content["yellowfin"]
    optimizer.statistics = optimizer.sensor = None
    if entry["statistics"] is None:
        return
    device = optimizer.param_groups[0]["params"][0].device
    optimizer._begin(device)
    assert optimizer.statistics is not None
    optimizer.statistics.restore(_copies(entry["statistics"], device))
    optimizer._remaining = entry["remaining"].to(device, copy=True)
    optimizer._mu = entry["momentum"].to(device, copy=True)
    for name in RECORD:
        setattr(optimizer._record, name, entry[name].to(device, copy=True))
    if entry["sensor"] is not None and optimizer.options.staleness:
        indices = [index.to(device) for index in entry["sensor"]["indices"]]
        sensor = MomentumSensor([], optimizer.options.staleness, optimizer.options.sample, device)
        sensor.indices = indices
        sensor.restore({name: [t.to(device) for t in entry["sensor"][name]] for name in ("iterates", "rates")})
        optimizer.sensor = sensor


def _copies(tensors: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    return {name: tensor.to(device, copy=True) for name, tensor in tensors.items()}


def _from_sgd(optimizer: YellowFin, state_dict: dict[str, Any]) -> dict[str, Any]:
    foreign = {name for state in state_dict["state"].values() for name in state} - {"momentum_buffer"}
    if foreign:
        raise InvalidValue(
            "optim: YellowFin can load its own checkpoints and those of torch.optim.SGD, "
            f"this one holds {sorted(foreign)}"
        )
    warnings.warn(
        "YellowFin: this is a checkpoint of torch.optim.SGD: its momentum buffers are kept, statistics start afresh, "
        "and its learning rate and weight decay are ignored",
        UserWarning,
        stacklevel=3,
    )
    if len(state_dict["param_groups"]) != len(optimizer.param_groups):
        raise InvalidValue(
            f"optim: the checkpoint has {len(state_dict['param_groups'])} parameter groups, this optimizer "
            f"{len(optimizer.param_groups)}"
        )
    groups = [
        {**{name: value for name, value in ours.items() if name != "params"}, "params": theirs["params"]}
        for ours, theirs in zip(optimizer.param_groups, state_dict["param_groups"], strict=True)
    ]
    state = {
        place: dict(state) for place, state in state_dict["state"].items() if state.get("momentum_buffer") is not None
    }
    return {"state": state, "param_groups": groups, "yellowfin": {"format": FORMAT, "statistics": None, "sensor": None}}
