"""LocalUpdate's part of a checkpoint: where in a period a rank is, and what all ranks share."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from drivetrain.base.errors import InvalidValue

from .averager import Averager, Outcome
from .decision import Decision
from .report import SyncRow

if TYPE_CHECKING:
    from .local import LocalUpdate

FORMAT = 1
_NUMBERS = ("tau", "_own_tau", "steps_done", "syncs", "_since_inside", "_spread", "_own_y")


def save(local: LocalUpdate, layout: dict[str, Any]) -> dict[str, Any]:
    """Add the entry "local_update" to the inner optimizer's layout. It waits for an averaging on its way."""
    pending = local._pending
    flight = None
    if pending is not None:
        outcome, seconds = pending.result.result()
        flight = {
            "params": pending.params, "rest": pending.rest, "t": pending.t, "steps": pending.steps,
            "outcome": {**vars(outcome), "decision": tuple(outcome.decision)}, "seconds": seconds,
        }  # fmt: skip
    between = _between(local)
    entry = {
        "format": FORMAT,
        "names": list(local.layout.names),
        "numbers": {name: getattr(local, name) for name in _NUMBERS},
        "controller": local.controller.state_dict(),
        "meter": local.meter.state_dict(),
        "losses": local.losses.state_dict(),
        "anchor": local.anchor.state_dict(),
        "push": between.push.state_dict() if between is not None else {},
        "pull": between.pull.state_dict() if between is not None else {},
        "flight": flight,
        "rows": [asdict(row) for row in local.rows],
    }
    return {**layout, "local_update": entry}


def restore(local: LocalUpdate, state_dict: dict[str, Any]) -> None:
    """Take back what `save` gave."""
    entry = state_dict.get("local_update")
    if entry is None:
        raise InvalidValue(
            "comm: this checkpoint has no entry 'local_update': it was written by the inner optimizer alone",
            hint="load it into that optimizer before LocalUpdate is made; the period then starts afresh",
        )
    if entry["format"] != FORMAT:
        raise InvalidValue(f"comm: this LocalUpdate reads checkpoint format {FORMAT}, got {entry['format']}")
    shapes = [tuple(value.shape) for value in entry["anchor"]["values"]]
    if entry["names"] != local.layout.names or shapes != [tuple(p.shape) for p in local.layout.params]:
        raise InvalidValue("comm: the checkpoint is of another model: names or shapes of its parameters differ")
    local.optimizer.load_state_dict({key: value for key, value in state_dict.items() if key != "local_update"})
    for name, value in entry["numbers"].items():
        setattr(local, name, value)
    local.controller.load_state_dict(entry["controller"])
    local.meter.load_state_dict(entry["meter"])
    local.losses.load_state_dict(entry["losses"])
    local.anchor.load_state_dict(entry["anchor"])
    between = _between(local)
    if between is not None:
        between.push.load_state_dict(entry["push"])
        between.pull.load_state_dict(entry["pull"])
    local.rows = [SyncRow(**{**row, "excluded": tuple(row["excluded"])}) for row in entry["rows"]]
    local._pending = _in_flight(entry["flight"])


def _between(local: LocalUpdate) -> Averager | None:
    """What holds the codec's residuals; None on a rank whose node has another leader."""
    return local.averager if isinstance(local.averager, Averager) else local.averager.between


def _in_flight(flight: dict[str, Any] | None) -> Any:
    if flight is None:
        return None
    from .local import _Pending

    done: Future[tuple[Outcome, float]] = Future()
    outcome = {**flight["outcome"], "decision": Decision(*flight["outcome"]["decision"])}
    done.set_result((Outcome(**outcome), flight["seconds"]))
    return _Pending(flight["params"], flight["rest"], done, flight["t"], flight["steps"])
