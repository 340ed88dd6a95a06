"""Rewriting for training: original parameters, equal gradients and steps, and refusal of what would train otherwise."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from drivetrain import nets
from drivetrain.base.errors import InvalidValue
from drivetrain.graph.rewrite import RULES
from drivetrain.graph.rewrite.convert import NotRewritable
from drivetrain.graph.rewrite.rule import Rule
from drivetrain.graph.rewrite.training import TRAINING_RULES, rewrite_training

from .programs import BY_NAME


class Siblings(nn.Module):
    """Sibling convolutions of one and of two sizes, a residual, sums of convolutions, sibling products."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.c, self.d = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.p, self.q = nn.Linear(8, 5), nn.Linear(8, 3, bias=False)
        self.register_buffer("scale", torch.tensor(0.5), persistent=False)
        self.double()

    def forward(self, x):
        y = torch.cat([self.a(x), self.b(x)], 1)
        y = F.relu(self.norm(self.c(y) + self.d(x)) + y)
        z = y.mean((2, 3)) * self.scale
        return self.p(z), self.q(z).tanh()


def merging(*names):
    return [BY_NAME[name] for name in ("fuse-activation", "fuse-residual", *names)]


def everywhere(*names):
    """Rules that are applied wherever they fire, whatever they cost."""
    found = [copy.copy(rule) for rule in merging(*names)]
    for rule in found:
        rule.always = True
    return found


@pytest.mark.parametrize(
    "names", [("merge-convs", "merge-matmuls", "join-slices", "enlarge-kernel"), ("add-convs", "join-slices")]
)
def test_gradients_and_steps_are_the_originals(names):
    model, x = Siblings(), torch.randn(4, 3, 6, 6, dtype=torch.float64)
    twin = copy.deepcopy(model)
    fast = rewrite_training(model, (x,), rules=everywhere(*names), rounds=0)
    assert set(names) - {"join-slices"} <= set(fast.steps)
    assert list(fast.state_dict()) == list(twin.state_dict())
    assert all(ours is theirs for ours, theirs in zip(fast.parameters(), model.parameters(), strict=True))
    ours, theirs = (torch.optim.SGD(m.parameters(), 0.1, momentum=0.9) for m in (fast, twin))
    for step in range(3):
        batch = torch.randn(4, 3, 6, 6, dtype=torch.float64)
        for m, optimizer in ((fast, ours), (twin, theirs)):
            optimizer.zero_grad()
            p, q = m(batch)
            (p.square().sum() + q.sin().sum()).backward()
            if step < 2:
                optimizer.step()
    for (name, one), other in zip(fast.named_parameters(), twin.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-10), name
        assert torch.allclose(one.grad, other.grad, rtol=0, atol=1e-10), name
    for (name, one), other in zip(fast.named_buffers(), twin.buffers(), strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-10), name


def test_every_rule_keeps_gradients():
    """Both sides of each training rule, on random programs: gradients of a loss reach each weight alike."""
    from drivetrain.graph.rewrite.convert import to_fx
    from drivetrain.graph.rewrite.samples import SAMPLES, Draw, values

    for rule in TRAINING_RULES:
        graph = SAMPLES[rule.name](Draw(5))
        for change in rule.changes(graph):
            grads = []
            for program in (graph, graph.replace(change.new)):
                state, inputs = values(graph, 1)
                leaves = [value.requires_grad_() for value in (*state.values(), *inputs)]
                loss = sum(out.sin().sum() for out in to_fx(program, state)(*inputs))
                grads.append(torch.autograd.grad(loss, leaves, allow_unused=True))
            for one, other in zip(*grads, strict=True):
                one, other = (torch.zeros((), dtype=torch.float64) if g is None else g for g in (one, other))
                assert torch.allclose(one, other, rtol=0, atol=1e-10), rule.name


def test_a_recurrent_network_trains_alike():
    model = nets.build("sru_classifier", seed=0, vocabulary=50, hidden=16).double().train()
    tokens = torch.randint(0, 50, (3, 5))
    twin = copy.deepcopy(model)
    fast = rewrite_training(model, (tokens,), cost="launches", rounds=0)
    assert "batch-over-time" in fast.steps
    for m in (fast, twin):
        m(tokens).square().sum().backward()
    for one, other in zip(fast.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, rtol=0, atol=1e-10)


