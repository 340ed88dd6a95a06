"""The exchange of gradients over slow, shared or hostile networks."""

from .codec import (
    FP16,
    Codec,
    CodecError,
    CodecRules,
    Encoded,
    ErrorFeedback,
    NonFiniteGradient,
    Raw,
    Rule,
    ThreeLC,
    TopK,
    WireError,
)

__all__ = [
    "FP16",
    "Codec",
    "CodecError",
    "CodecRules",
    "Encoded",
    "ErrorFeedback",
    "NonFiniteGradient",
    "Raw",
    "Rule",
    "ThreeLC",
    "TopK",
    "WireError",
]
