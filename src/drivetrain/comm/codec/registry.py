"""Codecs by name."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from drivetrain.base.errors import check_options, unknown_name

from .errors import CodecError
from .protocol import Codec
from .raw import FP16, Raw, TopK
from .threelc import ThreeLC

_CODECS: dict[str, Any] = {kind.name: kind for kind in (ThreeLC, Raw, FP16, TopK)}


def names() -> tuple[str, ...]:
    """Every name that `get` knows, sorted. "auto" is not one: it is a choice between these, made by the exchange."""
    return tuple(sorted(_CODECS))


def get(name: str | Codec, **options: Any) -> Codec:
    """A codec by name.

    Args:
        name: one of `names()` in any case; a codec object is given back as it is.
        options: the codec's own, e.g. s and block of "3lc"; scale_dtype may be a name, "float16".

    Raises:
        InvalidValue: an unknown name or option (the nearest is suggested), or a value out of range.
    """
    if not isinstance(name, str):
        if options or not isinstance(name, Codec):
            what = f"options {', '.join(sorted(options))} beside a codec object" if options else f"{name!r} as a codec"
            raise CodecError(f"comm: {what}: give a name with options, or an object that is ready")
        return name
    kind = _CODECS.get(name.casefold())
    if kind is None and name.casefold() == "auto":
        raise CodecError('comm: codec "auto" is chosen by measuring the link', hint='Exchange(codec="auto") does that')
    if kind is None:
        raise unknown_name("comm: codec", name, names())
    check_options(f"comm: codec {name!r}", options, inspect.signature(kind).parameters, CodecError)
    if isinstance(dtype := options.get("scale_dtype"), str):
        options["scale_dtype"] = getattr(torch, dtype.removeprefix("torch."), dtype)
    try:
        return kind(**options)
    except TypeError as error:
        raise CodecError(f"comm: codec {name!r} can't be built with {options}: {error}") from None
