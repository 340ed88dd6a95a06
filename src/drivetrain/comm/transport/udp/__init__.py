"""Gradients by UDP: authenticated, paced, on time, with what was lost marked (AggregaThor §2.3)."""

from .channel import Arrived, LossyChannel
from .loss import LossPolicy
from .table import Counts
from .transport import Udp

__all__ = ["Arrived", "Counts", "LossPolicy", "LossyChannel", "Udp"]
