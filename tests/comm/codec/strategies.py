"""Inputs that hypothesis draws for the codecs."""

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from drivetrain.comm.codec.quartic import ZERO_BYTE

LIMIT = 1.5 * 2.0**127
finite = st.floats(-LIMIT, LIMIT, width=32)  # zeros, subnormals and values whose double overflows among them
multipliers = st.one_of(st.just(1.0), st.floats(1, 1.99))
blocks = st.sampled_from([0, 1, 3, 5, 16, 64])


@st.composite
def vectors(draw, max_length: int = 300) -> torch.Tensor:
    """float32 values: any floats in part of the cases, else mostly zeros with some of few magnitudes (ties, runs)."""
    length = draw(st.integers(0, max_length))
    if draw(st.booleans()):
        return torch.from_numpy(draw(hnp.arrays(np.float32, length, elements=finite)).copy())
    few = st.sampled_from([0.0, 0.0, 0.0, 0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 2.0])
    return torch.tensor(draw(st.lists(few, min_size=length, max_size=length)), dtype=torch.float32)


@st.composite
def ternary_vectors(draw, max_length: int = 400) -> torch.Tensor:
    """int8 values in {-1, 0, 1}."""
    values = draw(hnp.arrays(np.int8, st.integers(0, max_length), elements=st.integers(-1, 1)))
    return torch.from_numpy(values.copy())


@st.composite
def quartic_bytes(draw) -> torch.Tensor:
    """Quartic bytes as stretches of zero bytes of any length between others."""
    stretch = st.one_of(st.integers(0, 60).map(lambda k: [ZERO_BYTE] * k), st.lists(st.integers(0, 242), max_size=4))
    stretches = draw(st.lists(stretch, max_size=8))
    return torch.tensor([byte for part in stretches for byte in part], dtype=torch.uint8)
