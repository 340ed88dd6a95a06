"""Averaging between real processes: section 5, items 2, 4, 5, 6, 7, and what happens when a rank fails."""

import pytest
import torch

from . import ranks


def same(a, b) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_period_one_is_synchronous_sgd(tmp_path):
    for found in ranks.run("synchronous", tmp_path):
        for ours, alone in zip(found["model"], found["alone"], strict=True):
            torch.testing.assert_close(ours, alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("world", [2, 3])
def test_all_ranks_hold_the_same_bits_and_the_mean_is_kept(tmp_path, world):
    found = ranks.run("identical", tmp_path, world)
    for name in found[0]:
        shared = [rank[name]["shared"] for rank in found]
        assert all(same(shared[0], other) for other in shared), f"{name}: ranks differ"
        if name in ("plain", "average", "keep", "weights", "steps", "adam"):
            for rank in found:
                torch.testing.assert_close(rank[name]["moved"], rank[name]["mean"], rtol=1e-5, atol=1e-6)
    assert found[0]["average"]["bytes"] > 1.6 * found[0]["plain"]["bytes"], "momentum travels too"
    assert found[0]["outer"]["moved"].norm() > found[0]["plain"]["moved"].norm()


def test_block_momentum_outer_sgd_and_plain_averaging_are_one_update(tmp_path):
    for found in ranks.run("momentum_forms", tmp_path):
        assert same(found["plain"], found["beta 0"])
        for ours, plain in zip(found["outer lr 1"], found["plain"], strict=True):
            torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-7)
        assert same(found["block 0.4"], found["outer 0.4"])
        assert not same(found["block 0.4"], found["plain"])


def test_one_clock_decides_for_all(tmp_path):
    one, two = ranks.run("decisions", tmp_path)
    assert one["taus"] == two["taus"] and one["syncs"] == two["syncs"] and one["loss"] == two["loss"]
    assert one["taus"] == sorted(one["taus"], reverse=True) and one["taus"][-1] < one["taus"][0] == 8
    assert one["y"] == pytest.approx(3.0), "Y is the slowest rank's"
    gaps = [b - a for a, b in zip([0, *one["syncs"]], one["syncs"], strict=False)]
    assert gaps == [8, *(one["taus"][step - 1] for step in one["syncs"][:-1])], "the period counts from the last one"


def test_a_run_saved_in_mid_period_goes_on_bit_for_bit(tmp_path):
    for found in ranks.run("resume", tmp_path):
        for name, (whole, resumed) in found.items():
            assert same(whole[0], resumed[0]), name
            assert whole[1:] == resumed[1:], name


def test_a_delayed_averaging_keeps_the_steps_made_meanwhile(tmp_path):
    one, two = ranks.run("delayed", tmp_path)
    for found in (one, two):
        torch.testing.assert_close(found["model"], found["wanted"], rtol=1e-5, atol=1e-6)
    assert torch.equal(one["anchor"], two["anchor"])


def test_nan_on_one_rank_is_left_out_and_healed(tmp_path):
    one, two = ranks.run("broken", tmp_path)
    assert one["excluded"] == two["excluded"] == (1,)
    assert torch.equal(one["model"], two["model"]) and torch.isfinite(one["model"]).all()
    torch.testing.assert_close(one["model"], one["kept"], rtol=1e-6, atol=1e-7)


def test_ranks_refuse_together_and_say_what(tmp_path):
    one, two = ranks.run("refusals", tmp_path)
    assert "parameter 'weight' is float32 [4, 3] on rank 0" in one["shapes"] and "[5, 3] on rank 1" in two["shapes"]
    assert "delay is 1 on rank 1, 0 on rank 0" in one["options"] and one["options"] == two["options"]
    assert "wanted 0 or more" in one["weights"]
    assert "krum tolerates f=1 only with n >= " in one["krum"]
    assert "need a robust aggregator" in one["f"]
    assert "answered tau=0.5, wanted a whole number" in one["rule"] and "rule failed on rank 0" in two["rule"]
    assert "the first loss is 1, f_inf is 3" in one["f_inf"] and "rule failed on rank 0" in two["f_inf"]
    assert "have done [0, 1] averagings" in one["out of step"] and one["out of step"] == two["out of step"]
    assert "drain() does not go with an aggregator" in one["drain"]


def test_a_rank_that_leaves_is_named(tmp_path):
    found = ranks.run("leaves", tmp_path)[0]
    assert found["ranks"] == [1] and "step 8" in found["error"] and "missing: rank 1" in found["error"]
    assert found["anchor kept"]


def test_two_levels(tmp_path):
    found = ranks.run("levels", tmp_path, 4)
    assert same(found[0]["inside"], found[1]["inside"]) and same(found[2]["inside"], found[3]["inside"])
    assert not same(found[0]["inside"], found[2]["inside"])
    assert all(same(found[0]["everywhere"], other["everywhere"]) for other in found)
    assert [rank["rows"] for rank in found] == [1] * 4


def test_ranks_whose_data_ended_join_until_all_have(tmp_path):
    found = ranks.run("uneven", tmp_path, 3)
    for name in ("plain", "steps", "delay"):
        of_ranks = [rank[name] for rank in found]
        assert all(same(of_ranks[0]["ended"], other["ended"]) for other in of_ranks), name
        assert len({each["syncs"] for each in of_ranks}) == 1, name
        assert sum(of_ranks[0]["steps"]) == 5 + 4 and sum(of_ranks[1]["steps"]) == 11 + 4, name
    assert same(found[0]["plain"]["model"], found[2]["plain"]["model"])


def test_a_rank_without_steps_does_not_hold_the_mean_back(tmp_path):
    one, two = ranks.run("alone_counts", tmp_path)
    assert torch.equal(one["model"], two["model"]) and not torch.equal(one["own"], two["own"])
    torch.testing.assert_close(one["model"], two["own"], rtol=1e-6, atol=1e-7)


def test_fast_ranks_do_more_steps_of_a_period(tmp_path):
    one, two = ranks.run("balance", tmp_path)
    assert one["steps"] == [4, 12, 12, 12] and two["steps"] == [4, 4, 4, 4]
    assert same(one["model"], two["model"])


def test_the_sync_slot_of_an_exchange(tmp_path):
    found = ranks.run("prepared", tmp_path, 3)
    for name in ("raw", "3lc", "median"):
        models = [model for rank in found for model in rank[name]["models"]]
        assert all(same(models[0], other) for other in models), name
    assert found[0]["3lc"]["bytes"] < found[0]["raw"]["bytes"]


def test_compressed_and_robust_averaging_train_the_digits(tmp_path):
    pytest.importorskip("sklearn")
    found = ranks.run("digits", tmp_path, 3)
    for name in found[0]:
        assert all(same(found[0][name]["model"], other[name]["model"]) for other in found), f"{name}: ranks differ"
    loss = {name: each["loss"] for name, each in found[0].items()}
    sent = {name: sum(rank[name]["bytes"] for rank in found) for name in found[0]}
    assert loss["plain"] < 0.35 and loss["3lc"] < 1.25 * loss["plain"], loss
    assert sent["plain"] > 10 * sent["3lc"], sent
    assert loss["median"] < 0.5, loss
    assert loss["median 3lc"] < 1.2, loss  # slower: the median of three mostly-zero ternary values is mostly zero
    assert not loss["undefended"] < 2, loss
