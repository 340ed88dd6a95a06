"""How messages travel: what the exchange asks of a transport, and the reliable one; every byte counted."""

from .collective import Collective
from .protocol import Arrived, Partial, Transport
from .registry import get

__all__ = ["Arrived", "Collective", "Partial", "Transport", "get"]
