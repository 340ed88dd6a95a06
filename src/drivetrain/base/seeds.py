"""One seed, many independent streams: every random choice names what it is for.

A stream's seed is a hash of the run's seed and its labels, so adding a stream never shifts another, which drawing
from one shared generator would.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


def derive(seed: int, *labels: str | int) -> int:
    """A 63-bit seed for the stream that `labels` name, a pure function of its arguments."""
    text = "\x1f".join([str(int(seed)), *(f"{type(label).__name__}:{label}" for label in labels)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def numpy_generator(seed: int, *labels: str | int) -> np.random.Generator:
    """A NumPy generator for the stream that `labels` name."""
    import numpy as np

    return np.random.default_rng(derive(seed, *labels))


def torch_generator(seed: int, *labels: str | int, device: str = "cpu") -> torch.Generator:
    """A torch generator on `device` for the stream that `labels` name."""
    import torch

    return torch.Generator(device=device).manual_seed(derive(seed, *labels))


def seed_globals(seed: int) -> None:
    """Seed the global generators of random, NumPy and torch: for a user's own code, which may draw from them."""
    import random

    import numpy as np
    import torch

    random.seed(derive(seed, "random"))
    np.random.seed(derive(seed, "numpy") % 2**32)
    torch.manual_seed(derive(seed, "torch"))
