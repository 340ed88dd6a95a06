"""What must hold for any tensor: round trips, bounds, sizes, and identical bytes from kernel and reference."""

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drivetrain.base import native
from drivetrain.comm.codec import (
    FP16,
    Codec,
    Raw,
    ThreeLC,
    TopK,
    decode,
    kernel,
    quantize3,
    quartic_decode,
    quartic_encode,
    read_header,
    zero_run_decode,
    zero_run_encode,
)

from .strategies import blocks, multipliers, quartic_bytes, ternary_vectors, vectors

CODECS = [
    ThreeLC(),
    ThreeLC(1.7, 5, zero_run=False, crc=True),
    Raw(),
    Raw(crc=True),
    FP16(),
    TopK(0.1),
    TopK(0.5, crc=True),
]
quick = settings(max_examples=150, deadline=None)


@quick
@given(q=ternary_vectors())
def test_quartic_round_trip(q: torch.Tensor) -> None:
    assert torch.equal(quartic_decode(quartic_encode(q), len(q)), q)


@quick
@given(b=quartic_bytes())
def test_zero_run_round_trip_and_never_expands(b: torch.Tensor) -> None:
    coded = zero_run_encode(b)
    assert torch.equal(zero_run_decode(coded), b)
    assert -(-len(b) // 14) <= len(coded) <= len(b)


@quick
@given(x=vectors(), s=multipliers, block=blocks)
def test_every_error_is_at_most_half_a_scale_and_the_largest_value_is_sent(
    x: torch.Tensor, s: float, block: int
) -> None:
    q, scales = quantize3(x, s, block)
    for k, scale in enumerate(scales.double()):
        part = slice(k * block, (k + 1) * block) if block else slice(None)
        values, kept = x[part].double(), q[part].double()
        assert bool(((values - scale * kept).abs() <= scale / 2).all())
        if len(values) and values.abs().max() > 1e-37:  # below, M itself is rounded to few digits
            assert bool((kept[values.abs() == values.abs().max()] != 0).all())


@quick
@given(x=vectors(), s=multipliers, block=blocks)
def test_size_law(x: torch.Tensor, s: float, block: int) -> None:
    header = read_header(ThreeLC(s, block).encode(x).data)
    length = -(-len(x) // 5)
    assert -(-length // 14) <= header.payload_bytes <= length


@quick
@given(
    x=vectors(),
    s=multipliers,
    block=blocks,
    scale=st.sampled_from(["max", "rms"]),
    zero_run=st.booleans(),
    half=st.booleans(),
    crc=st.booleans(),
)
def test_kernel_and_reference_write_the_same_bytes(
    x: torch.Tensor, s: float, block: int, scale: str, zero_run: bool, half: bool, crc: bool
) -> None:
    if half:
        x = x.clamp(-1e3, 1e3)
    options = {"scale": scale, "zero_run": zero_run, "crc": crc}
    options["scale_dtype"] = torch.float16 if half else torch.float32
    fast, plain = (ThreeLC(s, block, native=chosen, **options) for chosen in (True, False))
    ours, reference = fast.encode(x), plain.encode(x)
    assert torch.equal(ours.data, reference.data)
    assert torch.equal(ours.value, reference.value)
    assert torch.equal(fast.decode(ours.data), reference.value)
    assert torch.equal(plain.decode(ours.data), reference.value)
    residuals = [torch.linspace(-1, 1, len(x)) for _ in range(2)]
    messages = [codec.encode_residual(x, r) for codec, r in zip((fast, plain), residuals, strict=True)]
    assert torch.equal(*messages)
    assert torch.equal(*residuals)


@pytest.mark.parametrize("share", [0.0, 1e-4, 0.03, 1.0])
def test_kernel_and_reference_agree_beyond_one_chunk(share: float) -> None:
    """A kernel chunk has 5 * 8192 values; runs go on from one to the next."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(200_003, generator=generator) * (torch.rand(200_003, generator=generator) < share)
    for block in (0, 1000, 4096):
        ours, reference = ThreeLC(block=block).encode(x), ThreeLC(block=block, native=False).encode(x)
        assert torch.equal(ours.data, reference.data)
        assert torch.equal(decode(ours.data), decode(ours.data, native=False))


def test_without_a_compiler_the_reference_runs(monkeypatch) -> None:
    x = torch.randn(5000)
    message = ThreeLC().encode(x).data
    monkeypatch.setattr(kernel, "load", lambda: None)
    monkeypatch.setattr(kernel, "pack", None)
    monkeypatch.setattr(kernel, "unpack", None)
    assert torch.equal(ThreeLC().encode(x).data, message)
    assert torch.equal(ThreeLC().decode(message), ThreeLC().encode(x).value)


def test_the_kernel_is_built_here() -> None:
    """Otherwise the tests above would compare the reference with itself."""
    if native.compiler() is None:
        pytest.skip("there is no C++ compiler")
    assert kernel.load() is not None


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@quick
@given(x=vectors(max_length=60))
def test_decode_gives_what_encode_promised(codec: Codec, x: torch.Tensor) -> None:
    encoded = codec.encode(x)
    assert encoded.data.dtype == torch.uint8 and encoded.value.dtype == torch.float32
    assert torch.equal(codec.decode(encoded.data), encoded.value)
    assert torch.equal(decode(encoded.data), encoded.value)
    assert len(encoded.data) <= codec.max_bytes(len(x))
    assert torch.equal(codec.encode(x).data, encoded.data)


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_buffers_shapes_and_dtypes(codec: Codec) -> None:
    x = torch.randn(6, 7)
    message = codec.encode(x).data
    assert codec.encode(x).value.shape == x.shape
    for same in (x.T.contiguous().T, x.double(), x.clone().requires_grad_()):
        assert torch.equal(codec.encode(same).data, message)
    buffer = torch.zeros(codec.max_bytes(42) + 9, dtype=torch.uint8)
    written = codec.encode(x, out=buffer[3:]).data  # an address that no float can stand at
    assert torch.equal(written, message) and written.data_ptr() == buffer.data_ptr() + 3
    target = torch.empty(42)
    assert codec.decode(written, out=target) is target
    assert torch.equal(target, codec.encode(x).value.flatten())
    for half in (torch.float16, torch.bfloat16):
        assert torch.equal(codec.encode(x.to(half)).data, codec.encode(x.to(half).float()).data)


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_codecs_are_values(codec: Codec) -> None:
    assert isinstance(codec, Codec)
    assert pickle.loads(pickle.dumps(codec)) == codec


def test_raw_and_topk_are_exact_where_they_send() -> None:
    x = torch.tensor([0.5, -3.0, 1e-40, 2.0, -0.0])
    assert torch.equal(Raw().encode(x).value, x)
    assert TopK(0.4).encode(x).value.tolist() == [0, -3, 0, 2, 0]
    assert TopK(0.001).encode(x).value.tolist() == [0, -3, 0, 0, 0]


def test_fp16_clamps_instead_of_sending_infinity() -> None:
    assert FP16().encode(torch.tensor([1e6, -1e6, 1.0])).value.tolist() == [65504, -65504, 1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_writes_the_same_bytes() -> None:
    x = torch.randn(100_003)
    for codec in CODECS[:2]:
        encoded = codec.encode(x.cuda())
        assert torch.equal(encoded.data.cpu(), codec.encode(x).data)
        assert torch.equal(codec.decode(encoded.data).cpu(), codec.encode(x).value)
