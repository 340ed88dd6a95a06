"""What a receiver takes and what it drops, by the kernel and by the plain version: through real sockets."""

import random
import socket
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drivetrain.comm.transport.udp import kernel
from drivetrain.comm.transport.udp.datagram import END, HALF, Datagram, seal
from drivetrain.comm.transport.udp.layout import Layout
from drivetrain.comm.transport.udp.plain import PlainReceiver
from drivetrain.comm.transport.udp.table import Counts, Table

KINDS = [PlainReceiver]
if kernel.load() is not None:
    KINDS.append(kernel.NativeReceiver)
N, ME, RUN, STEP = 3, 1, 99, 7
KEYS = [bytes([rank]) * 32 for rank in range(N)]
SIZES = (700, 0, 342, 5)
both = pytest.mark.parametrize("kind", KINDS)


class Receiving:
    """Rank 1 of 3 at step 7, with a socket to throw datagrams at."""

    def __init__(self, kind, sizes=SIZES, dtype=torch.float32, step=STEP) -> None:
        self.layout = Layout(tuple(sizes), dtype.itemsize)
        self.table = Table(self.layout, N, ME, dtype, step)
        self.door = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.door.bind(("127.0.0.1", 0))
        self.door.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.out.connect(self.door.getsockname())
        self.receiver = kind(self.door, self.table, KEYS, RUN)

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.door.close()
        self.out.close()

    def take(self, *datagrams: bytes) -> Counts:
        before = self.table.counted.copy()
        for number, data in enumerate(datagrams):
            self.out.send(data)
            if number % 32 == 31:  # within the smallest queue that a system gives
                self.receiver.receive(1000)
        self.receiver.receive(1000)
        return Counts(*map(int, self.table.counted - before))


def vector(rank: int, step: int, width: int) -> np.ndarray:
    return np.random.default_rng([rank, step]).standard_normal(width).astype(np.float32)


def datagrams(rank: int, layout: Layout, step: int = STEP, dtype=np.float32) -> list[Datagram]:
    values = vector(rank, step, layout.width).astype(dtype)
    flags = HALF if layout.value_bytes == 2 else 0
    found = []
    for tensor, (size, start) in enumerate(zip(layout.sizes, layout.starts, strict=True)):
        for offset in range(0, size, layout.per_chunk):
            part = values[start + offset : start + min(offset + layout.per_chunk, size)]
            found.append(Datagram(RUN, step, rank, tensor, offset, len(part), flags, part.tobytes()))
    return found


def end(rank: int, step: int = STEP) -> Datagram:
    return Datagram(RUN, step, rank, 0, 0, 0, END)


def sealed(found: list[Datagram]) -> list[bytes]:
    return [seal(each, KEYS[each.rank]) for each in found]


@both
@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), kept=st.floats(0, 1), sizes=st.lists(st.integers(0, 1200), max_size=5))
def test_any_order_with_losses_and_repeats_gives_the_values_that_came(kind, seed, kept, sizes):
    chance = random.Random(seed)
    with Receiving(kind, sizes) as here:
        every = datagrams(0, here.layout) + datagrams(2, here.layout)
        chosen = [each for each in every if chance.random() < kept]
        repeated = [each for each in chosen if chance.random() < 0.3]
        thrown = chosen + repeated
        chance.shuffle(thrown)
        counts = here.take(*sealed(thrown))
        assert counts == Counts(taken=len(chosen), repeated=len(repeated))
        here.table.put_own(torch.zeros(here.layout.width))
        values, mask, lost = here.table.take()
        for rank in (0, 2):
            expected = torch.from_numpy(vector(rank, STEP, here.layout.width))
            wanted = torch.zeros(here.layout.width, dtype=torch.bool)
            for each in chosen:
                if each.rank == rank:
                    start = here.layout.starts[each.tensor] + each.offset
                    wanted[start : start + each.count] = True
            assert torch.equal(wanted, torch.ones_like(wanted) if mask is None else mask[rank])
            assert torch.equal(values[rank][wanted], expected[wanted])
            came = sum(each.rank == rank for each in chosen)
            assert lost[rank] == pytest.approx(1 - came / here.layout.chunks if here.layout.chunks else 0)


