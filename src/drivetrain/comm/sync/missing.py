"""Who is missing: when an averaging breaks, the ranks that are still there find out who isn't.

Nothing is written while all is well. On a failure every survivor leaves a note in the job's store and looks for the
notes of the others; whoever left none within `PATIENCE` seconds is named.
"""

from __future__ import annotations

import time

import torch.distributed as dist

from drivetrain.base.errors import RunFailed

PATIENCE = 5.0


class RankMissing(RunFailed):
    """A rank left, or did not come to an averaging in time. Model and anchor are as before the averaging."""

    def __init__(self, message: str, *, ranks: list[int] | None = None, **more: str | None) -> None:
        super().__init__(message, **more)
        self.ranks = ranks or []


def missing_error(cause: BaseException, group: dist.ProcessGroup | None, round_: int, step: int) -> RankMissing:
    """The error for a broken averaging: names the missing ranks, the averaging and the step."""
    ranks = dist.get_process_group_ranks(group) if group is not None else list(range(dist.get_world_size()))
    missing = _without_note(ranks, round_)
    if missing is None:
        who = "a rank (the job's store is gone too, so rank 0 may be the one)"
    elif not missing:
        who = "no rank (all reported; the network broke)"
    else:
        who = f"rank{'s' if len(missing) > 1 else ''} {', '.join(map(str, missing))}"
    first = str(cause).splitlines()[0][:200] if str(cause) else type(cause).__name__
    return RankMissing(
        f"comm: averaging {round_} at step {step} failed, missing: {who}: {first}",
        hint="nothing was overwritten: save state_dict() and go on with the ranks that are left",
        ranks=missing,
    )


def _without_note(ranks: list[int], round_: int) -> list[int] | None:
    """Ranks that left no note; None when the store does not answer."""
    try:
        store = dist.distributed_c10d._get_default_store()
        keys = {rank: f"drivetrain/sync/{min(ranks)}-{max(ranks)}/{round_}/{rank}" for rank in ranks}
        store.set(keys[dist.get_rank()], "1")
        end = time.monotonic() + PATIENCE
        while True:
            missing = [rank for rank in ranks if not store.check([keys[rank]])]
            if not missing or time.monotonic() > end:
                return missing
            time.sleep(0.05)
    except (RuntimeError, ValueError):
        return None
