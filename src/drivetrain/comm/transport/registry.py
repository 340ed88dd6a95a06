"""Transports by name."""

from __future__ import annotations

from collections.abc import Callable

from drivetrain.base.errors import InvalidValue, unknown_name

from .collective import Collective
from .protocol import Transport


def collective(timeout_s: float, deadline_s: float | None) -> Transport:
    """The reliable transport; it waits for every rank."""
    if deadline_s is not None:
        raise InvalidValue(
            f"comm: deadline_s={deadline_s:g}: the collective transport waits for every rank, it can't leave one out",
            hint='transport="udp" goes on without what is late; timeout_s says when a silent rank is taken for dead',
        )
    return Collective(timeout_s)


def udp(timeout_s: float, deadline_s: float | None) -> Transport:
    """Gradients by lossy UDP at full rate; `Udp(rate=...)` as an object says more."""
    from .udp import Udp

    return Udp(timeout_s=timeout_s) if deadline_s is None else Udp(timeout_s=timeout_s, deadline_s=deadline_s)


# Each makes a transport from (timeout_s, deadline_s); called on all ranks at the same place.
TRANSPORTS: dict[str, Callable[[float, float | None], Transport]] = {"collective": collective, "udp": udp}


def get(transport: str | Transport, timeout_s: float, deadline_s: float | None) -> Transport:
    """A transport by name; an object is given back as it is.

    Raises:
        InvalidValue: an unknown name, a deadline that the transport can't keep, or one beside an object.
    """
    if isinstance(transport, str):
        if transport not in TRANSPORTS:
            raise unknown_name("comm: transport", transport, TRANSPORTS)
        return TRANSPORTS[transport](timeout_s, deadline_s)
    if not isinstance(transport, Transport):
        raise InvalidValue(f"comm: transport {transport!r} is neither a name nor has the methods of comm.Transport")
    if deadline_s is not None:
        raise InvalidValue(
            f"comm: deadline_s={deadline_s:g} beside a transport object", hint="give the deadline to the object"
        )
    return transport
