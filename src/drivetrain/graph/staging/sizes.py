"""Which sizes a graph with symbolic sizes serves: the relations that its trace relied on, as one compiled check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from .. import _torch_compat as compat


class Sizes:
    """The sizes a trace is good for.

    Attributes:
        free: (leaf, dim) of symbolic sizes.
        relations: what must hold between them, as text over names such as L0_1 (leaf 0, size 1).
        accepts: a function of the leaves.
    """

    def __init__(self, fakes: Sequence[Any], shape_env: Any, whole_range: bool) -> None:
        names: dict[str, str] = {}
        fixed: list[str] = []
        self.free: list[tuple[int, int]] = []
        for leaf, fake in enumerate(fakes):
            for dim, size in enumerate(fake.shape):
                found = compat.symbol_name(size)
                if isinstance(found, int):
                    fixed.append(f"L{leaf}_{dim} == {found}")
                else:
                    self.free.append((leaf, dim))
                    names.setdefault(str(found), f"L{leaf}_{dim}")
                    text = _renamed(compat.python_text(found), names)
                    if text != f"L{leaf}_{dim}":
                        fixed.append(f"L{leaf}_{dim} == {text}")
                    elif not whole_range:
                        fixed.append(f"L{leaf}_{dim} >= 2")
        relations = [_renamed(compat.python_text(expr), names) for expr in compat.size_guards(shape_env)]
        # A relation with a symbol that is no input's size can't be checked before the call.
        self.relations = [text for text in dict.fromkeys(relations) if not _has_symbol(text)]
        self.accepts = self._compile(fakes, fixed + self.relations)

    def _compile(self, fakes: Sequence[Any], conditions: list[str]) -> Callable[[Sequence[Tensor]], bool]:
        lines = ["def accepts(leaves):"]
        for leaf, fake in enumerate(fakes):
            if fake.dim():
                inside = ", ".join(f"L{leaf}_{dim}" for dim in range(fake.dim()))
                lines.append(f"    {inside}, = leaves[{leaf}].shape")
        lines.append(f"    return {' and '.join(f'({text})' for text in conditions) or 'True'}")
        import math

        space: dict[str, Any] = {"math": math}
        exec("\n".join(lines), space)
        found: Callable[[Sequence[Tensor]], bool] = space["accepts"]
        return found


def _renamed(text: str, names: dict[str, str]) -> str:
    import re

    for symbol, name in names.items():
        text = re.sub(rf"\b{re.escape(symbol)}\b", name, text)
    return text


def _has_symbol(text: str) -> bool:
    import re

    return re.search(r"\b[suz]\d+\b", text) is not None
