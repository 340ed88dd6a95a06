"""Codecs: gradients as few bytes, and what the bytes lost kept for the next step."""

from .auto import CodecSpeed, Decision, Link, Prediction, choose, measure, predict
from .errors import CodecError, NonFiniteGradient, UnsupportedTensor, WireError
from .feedback import ErrorFeedback
from .files import read_3lc, write_3lc
from .messages import decode
from .protocol import Codec, Encoded
from .quantize import dequantize3, quantize3
from .quartic import quartic_decode, quartic_encode
from .raw import FP16, Raw, TopK
from .registry import get, names
from .reshard import even_bounds, reshard_pull, reshard_push
from .rules import CodecRules, Rule
from .threelc import ThreeLC
from .wire import Header, message_size, read_header, split_messages
from .zero_run import zero_run_decode, zero_run_encode

__all__ = [
    "Codec",
    "CodecError",
    "CodecRules",
    "CodecSpeed",
    "Decision",
    "Encoded",
    "ErrorFeedback",
    "FP16",
    "Header",
    "Link",
    "NonFiniteGradient",
    "Prediction",
    "Raw",
    "Rule",
    "ThreeLC",
    "TopK",
    "UnsupportedTensor",
    "WireError",
    "choose",
    "decode",
    "dequantize3",
    "even_bounds",
    "get",
    "measure",
    "message_size",
    "names",
    "predict",
    "quantize3",
    "quartic_decode",
    "quartic_encode",
    "read_3lc",
    "read_header",
    "reshard_pull",
    "reshard_push",
    "split_messages",
    "write_3lc",
    "zero_run_decode",
    "zero_run_encode",
]
