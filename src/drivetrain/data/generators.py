"""Optional statistics, computed beside the standard ones when asked for (spec 17 §2.2)."""

from __future__ import annotations

from typing import Any

EXTRAS: dict[str, Any] = {}
