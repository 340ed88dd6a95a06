"""[train.exchange]: how gradients travel between the workers, what a run keeps of it, and its part of the report."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from torch import nn
from torch.optim import Optimizer

from drivetrain.base.config import Section
from drivetrain.base.files import write_json

from .report.parts import Bars, Facts, Line, LinePlot, Part, Table, Text

if TYPE_CHECKING:
    from drivetrain.comm import Exchange
    from drivetrain.comm.sync import LocalUpdate

ACCOUNT, TIMES = "exchange.json", "exchange_times.json"
PARTS = ("encode", "push", "aggregate", "pull", "decode")


class ExchangeConfig(Section):
    """[train.exchange]; without it, DistributedDataParallel's all-reduce."""

    codec: str = Field("3lc", description="3lc, fp16, topk, raw, or auto: measure the link and choose")
    aggregate: str = Field("average", description="average, or a robust rule such as multi-krum or nnm+median")
    f: int = Field(0, ge=0, description="workers that may be faulty")
    trust: Literal["sharded", "server", "replicated"] = Field("sharded", description="who aggregates")
    sync: str = Field("every-step", description="every-step, or a period rule: adacomm, marginal, fixed:20, ...")
    topology: Literal["auto", "sharded", "allgather"] = "auto"
    pull: Literal["gradient", "delta"] = Field("gradient", description="what travels back from the owners")
    momentum: float = Field(0.0, ge=0, lt=1, description="of each worker's gradient before a robust rule sees it")
    quarantine: bool = Field(False, description="leave a worker out for good once it looks hostile")
    on_nonfinite: Literal["raise", "skip"] = Field("raise", description="what a gradient with NaN or infinity does")
    warmup_steps: int = Field(0, ge=0, description="steps that go uncompressed at first")
    min_numel: int = Field(1024, ge=0, description="smaller parameters are sent raw")


class Traffic:
    """The exchange of one worker, by gradients or by models.

    Args:
        options: the fields of `ExchangeConfig`.
        model, optimizer: what is trained.

    Attributes:
        optimizer: to train with.
    """

    def __init__(self, options: Mapping[str, Any], model: nn.Module, optimizer: Optimizer) -> None:
        from drivetrain.comm import Exchange
        from drivetrain.comm.sync import LocalUpdate

        self.exchange: Exchange = Exchange(**options)
        _, self.optimizer = self.exchange.prepare(model, optimizer)
        self.local: LocalUpdate | None = self.optimizer if isinstance(self.optimizer, LocalUpdate) else None

    def observe(self, loss: float) -> None:
        """Tell a period rule the loss of this step."""
        if self.local is not None:
            self.local.observe(loss)

    def settle(self) -> None:
        """Make the models equal on all ranks, before one is judged or written."""
        if self.local is not None:
            self.local.sync(force=True)

    def state_dict(self) -> dict[str, Any]:
        """This rank's part of a checkpoint: what codecs hold back, what has not been averaged yet."""
        return self.exchange.state_dict() if self.local is None else self.local.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        (self.exchange if self.local is None else self.local).load_state_dict(state)

    def write(self, folder: Path) -> None:
        """Write rank 0's account: what is the same in equal runs in one file, what the clock said in another."""
        report = self.exchange.report()
        account = {
            **report.state_dict(), "ratio": report.ratio, "residual_norm": report.residual_norm,
            "suspicion": [asdict(row) for row in report.suspicion],
            "quarantined": report.quarantined, "skipped": report.skipped,
        }  # fmt: skip
        write_json(folder / ACCOUNT, account)
        times: dict[str, Any] = {"seconds": report.seconds, "decision": report.decision, "sync": None}
        if self.local is not None:
            times["sync"] = self.local.report().to_dict()
        write_json(folder / TIMES, times)


def show(folder: Path, config: Mapping[str, Any]) -> Iterable[Part]:
    """What the workers sent, what it took, who looks suspicious; nothing where no exchange ran."""
    if not (folder / ACCOUNT).exists():
        return
    account, times = (json.loads((folder / name).read_text()) for name in (ACCOUNT, TIMES))
    yield Text("What the workers sent", level=3)
    yield from _show_models(times["sync"], config) if times["sync"] else _show_gradients(account, times, config)


def _show_gradients(account: Mapping[str, Any], times: Mapping[str, Any], config: Mapping[str, Any]) -> Iterable[Part]:
    steps = max(account["steps"], 1)
    facts = {
        "codec": config["codec"],
        "rule": f"{config['aggregate']}, f = {config['f']}, trust {config['trust']}",
        "bytes a step and worker": account["wire"] // steps,
        "times fewer than float32": account["ratio"],
        "held back by push codecs": account["residual_norm"]["push"],
        "held back by pull codecs": account["residual_norm"]["pull"],
    }
    yield Facts(facts | ({"skipped steps": account["skipped"]} if account["skipped"] else {}))
    if times["decision"]:
        yield Text(f"codec = auto: {times['decision']}")
    seconds = [times["seconds"][part] for part in PARTS]
    yield Bars("Seconds by part, on worker 0", PARTS, seconds, unit="s")
    rows = [
        (name, raw // steps, wire // steps, raw / wire if wire else 1.0)
        for name, (raw, wire) in account["parameters"].items()
    ]
    if rows:
        yield Table(("parameter", "float32 bytes a step", "pushed bytes a step", "ratio"), rows)
    if account["suspicion"]:
        yield from _show_suspects(account)


def _show_suspects(account: Mapping[str, Any]) -> Iterable[Part]:
    yield Text("How suspicious each worker looks", level=3)
    heads = ["rank", *(name for name in account["suspicion"][0] if name != "rank")]
    rows = [tuple(row[head] for head in heads) for row in account["suspicion"]]
    yield Table(("worker", *(head.replace("_", " ") for head in heads[1:])), rows)
    if account["quarantined"]:
        yield Text(f"In quarantine: {', '.join(map(str, account['quarantined']))}")


def _show_models(sync: Mapping[str, Any], config: Mapping[str, Any]) -> Iterable[Part]:
    rows = sync["rows"]
    yield Facts({
        "models averaged by": sync["rule"], "codec of the change": config["codec"], "averagings": len(rows),
        "bytes a worker": sync["bytes"], "seconds of a step (Y)": sync["y"], "of an averaging (D)": sync["d"],
        "predicted gain in steps a second": sync["predicted_speedup"], "measured": sync["measured_speedup"],
    })  # fmt: skip
    seconds = [row["t"] for row in rows]
    if len(rows) > 1:
        yield LinePlot(
            "Steps between averagings", [Line("tau", seconds, [row["tau"] for row in rows])], "seconds", "steps"
        )
        share = [row["comm_share"] for row in rows]
        yield LinePlot("Share of the time in averaging", [Line("share", seconds, share)], "seconds", "share")
