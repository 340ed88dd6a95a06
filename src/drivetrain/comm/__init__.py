"""The exchange of gradients over slow, shared or hostile networks.

`Exchange` joins the parts; `drivetrain.comm.codec` and `drivetrain.comm.aggregate` hold them.
"""

from .codec import FP16, Codec, CodecError, CodecRules, ErrorFeedback, NonFiniteGradient, Raw, ThreeLC, TopK, WireError
from .codec import Rule as CodecRule
from .exchange import Exchange, reshard_states
from .pipeline import Equivocation
from .report import ExchangeReport
from .transport import Partial, Transport

__all__ = [
    "FP16",
    "Codec",
    "CodecError",
    "CodecRule",
    "CodecRules",
    "Equivocation",
    "ErrorFeedback",
    "Exchange",
    "ExchangeReport",
    "NonFiniteGradient",
    "Partial",
    "Raw",
    "ThreeLC",
    "TopK",
    "Transport",
    "WireError",
    "reshard_states",
]
