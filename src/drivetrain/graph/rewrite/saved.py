"""A result in a file: the rewritten program as torch.export writes it, and what is known about it as JSON.

Not the lowered form: packed weights and sessions belong to the machine that made them, so `load` lowers again.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from drivetrain.base.errors import InvalidValue, MissingFile
from drivetrain.base.files import atomic_path
from drivetrain.base.timing import Timing

from ..capture import Program
from ..cost import Cost
from .candidates import Candidates
from .convert import fold
from .meta import Meta
from .optimize import terms_of
from .result import OptimizeResult, Step
from .rule import simplify
from .rules import RULES

FORMAT = 1


def save(result: OptimizeResult, path: str | Path) -> Path:
    """Write a result; the chosen form of the program, or the original where that stays."""
    assert result.searched is not None and result.original is not None
    target = Path(path)
    candidates, original = result.searched, result.original
    searched = result.then.endswith("after search")
    facts = {
        "format": FORMAT, "then": result.then, "layouts": [_words(meta) for meta in candidates.layouts],
        "steps": [asdict(step) for step in result.steps], "cost_before": asdict(result.cost_before),
        "cost_after": asdict(result.cost_after), "max_abs_err": result.max_abs_err,
        "measured": {label: list(timing.samples) for label, timing in result.measured.items()},
        "explored": result.explored, "seen": result.seen, "seconds": result.seconds,
        "search_seconds": result.search_seconds, "refused": result.refused, "failures": result.failures,
        "wrong": result.wrong,
    }  # fmt: skip
    program = original if result.then == "original" else result.program(candidates.forms[-1 if searched else 0])
    with tempfile.TemporaryDirectory() as folder, atomic_path(target) as temporary:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("result.json", json.dumps(facts, indent=1))
            archive.write(program.save(Path(folder) / "program.pt2"), "program.pt2")
    return target


def load(path: str | Path) -> OptimizeResult:
    """Read a result and lower its program for this machine."""
    source = Path(path)
    if not source.is_file():
        raise MissingFile(f"graph: there is no file {source}", hint="write one: optimize(...).save(path)")
    try:
        with zipfile.ZipFile(source) as archive, tempfile.TemporaryDirectory() as folder:
            facts: dict[str, Any] = json.loads(archive.read("result.json"))
            if facts["format"] != FORMAT:
                raise KeyError(f"format {facts['format']} instead of {FORMAT}")
            program = Program.load(archive.extract("program.pt2", folder))
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError) as error:
        raise InvalidValue(f"graph: {source} is no saved result of optimize: {error}") from None
    whole, images = terms_of(program)
    graph, state = fold(simplify(whole, [rule for rule in RULES if rule.always])[0], program.state)
    name = facts["then"].removesuffix(" after search").removesuffix(" as given")
    layouts = [None if words is None else _meta(words) for words in facts["layouts"]]
    candidates = Candidates(
        (graph,), state, () if name == "original" else (name,), images, program.in_spec, program.out_spec,
        [Meta.of(x) for x in program.example_inputs], layouts,
    )  # fmt: skip
    module: torch.nn.Module = program.as_module()
    args, kwargs = program.example_call
    with torch.no_grad():
        for _, _, build in candidates:
            module = build()
            candidates.fit(module, args, kwargs)
    return OptimizeResult(
        module, facts["then"], [_step(row) for row in facts["steps"]], Cost(**facts["cost_before"]),
        Cost(**facts["cost_after"]), {label: Timing(tuple(row)) for label, row in facts["measured"].items()},
        facts["max_abs_err"], facts["explored"], facts["seen"], facts["seconds"], facts["search_seconds"],
        facts["refused"], facts["failures"], facts["wrong"], candidates, program, whole,
    )  # fmt: skip


def _step(row: dict[str, Any]) -> Step:
    return Step(row["rule"], row["times"], tuple(row["where"]), tuple(row["gains"]))


def _words(meta: Meta | None) -> Any:
    if meta is None:
        return None
    return [list(meta.shape), str(meta.dtype).removeprefix("torch."), list(meta.stride), meta.device]


def _meta(words: Any) -> Meta:
    shape, dtype, stride, device = words
    return Meta(tuple(shape), getattr(torch, dtype), tuple(stride), device)