@both
def test_half_precision_travels_in_half_the_bytes(kind):
    with Receiving(kind, dtype=torch.float16) as here:
        found = datagrams(2, here.layout, dtype=np.float16)
        assert len(found) < len(datagrams(2, Layout(SIZES, 4)))
        assert here.take(*sealed(found)).taken == len(found)
        values, _, _ = here.table.take()
        assert values.dtype == torch.float16
        assert torch.equal(values[2], torch.from_numpy(vector(2, STEP, here.layout.width).astype(np.float16)))


BROKEN = {
    "another key": (lambda d: seal(d, KEYS[0]), "forged"),
    "a changed value": (lambda d: seal(d, KEYS[2])[:-1] + b"\0", "forged"),
    "rank 2 in the name of rank 0": (lambda d: seal(replace(d, rank=0), KEYS[2]), "forged"),
    "a step put into a signed datagram": (
        lambda d: (
            seal(replace(d, step=STEP - 1), KEYS[2])[:8]
            + (STEP).to_bytes(4, "big")
            + seal(replace(d, step=STEP - 1), KEYS[2])[12:]
        ),
        "forged",
    ),
    "cut short": (lambda d: seal(d, KEYS[2])[:-4], "foreign"),
    "nothing but a header": (lambda d: seal(d, KEYS[2])[:22], "foreign"),
    "empty": (lambda d: b"", "foreign"),
    "longer than a datagram may be": (lambda d: seal(replace(d, values=bytes(1400)), KEYS[2]), "foreign"),
    "far longer": (lambda d: bytes(9000), "foreign"),
    "noise": (lambda d: bytes(range(256)) * 3, "foreign"),
    "another run": (lambda d: seal(replace(d, run=RUN + 1), KEYS[2]), "foreign"),
    "another version": (lambda d: seal(d, KEYS[2])[:2] + b"\2" + seal(d, KEYS[2])[3:], "foreign"),
    "our own rank": (lambda d: seal(replace(d, rank=ME), KEYS[ME]), "foreign"),
    "no such rank": (lambda d: seal(replace(d, rank=N), KEYS[2]), "foreign"),
    "no such tensor": (lambda d: seal(replace(d, tensor=4), KEYS[2]), "foreign"),
    "an empty tensor's": (lambda d: seal(replace(d, tensor=1), KEYS[2]), "foreign"),
    "off the grid": (lambda d: seal(replace(d, offset=1), KEYS[2]), "foreign"),
    "past the end": (lambda d: seal(replace(d, offset=342 * 3), KEYS[2]), "foreign"),
    "far past the end": (lambda d: seal(replace(d, offset=342 * 12_000_000), KEYS[2]), "foreign"),
    "more values than it says": (lambda d: seal(replace(d, count=341), KEYS[2]), "foreign"),
    "another type of values": (lambda d: seal(replace(d, flags=HALF), KEYS[2]), "foreign"),
    "unknown flags": (lambda d: seal(replace(d, flags=8), KEYS[2]), "foreign"),
    "an end mark with values": (lambda d: seal(replace(d, flags=END), KEYS[2]), "foreign"),
    "the last step": (lambda d: seal(replace(d, step=STEP - 1), KEYS[2]), "late"),
    "the step before the first": (lambda d: seal(replace(d, step=(1 << 32) - 1), KEYS[2]), "late"),
    "two steps ahead": (lambda d: seal(replace(d, step=STEP + 2), KEYS[2]), "early"),
}


@both
@pytest.mark.parametrize("case", BROKEN)
def test_what_is_not_ours_is_counted_and_changes_nothing(kind, case):
    breaks, fate = BROKEN[case]
    with Receiving(kind) as here:
        first = datagrams(2, here.layout)[0]
        before = here.table.values.clone()
        assert here.take(breaks(first)) == Counts(**{fate: 1})
        assert torch.equal(here.table.values, before)
        assert not here.table.marks.any() and not here.table.ended.any() and not here.table.arrived.any()
        assert here.take(seal(first, KEYS[2])) == Counts(taken=1), "and the true one is still taken"


