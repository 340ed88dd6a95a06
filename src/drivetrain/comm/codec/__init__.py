"""Codecs: gradients as few bytes, and what the bytes lost kept for the next step."""

from .errors import CodecError, NonFiniteGradient, UnsupportedTensor, WireError
from .messages import decode
from .protocol import Codec, Encoded
from .quantize import dequantize3, quantize3
from .quartic import quartic_decode, quartic_encode
from .raw import FP16, Raw, TopK
from .registry import get, names
from .threelc import ThreeLC
from .wire import Header, message_size, read_header, split_messages
from .zero_run import zero_run_decode, zero_run_encode

__all__ = [
    "FP16",
    "Codec",
    "CodecError",
    "Encoded",
    "Header",
    "NonFiniteGradient",
    "Raw",
    "ThreeLC",
    "TopK",
    "UnsupportedTensor",
    "WireError",
    "decode",
    "dequantize3",
    "get",
    "message_size",
    "names",
    "quantize3",
    "quartic_decode",
    "quartic_encode",
    "read_header",
    "split_messages",
    "zero_run_decode",
    "zero_run_encode",
]
