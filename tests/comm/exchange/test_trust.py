"""Who aggregates: owners, one server, or everybody for himself; what is late or lost; who is left out."""

import pytest
import torch


@pytest.mark.parametrize("trust", ["server", "replicated", "sharded"])
def test_a_robust_rule_holds_wherever_it_runs(ranks, trust):
    krum, sparse = ranks(5, f"hostile({trust!r}, 'raw', 'multi-krum')", f"hostile({trust!r}, '3lc', 'multi-krum')")
    for left in (krum, sparse):
        assert len({rank["digest"] for rank in left}) == 1
        honest = left[0]["losses"]
        assert sum(honest[-5:]) < 0.9 * sum(honest[:5])
        assert max(left[0]["z"]) == left[0]["z"][1]


def test_where_the_rule_runs_does_not_change_what_it_gives(ranks):
    found = [ranks(4, f"same('raw', 'median', f=1, trust={trust!r}, steps=5)") for trust in ("sharded", "server")]
    found.append(ranks(4, "same('raw', 'median', f=1, trust='replicated', steps=5)"))
    assert len({left[0]["digest"] for left in found}) == 1


def test_a_rank_that_tells_ranks_different_things_is_named(ranks):
    borne, refused = ranks(4, "equivocates(1, 1)", "equivocates(1, 0)")
    assert len({tuple(left["digests"]) for left in borne}) == 1
    assert borne[0]["digests"][0] == borne[0]["digests"][2] != borne[0]["digests"][1]
    assert borne[0]["suspicion"] == [0, 1, 0, 0]
    assert "trusts them all" in refused[0]["error"]


def test_digests_name_the_two_faced_and_the_lying_witness():
    from drivetrain.comm.equivocation import digests, equivocators

    messages = [torch.full((5,), rank, dtype=torch.uint8) for rank in range(5)]
    honest = digests(messages)
    other = digests([messages[0] + 1, *messages[1:]])
    slander = digests([m + 9 for m in messages])
    assert equivocators([honest] * 5, 1) == []
    assert equivocators([honest, honest, other, honest, honest], 1) == [0]
    assert equivocators([honest, honest, honest, slander, honest], 1) == [3]


def test_what_is_late_counts_as_faulty_and_is_not_lost_by_its_codec(ranks):
    left = ranks(3, "over('late', '3lc', 'trimmed-mean', 1)")
    assert len({rank["digest"] for rank in left}) == 1
    assert left[0]["lost"][2] > 0 == left[0]["lost"][1]


def test_what_is_lost_is_masked(ranks):
    median, mean = ranks(4, "over('leaky', 'raw', 'median', 1)", "over('leaky', 'fp16', 'average-nan', 0)")
    for found in (median, mean):
        assert len({rank["digest"] for rank in found}) == 1, found
    assert median[0]["lost"][1] == pytest.approx((5 / 3 + 1) / 6, abs=0.02)
    assert torch.isfinite(torch.tensor(mean[0]["losses"])).all()


def test_quarantine_leaves_the_hostile_rank_out(ranks):
    rule = "__import__('drivetrain.comm.aggregate').comm.aggregate.Quarantine(after=5, z=3.0)"
    left = ranks(5, f"hostile('sharded', 'raw', 'multi-krum', steps=12, quarantine={rule})")
    assert [rank["quarantined"] for rank in left] == [[1]] * 5
    assert len({rank["digest"] for rank in left}) == 1


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_the_owners_optimizer_moves_parameters_as_everybodys_would(ranks, optimizer):
    """Two groups with rates of their own, and a schedule that changes them."""
    for left in ranks(2, f"delta({optimizer!r})"):
        assert torch.allclose(left["delta"]["flat"], left["gradient"]["flat"], atol=1e-6)
    compressed = ranks(3, f"delta({optimizer!r}, '3lc', steps=30)")
    assert len({left["delta"]["digest"] for left in compressed}) == 1
    losses = compressed[0]["delta"]["losses"]
    assert sum(losses[-5:]) < sum(losses[:5])


REFUSED = [
    ("Exchange(trust='replicated')", "f=0 trusts them all"),
    ("Exchange('3lc', 'median', f=1)", "most values of its messages are zero, so the median is zero too"),
    ("Exchange(trust='servr')", "did you mean 'server'"),
    ("Exchange(deadline_s=0.1)", "waits for every rank"),
    ("Exchange('3lc', transport=Leaky())", "worth nothing with a hole in it"),
    ("Exchange('raw', 'median', f=1, trust='replicated', transport=Leaky())", "a lossy transport makes differ"),
    ("Exchange(quarantine=True)", "quarantine leaves out up to f ranks, and f is 0"),
    ("Exchange('auto', 'median', f=1)", "may fall back to a plain all-reduce, which can't hold the rule median"),
    ("Exchange(pull='delta', topology='allgather')", "needs owners"),
    ("Exchange(topology='allgather', trust='server')", "topology=\"allgather\" is for trust=\"sharded\""),
    ("Exchange(sync='fixed:4', trust='server')", "trust='server' is for exchanges at every step"),
    ("Exchange(transport='upd')", "did you mean 'udp'"),
    ("Exchange(warmup_steps=-1)", "warmup_steps=-1, wanted a whole number"),
    ("Exchange(pull='delta').prepare(m := network(), torch.optim.LBFGS(m.parameters()))", "LBFGS may not bear"),
]  # fmt: skip


def test_parts_that_do_not_go_together_are_refused_with_the_reason(ranks):
    for found, (call, part) in zip(ranks(3, *(call for call, _ in REFUSED)), REFUSED, strict=True):
        for left in found:
            assert part in left.get("error", ""), (call, left)
