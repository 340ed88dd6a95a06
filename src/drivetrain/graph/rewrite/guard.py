"""Rules of others are not trusted: what raises is told and left out, and so is what changes a shape.

Terms are never changed, so an application that fails halfway has changed nothing: rolling back is forgetting.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path

from .meta import Meta
from .rule import Change, Rule
from .term import Graph


class Guarded(Rule):
    """A rule that is switched off by its first failure.

    Args:
        inner: the rule.
        failures: where the reason is put, by the rule's name.
    """

    def __init__(self, inner: Rule, failures: dict[str, str]) -> None:
        self.inner, self.failures = inner, failures
        self.name, self.number, self.says, self.needs = inner.name, inner.number, inner.says, inner.needs
        self.always, self.whole, self.inference_only = inner.always, inner.whole, inner.inference_only
        self.exact, self.proof = inner.exact, inner.proof

    def changes(self, graph: Graph, anchors: Iterable[object] | None = None) -> Iterator[Change]:
        """The rule's applications until it fails."""
        if self.name in self.failures:
            return
        try:
            for change in self.inner.changes(graph, anchors):  # type: ignore[arg-type]
                wrong = misfit(change)
                if wrong:
                    self.failures[self.name] = wrong
                    return
                yield change
        except Exception as error:  # whatever a user's rule may raise
            self.failures[self.name] = told(error)


def misfit(change: Change) -> str:
    """Why a change can't be a substitution: another shape or dtype; "" if it can."""
    for old, new in change.new.items():
        before, after = old.meta, new.meta
        if not (isinstance(before, Meta) and isinstance(after, Meta)):
            if isinstance(before, Meta) or isinstance(after, Meta):
                return f"replaces {old} by a value with another number of results"
            continue
        if (before.shape, before.dtype) != (after.shape, after.dtype):
            return (
                f"replaces {old}, {before.dtype} {list(before.shape)}, by {new}, {after.dtype} {list(after.shape)}"
            )  # fmt: skip
    return ""


def told(error: Exception) -> str:
    """An exception in one line, with the place where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    first = str(error).strip().partition("\n")[0]
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {first}{place}"
