"""What stands in for lost values, and what rules make of it."""

import pytest
import torch

from drivetrain.base.errors import InvalidValue
from drivetrain.comm.aggregate import get
from drivetrain.comm.transport.udp.loss import Fill

VALUES = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 9.0, 7.0, 9.0], [9.0, 9.0, 9.0, 9.0]])  # 9: memory of nobody's
MASK = torch.tensor([[True] * 4, [True, False, True, False], [False] * 4])


def fill(policy: str, values=VALUES, mask=MASK):
    return Fill(policy)(values.clone(), mask)


def test_mask_leaves_the_choice_to_the_rule():
    values, mask = fill("mask")
    assert torch.equal(mask, MASK)
    assert torch.equal(values, torch.tensor([[1.0, 2, 3, 4], [5, 0, 7, 0], [0, 0, 0, 0]]))


def test_zero_is_not_what_lay_in_memory_and_a_missing_rank_stays_missing():
    values, mask = fill("zero")
    assert values[1].tolist() == [5.0, 0.0, 7.0, 0.0]
    assert mask.all(1).tolist() == [True, True, False]
    assert not mask[2].any()


def test_drop_takes_a_vector_with_any_loss_for_missing():
    _, mask = fill("drop")
    assert mask.all(1).tolist() == [True, False, False]
    assert not mask[1:].any()


def test_random_is_as_large_as_what_came():
    values = torch.full((1, 20_000), 3.0)
    mask = torch.arange(20_000)[None] % 2 == 0
    filled, left = Fill("random", seed=4)(values.clone(), mask)
    assert left is None
    noise = filled[~mask]
    assert noise.mean().item() == pytest.approx(0, abs=0.15)
    assert noise.std().item() == pytest.approx(3, rel=0.05)
    assert torch.equal(filled, Fill("random", seed=4)(values.clone(), mask)[0]), "the same seed, the same noise"


def test_stale_takes_the_last_value_of_the_same_rank_and_place():
    policy = Fill("stale")
    values, mask = policy(VALUES.clone(), MASK)
    assert torch.equal(mask, MASK), "nothing older yet"
    later = torch.tensor([[10.0, 20.0, 30.0, 40.0]] * 3)
    came = torch.tensor([[False, True, True, True], [False, True, False, False], [True, True, True, True]])
    values, mask = policy(later.clone(), came)
    assert values[0].tolist() == [1.0, 20.0, 30.0, 40.0]
    assert values[1].tolist() == [5.0, 20.0, 7.0, 0.0]
    assert mask.tolist() == [[True] * 4, [True, True, True, False], [True] * 4]
    values, mask = policy(later.clone(), torch.tensor([[False] * 4, [True] * 4, [True] * 4]))
    assert not mask[0].any(), "a rank of which nothing came is missing, not repeated"


@pytest.mark.parametrize("policy", ["mask", "zero", "drop", "random", "stale"])
def test_without_loss_nothing_changes(policy):
    values, mask = fill(policy, mask=None)
    assert mask is None and torch.equal(values, VALUES)


def test_an_unknown_policy_names_the_nearest():
    with pytest.raises(InvalidValue, match="loss 'mas' is unknown") as error:
        Fill("mas")
    assert "mask" in str(error.value)


def lossy(n: int, d: int, share: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    g = 1 + 0.1 * torch.randn(n, d, generator=generator)
    return g, torch.rand(n, d // 50, generator=generator).repeat_interleave(50, 1) >= share


def test_the_median_counts_what_came_in_each_coordinate():
    """With 2 of 5 lost, the median is of the 3 that came, not of 3 and two zeros."""
    g = torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0], [40.0, 40.0], [50.0, 50.0]])
    mask = torch.tensor([[True, True], [True, True], [True, True], [False, True], [False, True]])
    values, seen = Fill("mask")(g, mask)
    assert get("median")(values, 1, mask=seen).tolist() == [2.0, 3.0]


@pytest.mark.parametrize("rule", ["multi-krum", "krum", "bulyan", "mda"])
def test_distance_rules_compare_common_coordinates_and_still_see_the_attacker(rule):
    """A vector with losses must not look near because fewer terms are summed: distances are scaled to all of d."""
    n, f = 11, 2
    g, mask = lossy(n, 2000, 0.3)
    g[4] += 1.0
    info: dict = {}
    values, seen = Fill("mask")(g.clone(), mask)
    result = get(rule)(values, f, mask=seen, info=info)
    assert float(torch.atleast_2d(info["weights"])[:, 4].max()) == 0
    assert (result - 1).abs().max() < 0.5
    whole = torch.cdist(g.double(), g.double()).square()
    off = ~torch.eye(n, dtype=torch.bool)
    assert torch.allclose(info["sqdist"][off], whole[off], rtol=0.25)


@pytest.mark.parametrize("rule", ["multi-krum", "median", "trimmed-mean", "bulyan"])
def test_a_rank_that_sent_nothing_is_one_of_the_faulty(rule):
    g, mask = lossy(11, 500, 0.1)
    mask[3] = False
    values, seen = Fill("mask")(g, mask)
    info: dict = {}
    result = get(rule)(values, 2, mask=seen, info=info)
    assert torch.isfinite(result).all() and (result - 1).abs().max() < 0.5
    assert info["lost_share"][3] == 1
