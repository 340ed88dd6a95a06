"""Work space that is used again: a fresh megabyte costs more in page faults than the arithmetic done in it."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST = 8 << 20  # bytes kept by a thread for each purpose

_kept = threading.local()


def scratch(purpose: str, size: int, dtype: Any) -> NDArray[Any]:
    """An uninitialised array of this thread, valid until it is asked for again for the same purpose."""
    wanted = np.dtype(dtype)
    needed = size * wanted.itemsize
    if needed > LARGEST:
        return np.empty(size, wanted)
    buffer: NDArray[np.uint8] | None = getattr(_kept, purpose, None)
    if buffer is None or len(buffer) < needed:
        buffer = np.empty(needed, np.uint8)
        setattr(_kept, purpose, buffer)
    return buffer[:needed].view(wanted)
