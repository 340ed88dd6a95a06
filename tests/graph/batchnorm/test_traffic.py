"""The traffic model: known answers of spec 19, 2.3 and 2.4."""

import pytest
import torch

from drivetrain import nets
from drivetrain.base.errors import InvalidValue
from drivetrain.graph.batchnorm import sweeps, traffic


def test_sweeps_of_an_edge():
    assert [sweeps(level) for level in ("baseline", "rcf", "mvf", "bnff")] == [(8, 12), (6, 10), (5, 10), (2, 7)]
    assert sum(sweeps("baseline")) == 20 and sum(sweeps("bnff")) == 9


def test_densenet121():
    model = nets.densenet121()
    before = {name: value.clone() for name, value in model.named_buffers()}
    found = traffic(model, (1, 3, 224, 224))
    assert len(found.rows) == 121 and found.composite_layers == 58
    assert round(found.edge_bytes / 1e6, 1) == 59.3
    assert round(found.shared_bytes / 1e6, 1) == 42.0
    assert round(found.distinct_bytes / 1e6, 1) == 5.8
    assert found.step_bytes("bnff") * 20 == found.step_bytes() * 9
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.named_buffers())


def test_bytes_are_linear_in_the_batch_and_the_dtype():
    model = nets.densenet_small()
    one = traffic(model, (1, 3, 32, 32)).edge_bytes
    assert traffic(model, (8, 3, 32, 32)).edge_bytes == 8 * one


def test_bad_input():
    with pytest.raises(InvalidValue, match="bnfff"):
        sweeps("bnfff")
    with pytest.raises(InvalidValue, match=r"does not take an input of shape \[1, 4, 32, 32\]"):
        traffic(nets.densenet_small(), (1, 4, 32, 32))