@both
def test_the_next_step_may_come_early_and_a_replay_is_dropped(kind):
    with Receiving(kind) as here:
        now, then = datagrams(0, here.layout), datagrams(0, here.layout, STEP + 1)
        assert here.take(*sealed(then[:2] + now)).taken == 2 + len(now)
        values, _, _ = here.table.take()
        assert torch.equal(values[0], torch.from_numpy(vector(0, STEP, here.layout.width)))
        assert here.take(*sealed(now)) == Counts(late=len(now))
        assert here.take(*sealed(then)) == Counts(taken=len(then) - 2, repeated=2)
        values, _, _ = here.table.take()
        assert torch.equal(values[0], torch.from_numpy(vector(0, STEP + 1, here.layout.width)))
        values, mask, lost = here.table.take()
        assert not mask.any() and (lost == 1).all(), "slots are used again, clean"


@both
def test_step_numbers_wrap(kind):
    last = (1 << 32) - 1
    with Receiving(kind, step=last) as here:
        assert here.take(*sealed(datagrams(0, here.layout, last) + datagrams(0, here.layout, 0))).taken == 10
        here.table.take()
        assert here.table.step == 0
        assert here.take(*sealed(datagrams(0, here.layout, 0))).repeated == 5


@both
def test_a_step_is_over_when_every_rank_is_complete_or_has_said_that_it_ended(kind):
    with Receiving(kind) as here:
        assert here.table.pending() == [0, 2]
        here.take(*sealed(datagrams(0, here.layout)))
        assert here.table.pending() == [2]
        here.take(seal(end(2, STEP + 1), KEYS[2]))
        assert here.table.pending() == [2]
        assert here.take(*[seal(end(2), KEYS[2])] * 3) == Counts(taken=1, repeated=2)
        assert here.table.pending() == []


@both
def test_a_rank_that_fell_silent_has_ended_and_one_that_has_not_begun_has_not(kind):
    with Receiving(kind) as here:
        first, second, *_ = sealed(datagrams(0, here.layout))
        here.take(first)
        assert here.table.silent(10.0) == 0
        assert here.table.silent(11.0) == 0, "rank 2 has not begun"
        here.take(*sealed(datagrams(2, here.layout)[:1]))
        assert here.table.silent(11.5) == 0
        assert here.table.silent(12.0) == 0.5
        here.take(second)
        here.take(seal(end(2), KEYS[2]))
        assert here.table.silent(13.0) == 0
        assert here.table.silent(13.25) == 0.25
        here.table.take()
        here.take(*sealed(datagrams(0, here.layout, STEP + 1)[:1] + datagrams(2, here.layout, STEP + 1)[:1]))
        assert here.table.silent(14.0) == 0, "a new step starts anew"


@settings(deadline=None, max_examples=60)
@given(data=st.data())
@pytest.mark.skipif(len(KINDS) < 2, reason="no compiler to build the kernel with, or no Linux")
def test_the_kernel_decides_as_the_plain_version_on_anything(data):
    """Mutated datagrams, most of them signed well, so that every test behind the MAC is reached."""
    layout = Layout(SIZES, 4)
    numbers = st.one_of(st.integers(0, 9), st.sampled_from([342, 684, 700, 0xFFFFFFFF, 1 << 31]))
    thrown = []
    for _ in range(data.draw(st.integers(1, 12))):
        base = data.draw(st.sampled_from([*datagrams(0, layout), *datagrams(2, layout), end(0), end(2)]))
        changes = data.draw(
            st.fixed_dictionaries({}, optional={
                "run": st.sampled_from([RUN, RUN + 1]), "step": st.one_of(numbers, st.just(STEP + 1)),
                "rank": st.integers(0, 4), "tensor": st.integers(0, 6), "offset": numbers,
                "count": st.one_of(st.integers(0, 6), st.just(342)), "flags": st.integers(0, 7),
            })
        )  # fmt: skip
        found = replace(base, **changes)
        raw = seal(found, KEYS[found.rank % N])
        thrown.append(raw[: data.draw(st.one_of(st.just(len(raw)), st.integers(0, len(raw))))])
    results = []
    for kind in KINDS:
        with Receiving(kind) as here:
            counts = here.take(*thrown)
            values, mask, lost = here.table.take()
            results.append((counts, values[[0, 2]].tolist(), None if mask is None else mask.tolist(), lost.tolist()))
    assert results[0] == results[1]
