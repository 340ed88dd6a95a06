"""Rules of the user's own: a few lines, checked like ours; what raises or is wrong is named and does no harm."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import drivetrain.graph
from drivetrain.base.errors import InvalidValue
from drivetrain.graph.cost import CostTable
from drivetrain.graph.rewrite import RULES, Rule, check, optimize, read_rules, rewrite_training, rule, verify_rules
from drivetrain.graph.rewrite.fused import aten

X = torch.randn(3, 4)


@rule("relu-twice")
def relu_twice(graph, node):
    """relu(relu(x)) = relu(x)"""
    if node.op is aten.relu.default and node.args[0].op is aten.relu.default:
        return node.args[0]


@rule("double-as-sum", says="2 x = x + x")
def double_as_sum(graph, node):
    if node.op is aten.mul.Tensor and node.args[1] == 2.0:
        yield {node: graph.arena.call(aten.add.Tensor, node.args[0], node.args[0])}


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return F.relu(F.relu(self.linear(x) * 2.0))


def run(rules, model=None, **options):
    options = {"table": CostTable(None), "then": "eager", "rounds": 2, "cost": "launches", **options}
    return optimize(model or Model().eval(), (X,), rules=rules, **options)


def names(result):
    return {step.rule: step.times for step in result.steps}


def draw_relu(draw):
    call = draw.arena.call
    return draw.graph(call(aten.relu.default, call(aten.relu.default, draw.input(draw.number(1, 5), 3))))


def test_a_rule_of_a_few_lines_is_searched_with_ours():
    result = run([*RULES, relu_twice])
    assert names(result)["relu-twice"] == 1 and result.ok and not result.failures
    (step,) = [step for step in result.steps if step.rule == "relu-twice"]
    assert step.gains == (1.0,) and "relu -> [3, 4]" in step.where[0] and "test_own_rules.py" in step.where[0]
    assert [node.op for node in result.searched.forms[-1].order].count(aten.relu.default) == 1


def test_a_rule_may_be_always_applied_and_yield_mappings():
    result = run([rule("r", always=True)(relu_twice.finder)])
    assert names(result) == {"r": 1} and result.steps[0].gains == ()
    assert names(run([double_as_sum], cost="flops")) == {}  # no gain, so the search leaves it


def test_a_rule_is_checked_by_itself():
    assert drivetrain.graph.rule is rule and drivetrain.graph.check is check
    report = check(relu_twice, sample=draw_relu, trials=3)
    assert report.ok and report.trials == 3
    assert relu_twice.says == "relu(relu(x)) = relu(x)" and relu_twice.exact and "random" in relu_twice.proof
    assert not rule("about", exact=False)(lambda graph, node: None).exact


def test_all_that_the_specification_names_is_there():
    for name in (
        "RULES", "PatternRule", "Report", "Rule", "check", "optimize", "read_rules", "rewrite_training", "rule",
        "verify_rules", "OptimizeResult", "CostTable",
    ):  # fmt: skip
        assert getattr(drivetrain.graph, name) is not None and name in dir(drivetrain.graph), name
    assert callable(read_rules) and callable(rewrite_training) and callable(verify_rules)


def test_every_rule_says_what_proves_it():
    assert all("z3" in rule.proof for rule in RULES)


@rule("raises")
def raises(graph, node):
    """Goes wrong in the middle of its work."""
    if node.op is aten.relu.default:
        graph.arena.call(aten.mul.Tensor, node, 3.0)
        raise KeyError("no such thing\nat all")


@rule("reshapes")
def reshapes(graph, node):
    if node.op is aten.relu.default:
        return graph.arena.call(aten.reshape.default, node.args[0], (4, 3))


@pytest.mark.parametrize("always", [False, True])
@pytest.mark.parametrize(
    ("bad", "told"), [(raises, "KeyError: 'no such thing"), (reshapes, r"torch.float32 [3, 4], by ")]
)
def test_a_rule_that_fails_is_left_out_and_told(bad, told, always):
    failing = rule(bad.name, always=always)(bad.finder)
    result = run([failing, *RULES, relu_twice])
    assert told in result.failures[bad.name] and set(result.failures) == {bad.name}
    assert result.ok and bad.name not in names(result) and names(result)["relu-twice"] == 1
    if bad is raises:
        assert "test_own_rules.py:" in result.failures[bad.name]
    with torch.no_grad():
        assert torch.equal(result.module(X), result.module(X))


class Wrong(Rule):
    """Says that a ReLU is nothing."""

    name, number, says, needs = "wrong", "R0", "relu(x) = x", "nothing"

    def find(self, graph, anchor):
        if anchor.op is aten.relu.default:
            yield {anchor: anchor.args[0]}


@pytest.mark.parametrize("always", [False, True])
@pytest.mark.parametrize("then", ["eager", "onednn"])
def test_a_wrong_rule_is_named_and_the_original_returned(always, then):
    wrong = Wrong()
    wrong.always = always
    model = Model().eval()
    result = run([*(rule for rule in RULES if rule.name != "fuse-activation"), wrong], model, then=then)
    assert result.wrong == ["wrong"] and not result.ok
    assert result.then == "original" and result.module is model and result.refused


def test_rules_that_undo_each_other_are_told():
    @rule("there", always=True)
    def there(graph, node):
        if node.op is aten.add.Tensor and node.args[0] is not node.args[1]:
            return graph.arena.call(aten.sub.Tensor, node.args[0], graph.arena.call(aten.neg.default, node.args[1]))

    @rule("back", always=True)
    def back(graph, node):
        if node.op is aten.sub.Tensor:
            return graph.arena.call(aten.add.Tensor, node.args[0], graph.arena.call(aten.neg.default, node.args[1]))

    class Sum(nn.Module):
        def forward(self, x):
            return x + x.sin()

    with pytest.raises(InvalidValue, match="came to no end"):
        run([there, back], Sum().eval())


def test_what_is_no_rule_is_refused():
    with pytest.raises(InvalidValue, match="is no rule"):
        run([relu_twice.finder])
    with pytest.raises(InvalidValue, match="needs a name"):
        rule("")