def test_evaluation_and_other_batches_run_the_original():
    model, x = Siblings(), torch.randn(4, 3, 6, 6, dtype=torch.float64)
    fast = rewrite_training(model, (x,), rules=merging("merge-matmuls"), cost="launches", budget=3, rounds=0)
    twin = copy.deepcopy(model)
    last = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    assert all(torch.equal(a, b) for a, b in zip(fast(last), twin(last), strict=True))
    fast.load_state_dict({name: value * 1.5 for name, value in twin.state_dict().items()})
    twin.load_state_dict({name: value * 1.5 for name, value in twin.state_dict().items()})
    fast.eval(), twin.eval()
    assert all(torch.equal(a, b) for a, b in zip(fast(x), twin(x), strict=True))
    assert copy.deepcopy(fast)(x)[0].shape == (4, 5)


class Detached(nn.Module):
    def __init__(self, run):
        super().__init__()
        self.a, self.run = nn.Linear(3, 3), run

    def forward(self, x):
        return self.run(self.a(x))


def without_gradients(y):
    with torch.no_grad():
        z = y * 2
    return y + z


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return -grad


@pytest.mark.parametrize("random", [False, True])
@pytest.mark.parametrize(
    ("run", "why"),
    [
        (lambda y: y.detach() * y, r"aten.detach.default stops gradients"),
        (without_gradients, "set_grad_enabled stops gradients"),
        (lambda y: Reversed.apply(y), r"the gradient of a\.weight is not"),
    ],
)
def test_code_that_stops_or_bends_gradients_is_refused(run, why, random):
    def with_dropout(y):
        return F.dropout(run(F.dropout(y, 0.1, True)), 0.1, True)

    with pytest.raises(NotRewritable, match=why):
        rewrite_training(Detached(with_dropout if random else run), (torch.randn(2, 3),), rules=merging())


def test_dropout_and_statistics_train():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 6), nn.Dropout(0.5), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.2), nn.Linear(6, 2)
    )
    x = torch.randn(8, 4)
    fast = rewrite_training(model, (x,), cost="launches", budget=3, rounds=0)
    before = torch.get_rng_state()
    rewrite_training(model, (x,), cost="launches", budget=3)
    assert torch.equal(before, torch.get_rng_state())  # the comparison leaves the program's own numbers alone
    mean = model[2].running_mean.clone()
    fast(x).square().sum().backward()
    assert all(value.grad is not None for value in model.parameters())
    assert not torch.equal(mean, model[2].running_mean)  # the original's own buffer is written


class Cut(Rule):
    """Right in inference, wrong in training."""

    name, number, says, needs, always = "cut", "R0", "relu(x) = relu(x), without its gradient", "nothing", True

    def find(self, graph, anchor):
        if anchor.op is torch.ops.aten.relu.default:
            yield {anchor: graph.arena.call(torch.ops.aten.threshold.default, anchor.args[0].args[0], 0, 0)}


def test_a_rule_with_another_gradient_is_found():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 3)

        def forward(self, x):
            return F.relu(self.a(x).neg())

    with pytest.raises(NotRewritable, match="is not what the original gives"):
        rewrite_training(Net(), (torch.randn(2, 3),), rules=[Cut()])


def test_bad_input():
    x = (torch.randn(4, 3, 6, 6, dtype=torch.float64),)
    with pytest.raises(InvalidValue, match="in evaluation mode"):
        rewrite_training(Siblings().eval(), x)
    with pytest.raises(InvalidValue, match="'fold-batch-norm' holds for inference only"):
        rewrite_training(Siblings(), x, rules=RULES)


def test_a_step_is_measured_against_the_original():
    model, x = Siblings(), torch.randn(4, 3, 6, 6, dtype=torch.float64)
    before = copy.deepcopy(model.state_dict())
    fast = rewrite_training(model, (x,), rules=everywhere("merge-convs"), rounds=4)
    assert set(fast.measured) == {"original", "rewritten"} and fast.then in fast.measured
    assert all(len(timing.samples) == 4 for timing in fast.measured.values())
    # steps are taken on copies: neither parameters nor running statistics nor gradients have moved
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(value.grad is None for value in model.parameters())


@pytest.mark.parametrize(("seconds", "then"), [(0.5, "rewritten"), (0.99, "original"), (2.0, "original")])
def test_the_original_stays_where_it_is_not_clearly_slower(seconds, then, monkeypatch):
    from drivetrain.base.timing import Timing
    from drivetrain.graph.rewrite import training

    times = {"original": Timing((1.0,)), "rewritten": Timing((seconds,))}
    monkeypatch.setattr(training, "race", lambda *args, **settings: times)
    model, x = Siblings(), torch.randn(4, 3, 6, 6, dtype=torch.float64)
    fast = rewrite_training(model, (x,), rules=everywhere("merge-convs"))
    assert fast.then == then and fast.measured is times
    ran, runner = [], fast.rewritten
    fast._runner = (lambda *values: ran.append(1) or runner(*values),)
    fast(x)
    assert bool(ran) is (then == "rewritten")
