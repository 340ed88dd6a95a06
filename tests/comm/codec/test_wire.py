"""Messages that were cut, altered or are not messages; every field of the header by itself."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drivetrain.base.errors import InvalidValue
from drivetrain.comm.codec import (
    FP16,
    Codec,
    CodecError,
    NonFiniteGradient,
    Raw,
    ThreeLC,
    TopK,
    UnsupportedTensor,
    WireError,
    decode,
    get,
    message_size,
    names,
    quantize3,
    quartic_decode,
    quartic_encode,
    read_header,
    split_messages,
)

X = torch.randn(1000, generator=torch.Generator().manual_seed(0))
native = pytest.mark.parametrize("native", [True, False], ids=["native", "torch"])


def altered(message: torch.Tensor, at: int, *values: int) -> torch.Tensor:
    changed = message.clone()
    changed[at : at + len(values)] = torch.tensor(values, dtype=torch.uint8)
    return changed


@pytest.mark.parametrize(
    ("at", "values", "words"),
    [
        (0, [0x3D], "magic is 0x3d"),
        (1, [2], "version is 2"),
        (2, [1 | 64], "bits 0x40 are unknown"),
        (2, [1 | 2], "only a ternary message"),
        (2, [2 | 16], "not two of them"),
        (2, [0], "payload size"),
        (2, [1 | 4], "tells"),
        (2, [1 | 8], "tells"),
        (3, [1], "reserved byte is 1"),
        (4, [0, 0, 0, 0], "payload size"),
        (4, [0xFF, 0xFF, 0xFF, 0xFF], "payload size"),
        (4, [0xE9, 3, 0, 0], "decodes to 200 bytes, 1001 values have 201"),
        (8, [1, 0, 0, 0], "tells"),
        (8, [0, 0, 0, 0], "tells"),
        (12, [0, 0, 0, 0], "payload size is 0"),
        (12, [0xFF, 0xFF, 0xFF, 0xFF], "payload size"),
        (16, [0, 0, 0xC0, 0x7F], "scale 0 of 4 is nan"),
        (20, [0, 0, 0x80, 0x7F], "scale 1 of 4 is inf"),
        (28, [0, 0, 0x80, 0xBF], "scale 3 of 4 is -1"),
        (32, [255], "the payload decodes to"),
    ],
)
@native
def test_each_field_of_a_ternary_message(native: bool, at: int, values: list[int], words: str) -> None:
    message = ThreeLC(block=256).encode(X).data
    decode(message, native=native)
    with pytest.raises(WireError, match=words):
        decode(altered(message, at, *values), native=native)


def test_a_message_without_scales_has_no_block() -> None:
    for name in ("raw", "fp16", "topk"):
        with pytest.raises(WireError, match="block is 16 in a message without scales"):
            decode(altered(get(name).encode(X).data, 8, 16))


@native
def test_a_byte_beyond_242_without_zero_runs(native: bool) -> None:
    message = ThreeLC(zero_run=False).encode(X).data
    with pytest.raises(WireError, match="payload byte 3 is 250"):
        decode(altered(message, 23, 250), native=native)


@pytest.mark.parametrize("codec", [ThreeLC(), ThreeLC(block=16, crc=True), Raw(), FP16(crc=True), TopK(0.1)], ids=repr)
def test_any_truncation_is_refused(codec: Codec) -> None:
    message = codec.encode(X[:50]).data
    for length in range(len(message)):
        with pytest.raises(WireError):
            decode(message[:length])
    with pytest.raises(WireError, match="tells"):
        decode(torch.cat([message, message[:1]]))


@pytest.mark.parametrize(
    "codec", [ThreeLC(block=16, crc=True), Raw(crc=True), FP16(crc=True), TopK(0.2, crc=True)], ids=repr
)
def test_with_a_crc_every_flipped_bit_is_found(codec: Codec) -> None:
    message = codec.encode(X[:30]).data
    for bit in range(8 * len(message)):
        with pytest.raises(WireError):
            decode(altered(message, bit // 8, int(message[bit // 8]) ^ (1 << bit % 8)))


@settings(max_examples=300, deadline=None)
@given(data=st.data(), codec=st.sampled_from([ThreeLC(block=16), ThreeLC(zero_run=False), Raw(), FP16(), TopK(0.1)]))
def test_without_a_crc_a_change_is_refused_or_gives_finite_values(data: st.DataObject, codec: Codec) -> None:
    """Never a crash, never a value that is not finite, never another length than the header tells."""
    message = codec.encode(X[:60]).data.clone()
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    results = []
    for native in (True, False):
        try:
            results.append(decode(message, native=native))
        except WireError:
            results.append(None)
    if results[0] is None or results[1] is None:
        assert results[0] is results[1]
    else:
        assert torch.equal(*results)
        assert bool(results[0].isfinite().all()) and len(results[0]) == read_header(message).numel


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=64), front=st.booleans())
def test_any_bytes_are_refused_or_read(content: bytes, front: bool) -> None:
    start = [0x3C, 1] if front else []
    message = torch.tensor([*start, *content], dtype=torch.uint8)
    try:
        decode(message)
    except WireError as error:
        assert str(error).startswith("comm: ")


def test_a_refused_message_leaves_the_buffer_as_it_was() -> None:
    message = ThreeLC(block=256).encode(X).data
    target = torch.full((1000,), 7.0)
    for broken in (altered(message, 28, 0, 0, 0xC0, 0x7F), altered(message, len(message) - 1, 255)):
        with pytest.raises(WireError):
            decode(broken, out=target)
        assert bool((target == 7).all())


def test_sparse_indices_must_ascend_and_stay_in_range() -> None:
    message = TopK(0.002).encode(X).data  # 2 of 1000
    for indices in (
        [5, 0, 0, 0, 5, 0, 0, 0],
        [9, 0, 0, 0, 8, 0, 0, 0],
        [0, 0, 0, 0, 0xE8, 3, 0, 0],
        [0] * 4 + [255] * 4,
    ):
        with pytest.raises(WireError, match="must ascend and stay below 1000"):
            decode(altered(message, 16, *indices))
    with pytest.raises(WireError, match="multiple of 8"):
        decode(altered(message, 12, 12))


def test_an_altered_length_cant_ask_for_all_memory() -> None:
    """Each kind bounds N by the bytes that came: 8 GB of zeros for 32 bytes would stop the machine."""
    for codec in (ThreeLC(block=0), Raw(), FP16(), TopK(0.002)):
        with pytest.raises(WireError, match="payload size"):
            decode(altered(codec.encode(X).data, 4, 0, 0, 0, 0x80))


def test_messages_in_one_buffer() -> None:
    parts = [
        codec.encode(X[:n]).data for codec, n in ((ThreeLC(), 999), (Raw(), 3), (FP16(crc=True), 77), (TopK(), 500))
    ]
    joined = torch.cat(parts)
    assert all(torch.equal(a, b) for a, b in zip(split_messages(joined), parts, strict=True))
    for message, part in zip(split_messages(joined), parts, strict=True):
        assert torch.equal(decode(message), decode(part))
    padded = torch.cat([parts[0], torch.zeros(9, dtype=torch.uint8)])
    assert message_size(padded) == len(parts[0])
    with pytest.raises(WireError, match="cut"):
        split_messages(joined[:-1])


def test_not_a_message_at_all() -> None:
    with pytest.raises(WireError, match="1-D uint8 tensor, this is float32"):
        decode(torch.zeros(20))
    with pytest.raises(WireError, match="2"):
        decode(torch.zeros(2, 20, dtype=torch.uint8))


@pytest.mark.parametrize(
    "codec", [ThreeLC(), ThreeLC(native=False), ThreeLC(scale="rms"), Raw(), FP16(), TopK()], ids=repr
)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_values(codec: Codec, bad: float) -> None:
    x = X.clone()
    x[[3, 500, 999]] = bad
    with pytest.raises(NonFiniteGradient, match="has 3 non-finite values, the first at 3 of 1000"):
        codec.encode(x)


@pytest.mark.parametrize("codec", [ThreeLC(), Raw(), FP16(), TopK()], ids=repr)
def test_tensors_that_codecs_dont_take(codec: Codec) -> None:
    with pytest.raises(TypeError, match="this tensor is int64"):
        codec.encode(torch.arange(5))
    with pytest.raises(UnsupportedTensor, match="sparse_coo"):
        codec.encode(torch.eye(3).to_sparse())
    with pytest.raises(CodecError, match=f"out has {codec.max_bytes(1000) - 1} bytes"):
        codec.encode(X, out=torch.empty(codec.max_bytes(1000) - 1, dtype=torch.uint8)[: codec.max_bytes(1000) - 1])
    with pytest.raises(CodecError, match="out must be a contiguous 1-D uint8"):
        codec.encode(X, out=torch.empty(9999))
    with pytest.raises(CodecError, match=r"out must be contiguous float32 of shape \(1000,\)"):
        codec.decode(codec.encode(X).data, out=torch.empty(999))


@pytest.mark.parametrize("s", [0.99, 2.0, -1.0, float("nan")])
def test_multiplier_out_of_range(s: float) -> None:
    with pytest.raises(ValueError, match="at least 1 and less than 2"):
        ThreeLC(s)
    with pytest.raises(ValueError, match="at least 1 and less than 2"):
        quantize3(X, s)


def test_other_options_out_of_range() -> None:
    for block in (-1, 2**32, 0.5, True):
        with pytest.raises(CodecError, match="block is"):
            ThreeLC(block=block)
    with pytest.raises(InvalidValue, match="did you mean 'rms'"):
        ThreeLC(scale="rmse")
    with pytest.raises(CodecError, match=r"scale_dtype is torch\.float64"):
        ThreeLC(scale_dtype=torch.float64)
    with pytest.raises(CodecError, match="ratio is 0"):
        TopK(0)
    with pytest.raises(CodecError, match="does not fit in float16"):
        ThreeLC(scale_dtype=torch.float16).encode(X * 1e6)


def test_more_values_than_a_header_can_count() -> None:
    with pytest.raises(CodecError, match=r"fewer than 2\^32 values"):
        ThreeLC().encode(torch.zeros(1).expand(2**32))


def test_functions_of_the_stages_refuse_bad_input() -> None:
    with pytest.raises(CodecError, match="the one at 1 is 2"):
        quartic_encode(torch.tensor([0, 2], dtype=torch.int8))
    with pytest.raises(WireError, match="6 values"):
        quartic_decode(torch.tensor([121], dtype=torch.uint8), 6)


def test_codecs_by_name() -> None:
    assert names() == ("3lc", "fp16", "raw", "topk")
    assert get("3LC", s=1.5, scale_dtype="float16") == ThreeLC(1.5, scale_dtype=torch.float16)
    assert get("topk", ratio=0.1) == TopK(0.1)
    mine = Raw()
    assert get(mine) is mine
    for call, words in [
        (lambda: get("3lcc"), "did you mean '3lc'"),
        (lambda: get("3lc", blok=3), "did you mean 'block'"),
        (lambda: get("raw", s=1), "takes no option 's'"),
        (lambda: get("3lc", s="much"), "can't be built"),
        (lambda: get("3lc", scale_dtype="float99"), "scale_dtype is float99"),
        (lambda: get("auto"), "measuring the link"),
        (lambda: get(mine, crc=True), "beside a codec object"),
        (lambda: get(3), "3 as a codec"),
    ]:
        with pytest.raises(InvalidValue, match=words):
            call()
