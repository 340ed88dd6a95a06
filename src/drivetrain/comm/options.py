"""Which parts go together: every pair composes, or is refused here with the reason, before any traffic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from drivetrain.base.errors import InvalidValue, unknown_name

from .aggregate import Median, Quarantine, Rule
from .codec import Codec, CodecRules, ThreeLC, TopK
from .slices import Trust

Topology = Literal["auto", "sharded", "allgather"]
Pull = Literal["gradient", "delta"]
OnNonFinite = Literal["raise", "skip"]
EVERY_STEP = "every-step"


@dataclass(frozen=True)
class Options:
    """The exchange's options, checked against each other; see `Exchange`."""

    f: int
    trust: Trust
    topology: Topology
    pull: Pull
    on_nonfinite: OnNonFinite
    warmup_steps: int
    momentum: float
    timeout_s: float
    quarantine: Quarantine | None
    auto: bool
    sync: Any

    def __post_init__(self) -> None:
        for slot, found, known in (
            ("trust", self.trust, get_args(Trust)),
            ("topology", self.topology, get_args(Topology)),
            ("pull", self.pull, get_args(Pull)),
            ("on_nonfinite", self.on_nonfinite, get_args(OnNonFinite)),
        ):
            if found not in known:
                raise unknown_name(f"comm: {slot}", str(found), known)
        if isinstance(self.warmup_steps, bool) or not isinstance(self.warmup_steps, int) or self.warmup_steps < 0:
            raise InvalidValue(f"comm: warmup_steps={self.warmup_steps!r}, wanted a whole number of steps, 0 or more")
        if not 0 <= self.momentum < 1:
            raise InvalidValue(f"comm: momentum={self.momentum!r}, wanted 0 or more and below 1")
        if not self.timeout_s > 0:
            raise InvalidValue(f"comm: timeout_s={self.timeout_s!r}, wanted more than 0 seconds")

    def check(self, rule: Rule, codecs: CodecRules, world_size: int, *, lossy: bool, may_miss: bool) -> None:
        """Refuse parts that don't go together.

        Raises:
            InvalidValue: names both and why. RobustnessError: the rule can't tolerate f of n.
        """
        rule.check(world_size, self.f)
        self._check_trust(lossy)
        self._check_pull()
        self._check_sparse(rule, codecs)
        if lossy:
            self._check_lossy(codecs)
        if self.quarantine is not None and self.f == 0:
            raise InvalidValue(
                "comm: quarantine leaves out up to f ranks, and f is 0", hint="set f, with a robust rule"
            )
        if self.auto and (self.f or self.trust != "sharded" or may_miss or rule.name != "average"):
            raise InvalidValue(
                f'comm: codec="auto" may fall back to a plain all-reduce, which can\'t hold {self._beyond_plain(rule)}',
                hint='name the codec: codec="3lc" or codec="raw"',
            )
        if self.momentum and not self.f:
            raise InvalidValue(
                f"comm: momentum={self.momentum:g} is the worker's, for robust rules, and f is 0",
                hint="the optimizer's own momentum does the rest",
            )
        if self.sync != EVERY_STEP:
            self._check_sync()

    def _check_trust(self, lossy: bool) -> None:
        if self.trust == "replicated" and self.f == 0:
            raise InvalidValue(
                'comm: trust="replicated" has every rank check the others, and f=0 trusts them all',
                hint='it costs n/2 times the bytes of trust="sharded"; set f, with a robust rule, or leave it out',
            )
        if self.trust == "replicated" and lossy:
            raise InvalidValue(
                'comm: trust="replicated" compares what ranks received, which a lossy transport makes differ',
                hint='transport="collective", or trust="server"',
            )
        if self.topology == "allgather" and (self.trust != "sharded" or lossy):
            raise InvalidValue(
                f'comm: topology="allgather" is for trust="sharded" on a reliable transport, this is '
                f"trust={self.trust!r}{' on a lossy one' if lossy else ''}"
            )

    def _check_pull(self) -> None:
        if self.pull == "delta" and (self.trust == "replicated" or self.topology == "allgather"):
            raise InvalidValue(
                'comm: pull="delta" needs owners that run the optimizer for all, here every rank aggregates by itself',
                hint='topology="sharded", or pull="gradient"',
            )
        if self.pull == "delta" and self.auto:
            raise InvalidValue('comm: pull="delta" needs owners, codec="auto" may fall back to a plain all-reduce')

    def _check_lossy(self, codecs: CodecRules) -> None:
        for codec in _all(codecs):
            if codec.name not in ("raw", "fp16"):
                raise InvalidValue(
                    f"comm: a message of codec {codec.name!r} is worth nothing with a hole in it, "
                    "and this transport may lose any part",
                    hint='codec="raw" or codec="fp16"',
                )

    def _check_sparse(self, rule: Rule, codecs: CodecRules) -> None:
        """Where most ranks send zero for a coordinate, its median is zero, and error feedback only sends it later."""
        sparse = [codec.name for codec in _all(codecs) if isinstance(codec, (ThreeLC, TopK))]
        if sparse and isinstance(rule, Median):
            raise InvalidValue(
                f"comm: {rule.name} over {sparse[0]}: most values of its messages are zero, so the median is zero too",
                hint="multi-krum, nnm+median, meamed and phocas hold with it; median with codec fp16 or raw",
            )

    def _check_sync(self) -> None:
        beside = {
            "trust": (self.trust, "sharded"), "topology": (self.topology, "auto"), "pull": (self.pull, "gradient"),
            "on_nonfinite": (self.on_nonfinite, "raise"), "warmup_steps": (self.warmup_steps, 0),
            "momentum": (self.momentum, 0.0), "quarantine": (self.quarantine, None), "codec": (self.auto, False),
        }  # fmt: skip
        for name, (found, plain) in beside.items():
            if found != plain:
                shown = "'auto'" if name == "codec" else repr(found)
                raise InvalidValue(
                    f"comm: {name}={shown} is for exchanges at every step, sync averages models now and then",
                    hint=f"leave {name} out, or sync",
                )

    def _beyond_plain(self, rule: Rule) -> str:
        if rule.name != "average":
            return f"the rule {rule.name}"
        return f"f={self.f}" if self.f else f"trust={self.trust!r} on this transport"


def _all(codecs: CodecRules) -> list[Codec]:
    return [codecs.default, *(rule.build() for rule in codecs.rules)]
