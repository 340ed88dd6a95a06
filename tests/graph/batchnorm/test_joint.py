"""The pass over joint graphs: same gradients, what is kept, each feature swept once, edges that don't pay."""

import copy

import pytest
import torch
from torch import nn

from drivetrain import nets
from drivetrain.base.errors import InvalidValue
from drivetrain.graph.backend import compile_flat
from drivetrain.graph.batchnorm import choose, kernel
from drivetrain.graph.cost import CostTable, Measured

from .test_patch import relative

ROWS = torch.channels_last
pytestmark = pytest.mark.skipif(kernel.load() is None, reason="no C++ compiler")


def compiled(model, bn="always"):
    """The model through the backend, and the graphs it made."""
    graphs = {}

    def backend(module, inputs):
        return compile_flat(module, inputs, {"bn": bn, "then": "eager"}, watch=lambda kind, g: graphs.update({kind: g}))

    torch._dynamo.reset()
    return torch.compile(model, backend=backend), graphs


def targets(graph):
    return [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("make", [lambda: nets.densenet_small(depths=(2, 1, 1)), lambda: nets.CifarResNet(8)])
@pytest.mark.parametrize(
    ("level", "layout"),
    [
        ("always", torch.contiguous_format),
        *[(level, torch.channels_last) for level in ("stats_reuse", "rcf", "mvf", "bnff")],
    ],
)
def test_same_training(make, level, layout):
    torch.manual_seed(0)
    model = make().train().to(memory_format=layout)
    exact, ours = copy.deepcopy(model).double(), copy.deepcopy(model)
    run, graphs = compiled(ours, level)
    x = torch.randn(4, 3, 32, 32).to(memory_format=layout)
    run(x).square().sum().backward()
    exact(x.double()).square().sum().backward()
    for a, b in zip(ours.parameters(), exact.parameters(), strict=True):
        assert relative(a.grad, b.grad) < 1e-3
    for key, value in exact.named_buffers():
        torch.testing.assert_close(dict(ours.named_buffers())[key].double(), value.double(), rtol=1e-4, atol=1e-5)
    fused = [target for target in targets(graphs["forward"]) if "drivetrain.bn_relu" in target]
    backward = targets(graphs["backward"])
    assert len(fused) >= 7 and ("drivetrain.bn_relu_conv_backward.default" in backward) == (level in ("always", "bnff"))
    assert ("aten.batch_norm_update_stats.default" in targets(graphs["forward"])) == (level == "rcf")
    assert ("aten.threshold_backward.default" in backward) == (level == "stats_reuse")


def test_what_is_kept_and_what_is_swept():
    """Three layers of a dense block: no activation is saved but inputs of batch norms, no feature swept twice."""
    block = nn.Sequential(*[nets.densenet.DenseLayer(8 + 4 * i, 4) for i in range(3)])
    run, graphs = compiled(block)
    run(torch.randn(2, 8, 8, 8)).sum().backward()
    forward, backward = graphs["forward"], graphs["backward"]
    assert not any(
        "relu.default" in target or "batch_norm" in target for target in targets(forward) + targets(backward)
    )
    # x, and nothing else: the convolutions that write a feature give its statistics.
    assert targets(forward).count("drivetrain.bn_stats.default") == 1
    (output,) = [node for node in forward.graph.nodes if node.op == "output"]
    saved = {node for node in output.args[0] if isinstance(node, torch.fx.Node) and node.meta["val"].dim() == 4}
    features = {node for node in saved if node.meta["val"].shape[0] == 2}
    assert len(features) <= 7  # the block's result; x, two concatenations, three results of 1x1 convolutions


def test_an_edge_that_does_not_pay_stays(monkeypatch):
    monkeypatch.setattr(choose, "fastest_of", lambda *forms, **_: [Measured(1.0, 1, 0.0), Measured(1.0, 1, 0.0)])
    monkeypatch.setattr(choose, "default_path", lambda: None)
    run, graphs = compiled(nets.CifarResNet(8), bn="auto")
    run(torch.randn(2, 3, 16, 16)).sum().backward()
    assert not any("drivetrain" in target for target in targets(graphs["forward"]))


def test_an_edge_is_measured_once(tmp_path):
    table = CostTable(tmp_path / "costs.json")
    chooser = choose.Chooser(table)
    shape = ([8, 4, 1, 1], [1, 1], [0, 0], [1, 1], 1)
    first = chooser.decide("edge", [2, 4, 8, 8], shape, False)
    chooser.save()
    assert table.path.exists()
    again = choose.Chooser(CostTable(tmp_path / "costs.json"))
    assert again.decide("edge", [2, 4, 8, 8], shape, False) == first and again.table.added == 0


def test_another_level_is_refused():
    with pytest.raises((InvalidValue, torch._dynamo.exc.BackendCompilerFailed), match="alwasy"):
        compiled(nets.CifarResNet(8), bn="alwasy")[0](torch.randn(2, 3, 16, 16))
