"""What optimising came to: the module, how it was found, what it gained."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from drivetrain.base.timing import Timing

from ..capture import Program, capture
from ..cost import Cost
from ..ir import line_of
from .candidates import Candidates
from .convert import to_fx
from .fused import Conv
from .meta import Meta
from .rule import Change
from .term import INPUT, STATE, Graph, Node, name_of


@dataclass(frozen=True)
class Step:
    """One rule, and where it was applied.

    Attributes:
        rule: its name.
        times: how often.
        where: what was replaced at each place, with the line of the user's code that it came from.
        gains: by the cost table, in the objective's unit (microseconds), for rules that the search tried; rules that
            are applied wherever they fire have none.
    """

    rule: str
    times: int
    where: tuple[str, ...] = ()
    gains: tuple[float, ...] = ()


@dataclass
class OptimizeResult:
    """What optimising came to.

    Attributes:
        module: the fastest form, called as the original is.
        then: how it runs: a lowering's name, or "original" where nothing was faster.
        steps: rewrites that lead to it.
        cost_before, cost_after: by the cost table, of the simplified and of the searched program.
        measured: every form's times in the last, interleaved comparison, seconds.
        max_abs_err: largest difference of any output from the original's.
        explored, seen: graphs the search took up, and made.
        seconds, search_seconds: what optimising took, and of it rules, costs and search.
        refused: forms that could not be built or whose results were off, and why.
        failures: rules that raised, or changed a shape, and were left out from there on; and why.
        wrong: rules that made the program compute something else; the original is what runs then.
    """

    module: nn.Module
    then: str
    steps: list[Step]
    cost_before: Cost
    cost_after: Cost
    measured: dict[str, Timing]
    max_abs_err: float
    explored: int = 0
    seen: int = 0
    seconds: float = 0.0
    search_seconds: float = 0.0
    refused: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    searched: Candidates | None = None
    original: Program | None = None
    whole: Graph | None = None

    @property
    def ok(self) -> bool:
        """Whether every form that was built computes what the original does."""
        return not self.wrong

    def program(self, form: Graph | None = None) -> Program:
        """The rewritten program in plain ATen operators, for files and other tools; no lowering is in it.

        Args:
            form: one of `searched.forms`; by default the one that the search found cheapest.
        """
        assert self.searched is not None and self.original is not None
        args, kwargs = self.original.example_call
        module = self.searched.build(form or self.searched.forms[-1], to_fx, channels_last=False)
        with torch.no_grad():
            self.searched.fit(module, args, kwargs)
            return capture(module.eval(), args, kwargs)

    def diff(self) -> str:
        """The program before and after, operator by operator, as a unified diff."""
        assert self.searched is not None and self.whole is not None
        lines = difflib.unified_diff(
            listing(self.whole), listing(self.searched.forms[-1]), "original", "rewritten", lineterm="", n=1
        )
        return "\n".join(lines)

    def to_html(self, title: str = "Rewritten program") -> str:
        """What was done, as one self-contained page."""
        from .report import to_html

        return to_html(self, title)

    def save(self, path: str | Path) -> Path:
        """Write the result to a file that `load` makes ready to run without searching again."""
        from .saved import save

        return save(self, path)

    @staticmethod
    def load(path: str | Path) -> OptimizeResult:
        """Read a result that `save` wrote; it is lowered again, for this machine.

        Raises:
            MissingFile, InvalidValue: no such file; no such result.
        """
        from .saved import load

        return load(path)

    @property
    def measured_before_ms(self) -> float:
        """The original's median time."""
        return 1e3 * self.measured["original"].median

    @property
    def measured_after_ms(self) -> float:
        """The chosen form's median time."""
        return 1e3 * self.measured[self.then].median

    @property
    def gain(self) -> float:
        """How many times faster, by pairs of runs next to each other."""
        return 1.0 / self.measured[self.then].ratio(self.measured["original"])


def steps_of(applied: Iterable[Change], tried: Iterable[tuple[Change, float]]) -> list[Step]:
    """Applications of rules, gathered by rule in the order in which they first came."""
    where: dict[str, list[str]] = {}
    gains: dict[str, list[float]] = {}
    for change, gain in [*((change, None) for change in applied), *tried]:
        where.setdefault(change.rule, []).append("; ".join(map(described, change.new)))
        gains.setdefault(change.rule, []).extend([] if gain is None else [gain])
    return [Step(name, len(places), tuple(places), tuple(gains[name])) for name, places in where.items()]


def listing(graph: Graph) -> list[str]:
    """What a program computes in each call, one operator a line."""
    return [described(node) for node in graph.order if node.op not in (INPUT, STATE) and not node.constant]


def described(node: Node) -> str:
    """An operator in words: what it is, what it makes, and the line that it came from."""
    conv = Conv.of(node)
    what = name_of(node.op).removeprefix("aten.").removesuffix(".default")
    if conv is not None:
        kernel = "x".join(map(str, conv.kernel))
        groups = f"{conv.groups} groups" if conv.groups > 1 else ""
        residual = "+ residual" if conv.residual is not None else ""
        what = " ".join(word for word in (f"conv {kernel}", groups, residual, conv.activation) if word)
    elif node.op == "get":
        what = f"result {node.args[1]} of {described_op(node.args[0])}"
    made = node.meta if isinstance(node.meta, Meta) else None
    size = f" -> {list(made.shape)}" if made is not None else ""
    return f"{what}{size}{_line(node.source)}"


def described_op(node: Node) -> str:
    """The operator's name alone."""
    return name_of(node.op).removeprefix("aten.").removesuffix(".default")


def _line(source: str) -> str:
    line = line_of(source)
    return f"  # {Path(line.file).name}:{line.number} {line.code}" if line is not None else ""
