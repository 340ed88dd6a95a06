"""Distances keep their digits where vectors are long and lie close together, are huge, or tiny."""

import pytest
import torch

from drivetrain.comm.aggregate import MultiKrum, kernel
from drivetrain.comm.aggregate.distances import squared_distances, squared_distances_to
from drivetrain.comm.aggregate.rule import Round

from .cases import spread


@pytest.fixture(params=["kernel", "torch"])
def version(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(kernel, "load", lambda: None)
    return request.param


def exact(g):
    x = g.double()
    return (x[:, None] - x[None]).square().sum(2)


@pytest.mark.parametrize(
    "center, width", [(1e3, 1e-3), (0, 1), (1e-20, 1e-22), (0, 1e-30), (0, 1e25), (1e30, 1e25)], ids=str
)
def test_relative_error_is_small(center, width, version):
    """A Gram matrix of the vectors as they are has no right digit at mean 1e3 and spread 1e-3."""
    g = spread(6, 2000, seed=1, center=center, width=width)
    sqdist, _ = squared_distances(Round(g, 1))
    torch.testing.assert_close(sqdist, exact(g), rtol=1e-4, atol=0)


def test_a_hostile_far_vector_does_not_blur_the_others(version):
    g = spread(7, 2000, seed=2, width=1e-3)
    g[0] = 1e12
    g[3] = -1e12
    sqdist, _ = squared_distances(Round(g, 2))
    torch.testing.assert_close(sqdist, exact(g), rtol=1e-4, atol=0)


def test_colluding_copies_and_their_near_copies(version):
    g = spread(7, 2000, seed=3)
    g[0] = 50.0
    g[1] = g[0]
    g[2] = g[0] + 1e-3
    sqdist, _ = squared_distances(Round(g, 2))
    assert sqdist[0, 1] == 0
    torch.testing.assert_close(sqdist, exact(g), rtol=1e-4, atol=0)


def test_distances_to_a_point(version):
    g, point = spread(5, 1000, seed=4, center=1e3, width=1e-3), torch.full((1000,), 1e3)
    found, _ = squared_distances_to(Round(g, 1), point)
    torch.testing.assert_close(found, (g.double() - 1e3).square().sum(1), rtol=1e-6, atol=0)
    found, _ = squared_distances_to(Round(g, 1), None)
    torch.testing.assert_close(found, g.double().square().sum(1), rtol=1e-6, atol=0)


def test_select_takes_a_matrix_from_elsewhere():
    """The sharded layout sums partial matrices and asks the same question everywhere."""
    g = spread(9, 64, seed=5)
    parts = [squared_distances(Round(part.contiguous(), 2))[0] for part in g.split(16, dim=1)]
    info: dict = {}
    MultiKrum()(g, 2, info=info)
    assert torch.equal(MultiKrum().select(sum(parts), 2), info["weights"])
