"""LocalUpdate as an optimizer, in one process: schedulers, closures, reports, what it refuses."""

import pytest
import torch
from torch import nn

from drivetrain.base.errors import DrivetrainError
from drivetrain.comm.sync import AdaComm, LocalUpdate


def make(rule="fixed:4", inner=None, **options):
    model = nn.Linear(3, 2)
    inner = inner or (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9))
    return model, LocalUpdate(inner(model.parameters()), model, rule, **options)


def run(model, local, steps):
    for _ in range(steps):
        local.zero_grad()
        loss = model(torch.ones(4, 3)).square().mean()
        loss.backward()
        local.observe(loss)
        local.step()


def test_a_scheduler_and_a_closure_work_as_with_any_optimizer():
    model, local = make()
    scheduler = torch.optim.lr_scheduler.StepLR(local, 2, gamma=0.1)

    def closure():
        local.zero_grad()
        loss = model(torch.ones(4, 3)).square().mean()
        loss.backward()
        return loss

    for _ in range(4):
        assert local.step(closure).item() >= 0
        scheduler.step()
    assert local.param_groups[0]["lr"] == pytest.approx(0.001)
    assert len(local.rows) == 1 and local.rows[0].loss > 0
    assert isinstance(local, torch.optim.Optimizer) and local.state is local.optimizer.state


def test_momentum_is_reset_kept_or_chosen_by_kind():
    for momentum, zero in (("reset", True), ("keep", False), ("auto", True)):
        model, local = make(momentum=momentum)
        run(model, local, 4)
        assert (float(local.state[model.weight]["momentum_buffer"].abs().sum()) == 0) is zero
    model, local = make(inner=lambda p: torch.optim.Adam(p, lr=0.01))
    run(model, local, 4)
    assert local.momentum == "keep" and float(local.state[model.weight]["exp_avg"].abs().sum()) > 0


def test_the_report_tells_periods_and_shares():
    now = [0.0]
    model, local = make(AdaComm(tau0=8, interval_s=5.0), clock=lambda: now[0])
    for _ in range(30):
        now[0] += 1.0
        run(model, local, 1)
    report = local.report()
    assert report.y == 1.0 and report.rows[0].steps == 8 and report.rows[0].tau < 8
    assert [row.step for row in report.rows][:2] == [8, 8 + report.rows[0].tau]
    facts = report.to_dict()
    assert facts["rule"] == "adacomm" and len(facts["rows"]) == len(report.rows) and "tau = " in facts["reason"]
    assert report.measured_speedup == pytest.approx(1.0) and report.bytes == 0


def test_wait_holds_a_decay_back_until_the_period_is_one():
    model, local = make(AdaComm(tau0=2, interval_s=0.0, lr_coupling="wait"))
    assert not local.may_decay
    run(model, local, 2)
    assert local.tau == 1 and local.may_decay
    assert make("fixed:4")[1].may_decay


def test_sync_without_steps_does_nothing_unless_forced():
    local = make()[1]
    local.sync()
    assert local.syncs == 0
    local.sync(force=True)
    assert local.syncs == 1


@pytest.mark.filterwarnings("ignore:comm. the loss of the interval")
def test_not_one_finite_model_is_an_error_and_the_anchor_stays():
    model, local = make()
    kept = [value.clone() for value in local.anchor.values]
    with torch.no_grad():
        model.weight.fill_(torch.nan)
    with pytest.raises(DrivetrainError, match="no rank has a finite model at step 4"):
        run(model, local, 4)
    assert all(torch.equal(a, b) for a, b in zip(kept, local.anchor.values, strict=True))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"momentum": "rest"}, "momentum='rest'"),
        ({"momentum": "reset", "inner": torch.optim.Adam}, "would break the bias correction of Adam"),
        ({"delay": -1}, "delay=-1"),
        ({"block_momentum": 1.0}, "block_momentum=1.0"),
        ({"block_momentum": 0.3, "outer": lambda p: torch.optim.SGD(p, lr=1.0)}, "two ways to do one thing"),
        ({"outer": torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)}, "outer is SGD"),
        ({"weights": "size"}, "weights='size'"),
        ({"codec": "4lc"}, "codec '4lc' is unknown"),
        ({"aggregator": "medain"}, "did you mean 'median'"),
        ({"f": 1}, "need a robust aggregator"),
        ({"aggregator": "average", "weights": 2.0}, "give weights or an aggregator"),
        ({"rule": "fixd:3"}, "did you mean 'fixed'"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(DrivetrainError) as refusal:
        make(**options)
    assert words in str(refusal.value)


def test_bad_models_and_checkpoints():
    model, local = make()
    with pytest.raises(DrivetrainError, match="2 tensors that are not parameters of the model"):
        LocalUpdate(torch.optim.SGD(nn.Linear(3, 2).parameters(), lr=0.1), model, "fixed:2")
    with pytest.raises(DrivetrainError, match="wanted a torch optimizer"):
        LocalUpdate(model, model, "fixed:2")
    with pytest.raises(DrivetrainError, match="parameters can't be added"):
        local.add_param_group({"params": []})
    with pytest.raises(DrivetrainError, match="written by the inner optimizer alone"):
        local.load_state_dict(local.optimizer.state_dict())
    other = nn.Linear(4, 2)
    saved = LocalUpdate(torch.optim.SGD(other.parameters(), lr=0.1), other, "fixed:2").state_dict()
    with pytest.raises(DrivetrainError, match="of another model"):
        local.load_state_dict(saved)
    saved = local.state_dict()
    saved["local_update"]["format"] = 9
    with pytest.raises(DrivetrainError, match="reads checkpoint format 1, got 9"):
        local.load_state_dict(saved)
