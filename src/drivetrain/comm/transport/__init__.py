"""How messages travel: one process group of the exchange's own, every byte counted."""

from .collective import ABSENT, Collective

__all__ = ["ABSENT", "Collective"]
