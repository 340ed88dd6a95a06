"""A whole module through capture, rules, search, lowerings, check and comparison."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from drivetrain import nets
from drivetrain.base.errors import DrivetrainError
from drivetrain.graph import lowering
from drivetrain.graph.capture import Program, capture
from drivetrain.graph.cost import Cost, CostTable
from drivetrain.graph.rewrite import RULES, Objective, Rule, optimize, to_html
from drivetrain.graph.rewrite.convert import to_fx
from drivetrain.graph.rewrite.fused import CONV, aten
from drivetrain.graph.rewrite.price import Pricer, flops

from .programs import Program as Small
from .programs import conv, terms, x


@pytest.fixture
def table(tmp_path):
    return CostTable(tmp_path / "costs.json")


def test_a_network_becomes_no_slower_and_stays_what_it_was(table):
    model = nets.build("small_cnn", seed=0).eval()
    image = torch.randn(2, 3, 32, 32)
    result = optimize(model, (image,), table=table, then="onednn", rounds=3)
    assert {"fold-batch-norm", "fuse-activation"} <= {step.rule for step in result.steps}
    assert result.measured[result.then].ratio(result.measured["original"]) <= 1
    with torch.no_grad():
        assert torch.allclose(result.module(image), model(image), atol=1e-5)
    assert "fold-batch-norm" in to_html(result, "small_cnn")


def test_the_rewritten_program_is_plain_aten_and_goes_to_a_file(table, tmp_path):
    model = nets.build("small_cnn", seed=0).eval()
    image = torch.randn(1, 3, 32, 32)
    program = optimize(model, (image,), table=table, then="eager", rounds=2).program()
    program.save(tmp_path / "small.pt2")
    loaded = Program.load(tmp_path / "small.pt2")
    assert not any("drivetrain" in str(node.target) for node in loaded.module.graph.nodes)
    assert not any("batch_norm" in str(node.target) for node in loaded.module.graph.nodes)
    with torch.no_grad():
        assert torch.allclose(loaded(image), model(image), atol=1e-5)
    again = optimize(loaded, table=table, then="eager", rounds=2)
    assert not {"fold-batch-norm"} & {step.rule for step in again.steps}


def test_products_over_time_are_one(table):
    model = nets.build("sru_classifier", seed=0, vocabulary=50, hidden=32).eval()
    tokens = torch.randint(0, 50, (2, 6))
    result = optimize(model, (tokens,), table=table, then="eager", rounds=2)
    names = [step.rule for step in result.steps]
    assert "batch-over-time" in names
    with torch.no_grad():
        assert torch.allclose(result.module(tokens), model(tokens), atol=1e-6)


class Wrong(Rule):
    """Says that a ReLU is nothing."""

    name, number, says, needs, always = "wrong", "R0", "relu(x) = x", "nothing", True

    def find(self, graph, anchor):
        if anchor.op is aten.relu.default:
            yield {anchor: anchor.args[0]}


def test_a_wrong_rule_is_found_out_and_the_original_returned(table):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval()
    result = optimize(model, (torch.randn(3, 4),), rules=[Wrong()], table=table, then="eager", rounds=2)
    assert result.then == "original" and "outputs differ" in result.refused["eager"]


def broken(graph, state):
    raise RuntimeError("no such kernel\nand more")


def test_a_lowering_that_fails_is_named_and_the_others_go_on(table, monkeypatch):
    monkeypatch.setitem(lowering.LOWERINGS, "onnxruntime", lowering.Registered("", f"{__name__}:broken"))
    result = optimize(nn.Linear(3, 3).eval(), (torch.randn(2, 3),), table=table, rounds=2)
    assert result.refused["onnxruntime"] == "RuntimeError: no such kernel"
    assert {"original", "eager"} <= set(result.measured)


def test_keyword_arguments_and_nested_results_keep_their_form(table):
    class Model(nn.Module):
        def forward(self, a, *, b):
            return {"sum": a + b["c"], "both": (a, [b["c"] * 2])}

    a, c = torch.randn(2, 3), torch.randn(2, 3)
    result = optimize(Model().eval(), (a,), {"b": {"c": c}}, table=table, then="eager", rounds=2)
    out = result.module(a, b={"c": c})
    assert torch.equal(out["sum"], a + c) and torch.equal(out["both"][1][0], c * 2)


def test_costs_by_other_measures_need_no_clock(table):
    model = nets.build("small_cnn", seed=0).eval()
    result = optimize(model, (torch.randn(1, 3, 32, 32),), cost="flops", table=table, then="eager", rounds=2)
    assert not table.times and result.cost_after.flops <= result.cost_before.flops > 0


def test_limits_leave_out_what_is_above_them():
    assert Objective("time", (("bytes", 10.0),)).of(Cost(1.0, 0, 11.0, 1)) == float("inf")
    assert Objective("launches").of(Cost(1.0, 0, 11.0, 3)) == 3


def test_operations_are_counted(table):
    graph, _ = terms(Small(lambda m, v: F.relu(m.c(v)), c=conv(4, 6, 3)), x(2, 4, 9, 9))
    (node,) = [node for node in graph.order if node.op is CONV]
    assert flops(node) == 2 * (2 * 6 * 7 * 7) * 4 * 9
    assert Pricer(table, measured=False).graph(graph).launches == 1


def test_the_table_is_kept_and_checked(table, tmp_path):
    table.time("add", lambda: None)
    table.save()
    again = CostTable(tmp_path / "costs.json")
    assert again.times == table.times
    (tmp_path / "costs.json").write_text((tmp_path / "costs.json").read_text().replace('"threads": ', '"threads": 9'))
    with pytest.raises(DrivetrainError, match="was measured with threads"):
        CostTable(tmp_path / "costs.json")
    (tmp_path / "costs.json").write_text("{}")
    with pytest.raises(DrivetrainError, match="is no cost table"):
        CostTable(tmp_path / "costs.json")


def test_bad_input(table):
    linear, value = nn.Linear(3, 3).eval(), (torch.randn(2, 3),)
    with pytest.raises(DrivetrainError, match="training mode"):
        optimize(nn.Linear(3, 3), value)
    for options, found in (
        ({"then": "onednnn"}, "onednn"), ({"rules": "all"}, "rules"), ({"cost": "tim"}, "time"),
        ({"alpha": 0}, "alpha"),
    ):  # fmt: skip
        with pytest.raises(DrivetrainError) as error:
            optimize(linear, value, table=table, **options)
        assert found in f"{error.value} {error.value.hint}"
    with pytest.raises(DrivetrainError, match="writes"):
        optimize(capture(nn.BatchNorm1d(3).train(), value), table=table)
    searched = optimize(linear, value, table=table, then="eager", rounds=2).searched
    with pytest.raises(DrivetrainError, match="called with"):
        searched.build(searched.forms[0], to_fx, channels_last=False)(value[0], value[0])


def test_every_rule_explains_itself():
    assert all(rule.says and rule.needs and rule.number for rule in RULES)
    assert len({rule.name for rule in RULES}) == len(RULES)


def test_an_lstm_is_also_tried_whole(table):
    """Capturing takes it apart into steps; onnxruntime has it as one operator."""
    if lowering.lacks("onnxruntime"):
        pytest.skip("needs onnxruntime")

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(4, 5, batch_first=True)

        def forward(self, x, state):
            out, state = self.lstm(x, state)
            return {"out": out, "state": state}

    model, x, state = Model().eval(), torch.randn(1, 6, 4), (torch.randn(1, 1, 5), torch.randn(1, 1, 5))
    result = optimize(model, (x, state), table=table, then="onnxruntime", rounds=2, cost="launches")
    assert {"original", "onnxruntime as given", "onnxruntime"} <= set(result.measured), result.refused
    module = {label: build for label, _, build in result.searched}["onnxruntime as given"]()
    with torch.no_grad():
        expected, got = model(x, state), module(x, state)
    assert torch.allclose(expected["out"], got["out"], atol=1e-6)
    assert torch.allclose(expected["state"][1], got["state"][1], atol=1e-6)


def test_a_result_rewritten_again_stays_the_same(table):
    """Idempotent: nothing is left that the search would change."""
    model = nets.build("small_cnn", seed=0).eval()
    first = optimize(model, (torch.randn(1, 3, 32, 32),), table=table, then="eager", rounds=2, cost="launches")
    again = optimize(first.program(), table=table, then="eager", rounds=2, cost="launches")
    assert [str(node.op) for node in again.searched.forms[-1].order if not node.constant] == [
        str(node.op) for node in first.searched.forms[-1].order if not node.constant
    ]
    assert {step.rule for step in again.steps} <= {"fuse-activation", "fuse-residual"}
    assert again.cost_after == first.cost_after
