"""The exchange in real processes over real sockets: what it computes, that replicas never part, that nothing hangs."""

import pytest
import torch


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_raw_is_the_mean_also_of_parameters_that_no_rank_count_divides(ranks, world_size):
    for left in ranks(world_size, "mean_of_gradients('raw')"):
        for gradient in left["gradients"].values():
            assert torch.allclose(gradient, torch.full_like(gradient, (world_size + 1) / 2))


def test_replicas_stay_bit_identical_whatever_the_codec_loses(ranks):
    runs = "same('3lc', steps=40)", "same('fp16', steps=40)", "same('topk', steps=200)", "same('3lc', warmup_steps=9)"
    for left in ranks(3, *runs):
        assert len({rank["digest"] for rank in left}) == 1
        assert sum(left[0]["losses"][-5:]) < 0.8 * sum(left[0]["losses"][:5])


def test_3lc_sends_far_fewer_bytes_and_the_report_says_where(ranks):
    (raw, _), (small, _) = ranks(2, "same('raw')", "same('3lc')")
    assert raw["ratio"] == pytest.approx(1.0, abs=0.1)
    assert small["ratio"] > 10
    assert small["sent"] < raw["sent"] / 10
    assert set(small["parameters"]) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert small["parameters"]["0.weight"][0] == 30 * 4 * 40 * 64
    assert small["residual"]["push"] > 0
    assert all(seconds > 0 for seconds in small["seconds"].values())


def test_a_robust_rule_holds_against_a_hostile_rank_under_any_codec(ranks):
    """The same run under the plain mean ends far above where it began. A rule that trims learns slower from messages
    that are mostly zero: a value that one honest rank alone sends is trimmed away."""
    cases = [
        ("raw", "multi-krum", 0.8), ("raw", "median", 0.8), ("3lc", "multi-krum", 0.85), ("3lc", "nnm+median", 0.85),
        ("3lc", "trimmed-mean", 0.95),
    ]  # fmt: skip
    *runs, mean = ranks(
        5, *(f"same({codec!r}, {rule!r}, f=1, poison=3, steps=40)" for codec, rule, _ in cases),
        "same('raw', poison=3, steps=40)",
    )  # fmt: skip
    for left, (codec, rule, bound) in zip(runs, cases, strict=True):
        assert len({rank["digest"] for rank in left}) == 1
        honest = left[0]["losses"]
        assert sum(honest[-5:]) < bound * sum(honest[:5]), (codec, rule)
        z = [row.z_distance for row in left[0]["suspicion"]]
        assert max(z) == z[3], (codec, rule)
    left = mean[0]
    assert "non-finite" in left.get("error", "") or not sum(left["losses"][-5:]) < sum(left["losses"][:5])


def test_a_rank_that_is_not_finite_stops_all_together_and_changes_nothing(ranks):
    for left in ranks(3, "not_finite(0)"):
        wanted = "NonFiniteGradient: comm: parameter 'weight' has 1 non-finite value on rank 1 (step 0)"
        assert left["error"].startswith(wanted)


def test_a_robust_rule_goes_on_without_a_rank_that_is_not_finite(ranks):
    for left in ranks(3, "not_finite(1)"):
        assert torch.isfinite(left["gradients"]["weight"]).all()
        assert left["gradients"]["weight"].min() >= 0
        assert left["gradients"]["weight"].max() <= 2


def test_unlike_models_are_refused_before_any_gradient_travels(ranks):
    for left in ranks(2, "unlike_models()"):
        assert "rank 0 has 0.weight (64, 40) torch.float32, rank 1 has 0.weight (32, 40)" in left["error"]


def test_a_checkpoint_resumes_to_the_same_bits_and_moves_to_other_ranks_without_loss(ranks):
    from drivetrain.comm import reshard_states

    found = ranks(2, "interrupted()")
    for left in found:
        assert left["whole"] == left["resumed"]
    states = [left["state"] for left in found]
    moved = reshard_states(states, 3)
    assert [state["world_size"] for state in moved] == [3, 3, 3]
    for name in states[0]["push"]:
        before = sum(state["push"][name] for state in states) / 2
        after = sum(state["push"][name] for state in moved if name in state["push"]) / 3
        assert torch.allclose(before, after, atol=1e-6)
    before = {name: part for state in states for name, (_, part) in state["pull"].items()}
    assert before
    for state in moved:
        assert {name: begin for name, (begin, _) in state["pull"].items()} == dict.fromkeys(before, 0)
        assert all(torch.equal(state["pull"][name][1], part) for name, part in before.items())


def test_what_does_not_hold_is_refused_by_the_constructor(ranks):
    refused = {
        "Exchange('3cl')": "did you mean '3lc'",
        "Exchange(aggregate='krumm')": "did you mean 'krum'",
        "Exchange(aggregate='bulyan', f=1)": "bulyan tolerates f=1 only with n >= 7",
        "Exchange(route='blueconnect')": "route 'blueconnect' is unknown",
    }
    for found, part in zip(ranks(2, *refused), refused.values(), strict=True):
        for left in found:
            assert part in left["error"]
