"""Error feedback: nothing is lost, only late; and residuals that move to another number of ranks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drivetrain.base.errors import InvalidValue
from drivetrain.comm.codec import (
    FP16,
    Codec,
    CodecError,
    ErrorFeedback,
    NonFiniteGradient,
    Raw,
    ThreeLC,
    TopK,
    decode,
    even_bounds,
    reshard_pull,
    reshard_push,
)

CODECS = [
    ThreeLC(block=64),
    ThreeLC(1.75, block=0),
    ThreeLC(1.3, block=64, native=False),
    ThreeLC(block=64, scale="rms"),
    ThreeLC(block=64, scale_dtype=torch.float16),
    FP16(),
    TopK(0.05),
]


def gradients(steps: int, numel: int = 500, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(numel, generator=generator) * 10 ** (-t / 20) for t in range(steps)]


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_sum_of_sent_and_residual_is_the_sum_of_inputs(codec: Codec, dtype: torch.dtype, tolerance: float) -> None:
    feedback = ErrorFeedback(dtype)
    inputs = gradients(40)
    sent = sum(decode(feedback.encode(codec, "w", x)).double() for x in inputs)
    lost = sum(x.double() for x in inputs) - sent - feedback.residuals["w"].double()
    scale = sum(x.double().abs() for x in inputs)
    assert bool((lost.abs() <= tolerance * scale + 1e-300).all())


@pytest.mark.parametrize("codec", CODECS[:3], ids=repr)
def test_fused_and_plain_way_agree(codec: Codec) -> None:
    fused, plain = ErrorFeedback(), ErrorFeedback()
    for x in gradients(10):
        message = fused.encode(codec, "w", x)
        total = plain.compensate("w", x)
        encoded = codec.encode(total)
        plain.update("w", total, encoded.value)
        assert torch.equal(message, encoded.data)
        assert torch.equal(fused.residuals["w"], plain.residuals["w"])


@pytest.mark.parametrize("s", [1.0, 1.75])
def test_mean_of_what_was_sent_goes_to_a_constant_input(s: float) -> None:
    """|mean - g| <= M_max / (2 k) at every coordinate."""
    g = torch.randn(300, generator=torch.Generator().manual_seed(1)).double()
    feedback, codec, largest = ErrorFeedback(torch.float64), ThreeLC(s, block=0), 0.0
    sent = torch.zeros_like(g)
    for k in range(1, 201):
        message = feedback.encode(codec, "w", g)
        sent += decode(message).double()
        largest = max(largest, float(message[16:20].clone().view(torch.float32)))
        assert float((sent / k - g).abs().max()) <= largest / (2 * k) * (1 + 1e-6)


@settings(max_examples=20, deadline=None)
@given(
    s=st.floats(1, 1.99),
    scale=st.sampled_from(["max", "rms"]),
    seed=st.integers(0, 99),
    share=st.sampled_from([0.02, 1]),
)
def test_residual_stays_bounded(s: float, scale: str, seed: int, share: float) -> None:
    """s < 2: the largest value is always sent, so that what waits can't pile up."""
    feedback, generator = ErrorFeedback(), torch.Generator().manual_seed(seed)
    g = torch.randn(200, generator=generator) * (torch.rand(200, generator=generator) < share)
    sizes = []
    for _ in range(400):
        feedback.encode(ThreeLC(s, block=0, scale=scale), "w", g)
        sizes.append(feedback.norm("w"))
    assert max(sizes[200:]) <= 1.5 * max(sizes[:200]) + 1e-6


def test_values_of_one_size_are_sent_with_rms_scales() -> None:
    feedback = ErrorFeedback()
    for _ in range(20):
        feedback.encode(ThreeLC(scale="rms"), "w", torch.ones(500))
    assert feedback.norm() == 0


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_a_bad_gradient_names_its_parameter_and_changes_nothing(codec: Codec) -> None:
    feedback = ErrorFeedback()
    feedback.encode(codec, "layer1.weight", gradients(1)[0])
    before = feedback.state_dict()["layer1.weight"]
    bad = gradients(1)[0]
    bad[[1, 2, 3]] = float("nan")
    with pytest.raises(NonFiniteGradient, match=r"parameter 'layer1\.weight' has 3 non-finite values"):
        feedback.encode(codec, "layer1.weight", bad)
    assert torch.equal(feedback.residuals["layer1.weight"], before)


def test_contexts_are_independent_and_keep_shapes() -> None:
    feedback, codec = ErrorFeedback(), ThreeLC(block=0)
    a, b = torch.randn(4, 6), torch.randn(10)
    feedback.encode(codec, "a", a)
    only_a = feedback.residuals["a"].clone()
    feedback.encode(codec, "b", b)
    assert feedback.residuals["a"].shape == (4, 6) and torch.equal(feedback.residuals["a"], only_a)
    assert list(feedback) == ["a", "b"] and "a" in feedback and len(feedback) == 2
    assert feedback.norm() == pytest.approx((feedback.norm("a") ** 2 + feedback.norm("b") ** 2) ** 0.5)
    assert feedback.norm("never sent") == 0
    feedback.reset("a")
    assert list(feedback) == ["b"]
    with pytest.raises(CodecError, match=r"residual of 'b' has shape \(10,\), its gradient \(11,\)"):
        feedback.encode(codec, "b", torch.randn(11))


