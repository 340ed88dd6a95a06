"""The datagram's bytes, and that the kernel makes and checks the same ones."""

import hashlib
import socket
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drivetrain.base.errors import InvalidValue
from drivetrain.comm.transport.udp import kernel
from drivetrain.comm.transport.udp.datagram import END, HALF, MAX_BYTES, OVERHEAD, Datagram, is_genuine, parse, seal
from drivetrain.comm.transport.udp.layout import END_REPEATS, Layout, make_plan
from drivetrain.comm.transport.udp.pacer import Pacer
from drivetrain.comm.transport.udp.plain import PlainSender

KEY = bytes(range(32))
FIELDS = Datagram(run=0x01020304, step=5, rank=6, tensor=7, offset=8, count=2, values=b"abcdefgh")
native = pytest.mark.skipif(kernel.load() is None, reason="no compiler to build the kernel with, or no Linux")


def test_the_header_is_as_documented_in_network_byte_order():
    head = bytes.fromhex("d7a6 01 00 01020304 00000005 0006 0007 00000008 0002")
    mac = hashlib.blake2b(head + b"abcdefgh", digest_size=8, key=KEY).digest()
    assert seal(FIELDS, KEY) == head + mac + b"abcdefgh"


def test_a_datagram_never_needs_fragments():
    for value_bytes, per_chunk in ((4, 342), (2, 685)):
        layout = Layout((10_000,), value_bytes)
        assert layout.per_chunk == per_chunk
        assert MAX_BYTES - value_bytes < OVERHEAD + per_chunk * value_bytes <= MAX_BYTES


@given(at=st.integers(0, OVERHEAD + 7), bit=st.integers(0, 7))
def test_no_bit_can_be_changed(at, bit):
    data = bytearray(seal(FIELDS, KEY))
    data[at] ^= 1 << bit
    assert parse(data) is None or not is_genuine(data, KEY)


def test_another_key_does_not_hold_and_the_right_one_does():
    data = seal(FIELDS, KEY)
    assert parse(data) == FIELDS
    assert is_genuine(data, KEY)
    assert not is_genuine(data, bytes(32))


@native
@given(size=st.integers(0, MAX_BYTES - OVERHEAD), key=st.binary(min_size=32, max_size=32))
def test_the_kernel_signs_as_hashlib_does(size, key):
    """Sizes about the block length of 128 are the likely mistake; header and values are signed as one."""
    data = seal(Datagram(1, 2, 3, 4, 5, 6, 0, bytes(k % 251 for k in range(size))), key)
    mac = kernel.load().udp_mac(key, data, len(data))
    assert mac.to_bytes(8, "little") == data[22:30]


@given(sizes=st.lists(st.integers(0, 2000), max_size=6), value_bytes=st.sampled_from([2, 4]))
def test_a_plan_covers_every_value_of_every_receiver_once(sizes, value_bytes):
    layouts = [Layout(tuple(sizes), value_bytes), Layout((3,), value_bytes), Layout(tuple(sizes[:2]), value_bytes)]
    plan = make_plan(layouts, rank=1)
    for to, layout in enumerate(layouts):
        mine = (plan.to == to) & (plan.count > 0)
        seen = np.zeros(layout.width, dtype=int)
        for tensor, offset, count, at in zip(
            plan.tensor[mine], plan.offset[mine], plan.count[mine], plan.at[mine], strict=True
        ):
            assert layout.fits(int(tensor), int(offset), int(count), int(count) * value_bytes)
            assert at == (layout.starts[tensor] + offset) * value_bytes
            seen[at // value_bytes : at // value_bytes + count] += 1
        assert (seen == (0 if to == 1 else 1)).all()
        assert ((plan.to == to) & (plan.count == 0)).sum() == (0 if to == 1 else END_REPEATS)


def test_receivers_take_turns():
    plan = make_plan([Layout((342 * 3,), 4)] * 3, rank=0)
    assert plan.to.tolist()[:6] == [1, 2, 1, 2, 1, 2]


def sent_by(kind, plan, dtype, skip=None) -> list[bytes]:
    """All datagrams that one sender sends to rank 1."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as target,
    ):
        target.bind(("127.0.0.1", 0))
        target.settimeout(0.2)
        vectors = [np.arange(1, 3001, dtype=dtype).view(np.uint8)] * 2
        places = [("127.0.0.1", 9), target.getsockname()]
        width = np.dtype(dtype).itemsize
        sender = kind(door, plan, places, [bytes(32), KEY], 77, 0, width, Pacer(None))
        count = sender.send(4, vectors, skip, time.monotonic() + 5)
        found = [target.recv(2048) for _ in range(count)]
        with pytest.raises(TimeoutError):
            target.recv(2048)
        return found


@native
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_kernel_and_plain_version_send_the_same_datagrams(dtype):
    plan = make_plan([Layout((), np.dtype(dtype).itemsize), Layout((2500, 0, 500), np.dtype(dtype).itemsize)], rank=0)
    skip = np.zeros(len(plan), dtype=np.uint8)
    skip[1] = 1
    sent = sent_by(PlainSender, plan, dtype, skip)
    assert sent == sent_by(kernel.NativeSender, plan, dtype, skip)
    flags = [parse(data).flags for data in sent]
    half = HALF if dtype == np.float16 else 0
    assert flags == [half] * (len(sent) - END_REPEATS) + [half | END] * END_REPEATS


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_the_pacer_keeps_rate_and_burst(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("drivetrain.comm.transport.udp.pacer.time", clock)
    pacer = Pacer(8e6, burst=5000)  # a byte a microsecond
    for _ in range(5):
        assert pacer.wait(1000, until=200.0)
    assert clock.now == 100.0, "the bucket was full"
    for _ in range(100):
        assert pacer.wait(1000, until=200.0)
    assert clock.now == pytest.approx(100.1, abs=1e-6)
    clock.now += 10
    assert pacer.wait(5000, until=200.0)
    assert pacer.wait(1000, until=200.0)
    assert clock.now == pytest.approx(110.101, abs=2e-6), "a bucket holds no more than its burst"
    assert not pacer.wait(5000, until=clock.now + 0.001), "what can't go before the deadline does not go"


def test_a_channel_can_number_no_more_than_the_header():
    with pytest.raises(InvalidValue, match="can number 65536 tensors"):
        Layout((1,) * (1 << 16) + (1,), 4)
    with pytest.raises(InvalidValue, match="4294967296"):
        Layout((1 << 32,), 4)


@settings(deadline=None)
@given(sizes=st.lists(st.integers(0, 1500), max_size=5), seed=st.integers(0, 1000))
def test_marks_spread_over_their_values(sizes, seed):
    layout = Layout(tuple(sizes), 4)
    marks = torch.rand(2, layout.chunks, generator=torch.Generator().manual_seed(seed)) < 0.5
    spread = layout.spread(marks)
    assert spread.shape == (2, layout.width)
    for tensor, (size, start) in enumerate(zip(sizes, layout.starts, strict=True)):
        for value in range(0, size, 100):
            chunk = layout.first_chunks[tensor] + value // layout.per_chunk
            assert torch.equal(spread[:, start + value], marks[:, chunk])
