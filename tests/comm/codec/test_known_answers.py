"""3LC against numbers worked out by hand, and against the bit accounting of another implementation (spec 01 §5)."""

import math

import pytest
import torch

from drivetrain.comm.codec import (
    ThreeLC,
    dequantize3,
    quantize3,
    quartic_decode,
    quartic_encode,
    read_header,
    zero_run_decode,
    zero_run_encode,
)

X = torch.tensor([-0.3, 0.1, -0.4, 0, 0.2, -0.1, -0.1, -0.1, 0, 0.3, 0.05])
native = pytest.mark.parametrize("native", [True, False], ids=["native", "torch"])


def payload(message: torch.Tensor) -> list[int]:
    header = read_header(message)
    return message[header.payload_start : header.payload_end].tolist()


def test_quantise_with_s_1() -> None:
    """0.2 is exactly half of M = 0.4: a tie, which goes to zero."""
    q, scales = quantize3(X, 1.0)
    assert q.tolist() == [-1, 0, -1, 0, 0, 0, 0, 0, 0, 1, 0]
    assert scales.tolist() == pytest.approx([0.4])


def test_quantise_with_a_larger_multiplier_keeps_less() -> None:
    q, scales = quantize3(X, 1.75)
    assert q.nonzero().flatten().tolist() == [2]
    assert scales.tolist() == pytest.approx([0.7])


@native
@pytest.mark.parametrize(
    ("s", "zero_run", "wanted"),
    [(1.0, True, [43, 121, 40]), (1.75, False, [121, 121, 40]), (1.75, True, [243, 40])],
)
def test_bytes_of_the_example(native: bool, s: float, zero_run: bool, wanted: list[int]) -> None:
    assert payload(ThreeLC(s, block=0, zero_run=zero_run, native=native).encode(X).data) == wanted


def test_whole_message_of_the_example() -> None:
    """The wire format, byte by byte: a change of it must change the version."""
    message = ThreeLC(1.75, block=0).encode(X).data
    scale = torch.tensor([0.4]).mul(1.75).view(torch.uint8).tolist()
    assert message.tolist() == [0x3C, 1, 1, 0, 11, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, *scale, 243, 40]


def test_quartic_uses_five_contiguous_parts() -> None:
    """[0,1,0,...] tells the order: five parts give [121, 202], consecutive quintuples would give [148, 121]."""
    q = torch.tensor([0, 1, 0, 0, 0, 0, 0, 0, 0, 0], dtype=torch.int8)
    assert quartic_encode(q).tolist() == [121, 202]
    assert quartic_decode(torch.tensor([43, 121, 40], dtype=torch.uint8), 11).nonzero().flatten().tolist() == [0, 2, 9]


@native
@pytest.mark.parametrize(
    ("count", "wanted"),
    [(5, [121]), (10, [243]), (70, [255]), (71, [255, 121]), (75, [255, 121]), (80, [255, 243]), (0, [])],
)
def test_runs_of_zeros(native: bool, count: int, wanted: list[int]) -> None:
    assert zero_run_encode(quartic_encode(torch.zeros(count, dtype=torch.int8))).tolist() == wanted
    assert payload(ThreeLC(native=native).encode(torch.zeros(count)).data) == wanted