def test_a_missing_gradient_drains_the_residual() -> None:
    feedback, codec = ErrorFeedback(), ThreeLC(block=0)
    feedback.encode(codec, "w", gradients(1)[0])
    first = feedback.norm()
    for _ in range(60):
        feedback.encode(codec, "w", torch.zeros(500))
    assert feedback.norm() < first / 100


def test_state_survives_and_continues_bit_for_bit(tmp_path) -> None:
    one, codec, inputs = ErrorFeedback(), ThreeLC(), gradients(10)
    for x in inputs[:5]:
        one.encode(codec, "w", x)
    state = one.state_dict()
    torch.save(state, tmp_path / "state.pt")
    other = ErrorFeedback()
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for x in inputs[5:]:
        assert torch.equal(one.encode(codec, "w", x), other.encode(codec, "w", x))
    assert torch.equal(state["w"], torch.load(tmp_path / "state.pt", weights_only=True)["w"])  # a copy, no view


def test_bad_states_are_refused_whole() -> None:
    feedback = ErrorFeedback()
    feedback.load_state_dict({"w": torch.ones(3)})
    for state, words in [
        ({"w": torch.zeros(3), "v": [1.0]}, "residual of 'v' is list"),
        ({"w": torch.arange(3)}, "int64"),
        ({"w": torch.tensor([float("nan")])}, "non-finite"),
    ]:
        with pytest.raises(InvalidValue, match=words):
            feedback.load_state_dict(state)
        assert torch.equal(feedback.residuals["w"], torch.ones(3))
    with pytest.raises(CodecError, match="float32 or float64"):
        ErrorFeedback(torch.float16)
    with pytest.raises(CodecError, match="a residual is contiguous float32 with 3 values"):
        ThreeLC().encode_residual(torch.ones(3), torch.ones(4))


def states(world_size: int, numel: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(world_size)
    return [{"w": torch.randn(numel, generator=generator).double()} for _ in range(world_size)]


@settings(max_examples=60, deadline=None)
@given(old=st.integers(1, 9), new=st.integers(1, 9), numel=st.integers(0, 40))
def test_resharding_preserves_the_sum(old: int, new: int, numel: int) -> None:
    before = states(old, numel)
    after = reshard_push(before, new)
    assert len(after) == new
    total = sum(state["w"] for state in after if "w" in state)
    torch.testing.assert_close(total, sum(state["w"] for state in before), rtol=1e-12, atol=1e-12)
    mean = sum(state["w"] for state in reshard_push(before, new, preserve="mean") if "w" in state) / new
    torch.testing.assert_close(mean, sum(state["w"] for state in before) / old, rtol=1e-12, atol=1e-12)
    whole = torch.cat([state["w"] for state in before])
    slices = reshard_pull(before, new)
    assert torch.equal(torch.cat([state["w"] for state in slices]), whole)
    assert [len(state["w"]) for state in slices] == [end - begin for begin, end in even_bounds(len(whole), new)]


def test_resharding_does_not_touch_what_it_reads() -> None:
    before = states(4, 5)
    copies = [state["w"].clone() for state in before]
    for after in (reshard_push(before, 2), reshard_push(before, 6), reshard_pull(before, 3)):
        for state in after:
            for residual in state.values():
                residual.add_(1)
    assert all(torch.equal(state["w"], copy) for state, copy in zip(before, copies, strict=True))


def test_a_key_that_a_push_rank_lacks_is_zero() -> None:
    after = reshard_push([{"a": torch.ones(2)}, {"b": torch.ones(3)}, {"a": torch.ones(2)}], 1)
    assert after[0]["a"].tolist() == [2, 2] and after[0]["b"].tolist() == [1, 1, 1]


def test_bad_resharding() -> None:
    for call, words in [
        (lambda: reshard_push([], 2), "no residuals"),
        (lambda: reshard_push(states(2, 3), 0), "world_size is 0"),
        (lambda: reshard_push([*states(1, 3), *states(1, 4)], 1), r"shape \(4,\) on rank 1"),
        (lambda: reshard_pull([{"w": torch.ones(2)}, {}], 2), "rank 1 has no slice"),
        (lambda: reshard_pull(states(2, 3), 2, lambda n, w: [(0, 2), (3, 6)]), "don't cut 6 values"),
        (lambda: reshard_pull(states(2, 3), 2, lambda n, w: [(0, 6)]), "don't cut 6 values"),
    ]:
        with pytest.raises(InvalidValue, match=words):
            call()


def test_raw_leaves_no_residual() -> None:
    feedback = ErrorFeedback()
    feedback.encode(Raw(), "w", gradients(1)[0])
    assert feedback.norm() == 0
