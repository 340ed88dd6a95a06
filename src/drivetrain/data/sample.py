"""Draw a data set that satisfies a schema."""

from __future__ import annotations

import math

from ..base.extras import require
from .collate import Example
from .schema import Schema


def sample(schema: Schema, n: int = 100, *, seed: int = 0, environment: str | None = None) -> list[Example]:
    """Examples that satisfy a schema, as a data set: presence counts and fractions hold over all of them."""
    require("hypothesis", extra="fuzz")
    import hypothesis
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    from .strategies import examples as examples_of

    rows: list[Example] = []
    pairs = st.tuples(examples_of(schema, environment, complete=True), examples_of(schema, environment))

    @hypothesis.seed(seed)
    @settings(
        max_examples=4 * n + 10,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(pairs)
    def draw(found: tuple[Example, Example]) -> None:
        if len(rows) < n:
            rows.append(_with_presence(schema, found, len(rows), n))

    draw()
    different = len(rows)  # a schema may allow fewer different examples than are wanted
    while rows and len(rows) < n:
        rows.append(rows[len(rows) % different])
    return rows


def _with_presence(schema: Schema, found: tuple[Example, Example], place: int, n: int) -> Example:
    """The loose example, but complete where the promised counts still need it."""
    complete, loose = found
    row = dict(loose)
    for name, value in loose.items():
        presence = schema.features[name].presence
        needed = max(presence.min_count or 0, math.ceil((presence.min_fraction or 0.0) * n))
        if value is None and place < needed:
            row[name] = complete[name]
    return row