@pytest.mark.parametrize("run", range(1, 45))
def test_run_lengths(run: int) -> None:
    """As many 14s as fit, then the remainder: one zero byte stays 121, k of them are 243 + k - 2."""
    rest = run % 14
    wanted = [255] * (run // 14) + ([121] if rest == 1 else [243 + rest - 2] if rest else [])
    bytes_ = torch.tensor([7, *[121] * run, 9], dtype=torch.uint8)
    assert zero_run_encode(bytes_).tolist() == [7, *wanted, 9]
    assert torch.equal(zero_run_decode(zero_run_encode(bytes_)), bytes_)


def test_all_243_bytes_are_distinct_and_odd_symmetric() -> None:
    every = torch.arange(243, dtype=torch.uint8)
    digits = quartic_decode(every, 5 * 243).view(5, 243)
    assert len({tuple(column) for column in digits.T.tolist()}) == 243
    assert digits[:, 121].tolist() == [0] * 5
    assert torch.equal(quartic_encode(-digits.reshape(-1)), 242 - every)


@native
@pytest.mark.parametrize("s", [1.0, 1.5, 1.75, 1.99])
@pytest.mark.parametrize("numel", [1, 4, 5, 6, 69, 70, 71, 1000, 99_999])
@pytest.mark.parametrize("block", [0, 64])
def test_round_trip_is_exact_and_close(native: bool, s: float, numel: int, block: int) -> None:
    x = torch.randn(numel, generator=torch.Generator().manual_seed(numel))
    codec = ThreeLC(s, block, native=native)
    encoded = codec.encode(x)
    decoded = codec.decode(encoded.data)
    q, scales = quantize3(x, s, block)
    assert torch.equal(decoded, dequantize3(q, scales, block))
    assert torch.equal(decoded, encoded.value)
    half = scales.repeat_interleave(block)[:numel] / 2 if block else scales / 2
    assert bool(((x - decoded).abs() <= half).all())


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 1.0])
@pytest.mark.parametrize("numel", [1, 5, 69, 70, 71, 5000])
def test_bits_agree_with_the_accounting_of_google_research_federated(share: float, numel: int) -> None:
    """32 bits for the scale, 8 for a quintuple that is not all zero, 8 * ceil(run / 14) for a run of zero ones."""
    generator = torch.Generator().manual_seed(numel)
    x = (torch.rand(numel, generator=generator) < share).float()
    quintuples = torch.nn.functional.pad(quantize3(x)[0], (0, -numel % 5)).view(5, -1).T.tolist()
    bits, run = 32, 0
    for quintuple in [*quintuples, None]:
        if quintuple == [0] * 5:
            run += 1
            continue
        bits += 8 * math.ceil(run / 14)
        run = 0
        bits += 8 if quintuple is not None else 0
    message = ThreeLC(block=0).encode(x).data
    assert 8 * (len(message) - 16) == bits


def test_three_ones_are_forty_bits() -> None:
    assert 8 * (len(ThreeLC(block=0).encode(torch.ones(3)).data) - 16) == 40


def test_one_scale_for_a_heavy_tailed_tensor_is_a_trap() -> None:
    """§2.7: one outlier silences all it shares a scale with; blocks keep the damage small."""
    x = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    x[0] = 1000
    assert int((ThreeLC(block=0).encode(x).value != 0).sum()) == 1
    assert int((ThreeLC(block=256).encode(x).value != 0).sum()) > 5_000


@native
def test_rms_scale(native: bool) -> None:
    """M = 4 s rms of each block, the short last one by its own length; values beyond M are clamped to it."""
    x = torch.zeros(164)
    x[5], x[70:74], x[128:164:36] = 100, 1, 30
    codec = ThreeLC(1.5, block=64, scale="rms", native=native)
    encoded = codec.encode(x)
    scales = encoded.data[16:28].clone().view(torch.float32).tolist()
    assert scales == pytest.approx([4 * 1.5 * 100 / 8, 4 * 1.5 * 2 / 8, 4 * 1.5 * 30 / 6])
    assert encoded.value[5] == scales[0]


@native
def test_rms_scale_always_sends_the_largest_value(native: bool) -> None:
    """Of values of equal size 4 rms / 2 is twice the value: without a cap at s * max|x| nothing would ever be sent."""
    codec = ThreeLC(block=64, scale="rms", native=native)
    assert torch.equal(codec.encode(torch.full((64,), -3.0)).value, torch.full((64,), -3.0))


@native
def test_half_scales_are_rounded_up(native: bool) -> None:
    """M below max|x| would break |x - value| <= M / 2."""
    x = torch.full((10,), 1 + 2**-12)
    codec = ThreeLC(scale_dtype=torch.float16, native=native)
    message = codec.encode(x).data
    assert float(message[16:18].clone().view(torch.float16)) == 1 + 2**-10
    assert torch.equal(codec.decode(message), torch.full((10,), 1 + 2**-10))
