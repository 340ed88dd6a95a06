"""What goes wrong on one rank is told on all of them, by name, and nobody hangs."""

import pytest


@pytest.mark.parametrize("form", ["prepare", "attach"])
def test_a_rank_that_is_not_finite_is_named_with_parameter_count_and_step_on_all_ranks(ranks, form):
    raised, skipped, borne = ranks(
        3, f"broken({form!r}, topology='sharded')", f"broken({form!r}, on_nonfinite='skip')", f"broken({form!r}, f=1)"
    )
    for left in raised:
        assert left["type"] == "NonFiniteGradient"
        assert "parameter '0.weight' has 3 non-finite values on rank 1 (step " in left["error"]
        assert left["same_model"]
    for left in skipped:
        assert "error" not in left
        assert left["skipped"] == 1
        assert left["same_model"], "no rank steps, momentum included"
        assert left["moved"] < 1e-6, "what the codecs held back is as it was"
    for left in borne:
        assert "error" not in left and left["finite"] and left["skipped"] == 0
    for found in (raised, skipped, borne):
        assert len({left["digest"] for left in found}) == 1


@pytest.mark.parametrize(("form", "how"), [("prepare", "kill"), ("attach", "kill"), ("prepare", "exit")])
def test_a_rank_that_is_gone_is_named_with_the_step(ranks, form, how):
    left = ranks(3, f"dies({form!r}, {how!r})", dead=(2,))
    for found in left[:2]:
        assert found["type"] == "RunFailed"
        assert "rank 2" in found["error"], found["error"]
        assert "exchange 3" in found["error"] or form == "attach" or how == "exit"
        assert found["seconds"] < 25


def test_a_corrupted_message_is_a_wire_error_at_its_reader_and_told_to_the_others(ranks):
    first, others = (found := ranks(3, "corrupted()"))[0], found[1:]
    assert first["type"] == "WireError"
    assert "rank 1 sent a broken message" in first["error"]
    for left in others:
        assert left["type"] == "RunFailed"
        assert "rank 0 could not aggregate its part of exchange 1" in left["error"]
        assert "rank 1 sent a broken message" in left["error"]


def test_a_corrupted_payload_names_the_parameter(ranks):
    left = ranks(3, "corrupted(byte=21)")[0]  # in the first scale of the first slice
    assert "'weight'" in left.get("error", "'weight'")


def test_without_a_pull_stage_the_others_are_told_too(ranks):
    first, *others = ranks(3, "corrupted('allgather')")
    assert first["type"] == "WireError"
    for left in others:
        assert left["type"] == "RunFailed"
        assert "rank 0" in left["error"] and "WireError" in left["error"]


def test_a_robust_rule_takes_a_corrupted_message_for_a_faulty_vector(ranks):
    left = ranks(3, "corrupted(f=1, aggregate='trimmed-mean')")
    assert "error" not in left[0]
    assert left[0]["values"] == left[1]["values"] == left[2]["values"]


def test_an_error_in_the_talking_thread_surfaces_on_all_ranks_with_its_own_message(ranks):
    left = ranks(3, "bug_on_one_rank()")
    for found in left:
        assert "the codec of rank 1 gave up" in found["error"], found["error"]
