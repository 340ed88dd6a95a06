"""The exchange of gradients over slow, shared or hostile networks.

`Exchange` joins the parts; `drivetrain.comm.codec` and `drivetrain.comm.aggregate` hold them.
"""

from .codec import FP16, Codec, CodecError, CodecRules, ErrorFeedback, NonFiniteGradient, Raw, ThreeLC, TopK, WireError
from .codec import Rule as CodecRule
from .exchange import Exchange, reshard_states
from .report import ExchangeReport

__all__ = [
    "FP16",
    "Codec",
    "CodecError",
    "CodecRule",
    "CodecRules",
    "ErrorFeedback",
    "Exchange",
    "ExchangeReport",
    "NonFiniteGradient",
    "Raw",
    "ThreeLC",
    "TopK",
    "WireError",
    "reshard_states",
]
