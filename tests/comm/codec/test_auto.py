"""codec="auto": the choice from measured rates."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drivetrain.comm.codec import FP16, CodecError, CodecSpeed, Link, ThreeLC, choose, measure, predict

HALF = CodecSpeed(FP16(), encode=4e9, decode=4e9, ratio=2)
MILD = CodecSpeed(ThreeLC(), encode=2e9, decode=3e9, ratio=40)
STRONG = CodecSpeed(ThreeLC(1.75), encode=2e9, decode=3e9, ratio=100)
ALL = [HALF, MILD, STRONG]
MB = 7.45e6


def test_known_times() -> None:
    """4 ranks, 8 MB, 1 MB/s, 1 ms: by hand."""
    link = Link(1e6, 1e-3)
    codec = CodecSpeed(ThreeLC(), encode=10e6, decode=20e6, ratio=40)
    plain = predict(None, 8_000_000, 4, link, "sharded")
    assert (plain.compute, plain.wire) == (0, pytest.approx(2 * 0.75 * 8 + 0.006))
    sharded = predict(codec, 8_000_000, 4, link, "sharded")
    assert sharded.wire == pytest.approx(2 * 0.75 * 0.2 + 0.006)
    assert sharded.compute == pytest.approx(0.8 * 1.25 + 2 * 0.4)
    gathered = predict(codec, 8_000_000, 4, link, "allgather")
    assert gathered.wire == pytest.approx(3 * 0.201)
    assert gathered.compute == pytest.approx(0.8 + 4 * 0.4)


def test_a_slow_link_compresses_and_a_fast_one_does_not() -> None:
    slow = choose(ALL, nbytes=int(MB), world_size=4, link=Link(2.5e6))
    assert slow.chosen.codec == ThreeLC(1.75)
    fast = choose(ALL, nbytes=int(MB), world_size=4, link=Link(10e9))
    assert fast.chosen.codec is None
    assert fast.reason.startswith("plain float32 is the fastest")


def test_the_mildest_codec_within_the_margin() -> None:
    """At this rate the codecs' own time counts most, so more zeros gain little."""
    link = Link(60e6)
    seconds = [predict(speed, int(MB), 8, link, "sharded").seconds for speed in (MILD, STRONG)]
    assert seconds[1] < seconds[0]
    narrow = choose(ALL, nbytes=int(MB), world_size=8, link=link, margin=0.0)
    wide = choose(ALL, nbytes=int(MB), world_size=8, link=link, margin=seconds[0] / seconds[1] - 1 + 1e-6)
    assert (narrow.chosen.codec, wide.chosen.codec) == (ThreeLC(1.75), ThreeLC(1.0))


def test_many_small_latencies_prefer_one_stage_on_few_ranks() -> None:
    link = Link(1e9, latency=5e-3)
    assert choose([MILD], nbytes=10**8, world_size=2, link=Link(1e7, 5e-3)).chosen.topology == "allgather"
    assert choose([MILD], nbytes=10**8, world_size=4, link=Link(1e6)).chosen.topology == "sharded"
    forced = choose([MILD], nbytes=10**8, world_size=4, link=Link(1e6), topology="allgather")
    assert forced.chosen.topology == "allgather"
    routes = [{p.topology for p in choose(ALL, nbytes=1000, world_size=n, link=link).predictions[:3]} for n in (4, 5)]
    assert routes == [{"allgather"}, {"sharded"}]


def test_one_rank_sends_nothing() -> None:
    alone = choose(ALL, nbytes=int(MB), world_size=1, link=Link(1e6))
    assert alone.chosen.codec is None and "one rank" in alone.reason


rates = st.floats(1e4, 1e11)
speeds = st.builds(CodecSpeed, st.just(ThreeLC()), encode=rates, decode=rates, ratio=st.floats(0.5, 280))


@settings(max_examples=200, deadline=None)
@given(
    candidates=st.lists(speeds, max_size=4),
    nbytes=st.integers(0, 10**9),
    world_size=st.integers(1, 64),
    link=st.builds(Link, rates, st.floats(0, 0.1)),
    margin=st.floats(0, 0.5),
)
def test_never_slower_than_plain_by_more_than_the_margin(candidates, nbytes, world_size, link, margin) -> None:
    decision = choose(candidates, nbytes=nbytes, world_size=world_size, link=link, margin=margin)
    plain = predict(None, nbytes, world_size, link, "sharded").seconds
    assert decision.chosen.seconds <= plain * (1 + margin)
    assert decision.chosen.seconds <= decision.predictions[0].seconds * (1 + margin)
    assert list(decision.predictions) == sorted(decision.predictions, key=lambda p: p.seconds)
    if decision.chosen.codec is not None:
        assert decision.chosen.seconds < plain


def test_measuring_a_codec() -> None:
    x = torch.randn(50_000)
    speed = measure(ThreeLC(), x)
    assert speed.encode > 0 and speed.decode > 0
    assert speed.ratio == 200_000 / len(ThreeLC().encode(x).data)


def test_bad_input() -> None:
    for call, words in [
        (lambda: Link(0), "rate > 0"),
        (lambda: Link(1e6, -1), "latency >= 0"),
        (lambda: Link(float("nan")), "rate > 0"),
        (lambda: CodecSpeed(FP16(), 0, 1, 1), "more than 0"),
        (lambda: choose([], nbytes=1, world_size=0, link=Link(1)), "found 1?0, 1|world_size >= 1"),
        (lambda: choose([], nbytes=-1, world_size=2, link=Link(1)), "nbytes >= 0"),
    ]:
        with pytest.raises(CodecError, match=words):
            call()
