"""YellowFin as a torch.optim.Optimizer: schedulers, hooks, checkpoints, late parameters, clips, decay, AMP."""

import copy
import io
import math
import pickle
import warnings
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from drivetrain.base.errors import InvalidValue
from drivetrain.optim import NonFiniteGradient, YellowFin, YellowFinStats, single_step

from .scripted import UNCLIPPED, feed, gradients, parameters, run

SHAPES = [(3, 4), (5,)]


def test_scheduler_scales_the_tuned_rate() -> None:
    script = gradients(12, *SHAPES)
    params = parameters(*SHAPES)
    optimizer = YellowFin(params, **UNCLIPPED)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    moves = []
    for grads in script[:3]:
        before = params[0].detach().clone()
        feed(optimizer, params, grads)
        moves.append(
            ((params[0].detach() - before) / optimizer.state[params[0]]["momentum_buffer"], optimizer.stats().lr)
        )
        scheduler.step()
    for step, (ratio, lr) in enumerate(moves):
        torch.testing.assert_close(ratio, torch.full_like(ratio, -lr * 0.5**step))


def test_group_multipliers_give_layerwise_rates() -> None:
    a, b = parameters((4,), (4,))
    optimizer = YellowFin([{"params": [a]}, {"params": [b], "lr": 0.1}])
    starts = [a.detach().clone(), b.detach().clone()]
    feed(optimizer, [a, b], [torch.ones(4), torch.ones(4)])
    moved_a, moved_b = starts[0] - a.detach(), starts[1] - b.detach()
    torch.testing.assert_close(moved_b, 0.1 * moved_a, rtol=1e-6, atol=0)


def test_closure_hooks_and_return_value() -> None:
    model = nn.Linear(3, 1)
    optimizer = YellowFin(model.parameters())
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(2, 3)).square().mean()
        loss.backward()
        return loss

    assert isinstance(optimizer.step(closure), torch.Tensor)
    assert seen == ["before", "after"]


@pytest.mark.parametrize("options", [{}, {"staleness": 2}, {"sparsity_debias": True, "smooth_hyper": True}])
def test_checkpoint_continues_bit_for_bit(options) -> None:
    script = gradients(60, *SHAPES, dtype=torch.float32)
    straight, whole = run(SHAPES, script, torch.float32, **options)
    params, first = run(SHAPES, script[:30], torch.float32, **options)
    buffer = io.BytesIO()
    torch.save({"optimizer": first.state_dict(), "params": [p.detach() for p in params]}, buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    params = [nn.Parameter(p) for p in saved["params"]]
    second = YellowFin(params, **options)
    second.load_state_dict(saved["optimizer"])
    for grads in script[30:]:
        feed(second, params, grads)
    assert second.stats() == whole.stats()
    assert second.suggest() == whole.suggest()
    assert all(torch.equal(a, b) for a, b in zip(params, straight, strict=True))


def test_a_saved_state_is_not_changed_by_later_steps() -> None:
    script = gradients(10, *SHAPES)
    params, optimizer = run(SHAPES, script)
    saved = optimizer.state_dict()["yellowfin"]
    before = {name: value.clone() for name, value in saved["statistics"].items()}
    for grads in script:
        feed(optimizer, params, grads)
    assert all(torch.equal(saved["statistics"][name], value) for name, value in before.items())


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies_keep_the_statistics(clone) -> None:
    script = gradients(20, *SHAPES)
    params, optimizer = run(SHAPES, script[:10])
    twin = clone(optimizer)
    others = [p for group in twin.param_groups for p in group["params"]]
    for grads in script[10:]:
        feed(optimizer, params, grads)
        feed(twin, others, grads)
    assert twin.stats() == optimizer.stats()


def test_sgd_checkpoint_gives_its_momentum_and_a_warning() -> None:
    params = parameters(*SHAPES)
    sgd = torch.optim.SGD(params, lr=0.3, momentum=0.9, weight_decay=0.1)
    feed(sgd, params, gradients(1, *SHAPES)[0])
    optimizer = YellowFin(params)
    with pytest.warns(UserWarning, match=r"SGD.*start afresh"):
        optimizer.load_state_dict(sgd.state_dict())
    for p in params:
        assert torch.equal(optimizer.state[p]["momentum_buffer"], sgd.state[p]["momentum_buffer"])
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]) == (1.0, 0.0)
    feed(optimizer, params, gradients(1, *SHAPES)[0])
    assert optimizer.stats().step == 1


def test_foreign_checkpoints_are_refused() -> None:
    params = parameters(*SHAPES)
    adam = torch.optim.Adam(params)
    feed(adam, params, gradients(1, *SHAPES)[0])
    with pytest.raises(InvalidValue, match="exp_avg"):
        YellowFin(params).load_state_dict(adam.state_dict())
    _, other = run(SHAPES, gradients(3, *SHAPES), window=5)
    with pytest.raises(InvalidValue, match="window=5"):
        YellowFin(params).load_state_dict(other.state_dict())
    newer = YellowFin(params).state_dict()
    newer["yellowfin"]["format"] = 99
    with pytest.raises(InvalidValue, match="format 1, got 99"):
        YellowFin(params).load_state_dict(newer)


def test_a_parameter_without_gradient_is_left_alone() -> None:
    a, b = parameters((3,), (4,))
    frozen = b.detach().clone()
    optimizer = YellowFin([a, b], weight_decay=0.1)
    alone_param = parameters((3,), (4,))[0]
    alone = YellowFin([alone_param], weight_decay=0.1)
    for (grad,) in gradients(20, (3,)):
        feed(optimizer, [a, b], [grad, None])
        feed(alone, [alone_param], [grad])
    assert torch.equal(b, frozen)
    assert optimizer.stats() == alone.stats()


def test_a_late_parameter_starts_its_own_average() -> None:
    """A common debias would make the late average 0.5 too small."""
    a, b = parameters((3,), (4,))
    optimizer = YellowFin([a, b], **UNCLIPPED)
    for step in range(60):
        feed(optimizer, [a, b], [torch.full((3,), 0.5), torch.full((4,), 0.5) if step >= 30 else None])
    remaining = optimizer.state_dict()["yellowfin"]["remaining"]
    assert remaining.tolist() == pytest.approx([0.999**60, 0.999**30])
    average = optimizer.state[b]["gradient_average"] / (1 - remaining[1])
    torch.testing.assert_close(average, torch.full_like(average, 0.5))
    norm2 = 0.0  # of the whole gradient: 3 * 0.25, from step 30 on 7 * 0.25; its debiased average less that of the mean
    for step in range(60):
        norm2 = 0.999 * norm2 + 0.001 * (0.75 if step < 30 else 1.75)
    expected = norm2 / (1 - 0.999**60) - 7 * 0.25
    assert expected < 0, "the mean is known exactly, so there is no variance left"
    assert optimizer.stats().variance == pytest.approx(1e-6)


def test_a_group_added_in_mid_training_joins() -> None:
    params, optimizer = run(SHAPES, gradients(10, *SHAPES))
    late = parameters((6,))[0]
    optimizer.add_param_group({"params": [late], "lr": 0.5})
    for grads in gradients(10, *SHAPES, (6,)):
        feed(optimizer, [*params, late], grads)
    assert optimizer.state_dict()["yellowfin"]["remaining"].tolist() == pytest.approx([0.999**20] * 2 + [0.999**10])
    assert math.isfinite(optimizer.stats().lr)


@pytest.mark.parametrize("foreach", [None, True, False])
def test_zero_first_gradients_wait_for_the_first_real_one(foreach) -> None:
    """Upstream issue 1: NaN on a plain network whose first gradients vanish."""
    script = gradients(15, *SHAPES, dtype=torch.float32)
    zeros = [[torch.zeros(s) for s in SHAPES]] * 5
    params, late = run(SHAPES, [*zeros, *script], torch.float32, foreach=foreach)
    plain, prompt = run(SHAPES, script, torch.float32, foreach=foreach)
    assert late.stats() == prompt.stats()
    assert all(torch.equal(a, b) for a, b in zip(params, plain, strict=True))


def test_zero_gradients_later_stay_finite() -> None:
    params, optimizer = run(SHAPES, gradients(5, *SHAPES))
    for _ in range(40):
        feed(optimizer, params, [torch.zeros(s) for s in SHAPES])
    assert all(math.isfinite(value) for value in optimizer.stats().event().values() if isinstance(value, float))


def test_tiny_gradients_stay_finite() -> None:
    params, optimizer = run(SHAPES, [[g * 1e-20 for g in grads] for grads in gradients(50, *SHAPES)])
    assert all(p.isfinite().all() for p in params)
    assert math.isfinite(optimizer.stats().lr)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("foreach", [None, True, False])
def test_a_non_finite_gradient_is_an_error_that_changes_nothing(bad: float, foreach) -> None:
    script = gradients(20, *SHAPES, dtype=torch.float32)
    params, optimizer = run(SHAPES, script[:16], torch.float32, foreach=foreach)
    before = [p.detach().clone() for p in params]
    state = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(
        NonFiniteGradient, match=r"gradient of parameter 1 \(shape \(5,\)\) is not finite at step 17; nothing"
    ):
        feed(optimizer, params, [script[16][0], torch.tensor([1.0, 2.0, bad, 4.0, 5.0])])
    with pytest.raises(FloatingPointError):
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(params, before, strict=True))
    _assert_same(optimizer.state_dict(), state)


def _assert_same(one, two) -> None:
    assert type(one) is type(two)
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            _assert_same(one[key], two[key])
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one.nan_to_num(7.0), two.nan_to_num(7.0))
    else:
        assert one == two


def test_a_summed_loss_is_warned_of_once() -> None:
    params = parameters((4,))
    optimizer = YellowFin(params)
    with pytest.warns(UserWarning, match="Is the loss a sum"):
        feed(optimizer, params, [torch.full((4,), 1e6)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        feed(optimizer, params, [torch.full((4,), 1e6)])


def test_user_clip_comes_before_the_statistics() -> None:
    params = parameters((4,))
    optimizer = YellowFin(params, clip=0.5, **UNCLIPPED)
    for _ in range(5):
        feed(optimizer, params, [torch.full((4,), 3.0)])
    assert optimizer.stats().h_max == pytest.approx(0.25, rel=1e-4)
    assert optimizer.stats().gradient_norm == pytest.approx(6.0)


def test_protection_limits_what_a_spike_does_to_the_statistics() -> None:
    """After constant gradients of norm 1, a spike of 1e6 is observed as one of norm √100."""
    levels = {}
    for protect in (100.0, 1e30):
        params = parameters((1,))
        optimizer = YellowFin(params, protect=protect, adaptive_clip=False, max_move=1e30)
        for t in range(60):
            feed(optimizer, params, [torch.tensor([1e6 if t == 50 else 1.0])])
            if t == 50:
                levels[protect] = optimizer.statistics.window.max()
    assert levels[100.0].item() == pytest.approx(100.0, rel=1e-4)
    assert levels[1e30].item() == pytest.approx(1e12, rel=1e-6)


def test_adaptive_clip_limits_the_update_to_the_previous_curvature() -> None:
    params = parameters((1,))
    optimizer = YellowFin(params, protect=1e30, max_move=1e30)
    for t in range(30):
        feed(optimizer, params, [torch.tensor([1.0 + 0.1 * (t % 3)])])
    h_max = optimizer.stats().h_max
    v = optimizer.state[params[0]]["momentum_buffer"].item()
    feed(optimizer, params, [torch.tensor([9.0])])
    s = optimizer.stats()
    assert s.clip == pytest.approx(math.sqrt(h_max) / 9, rel=1e-9)
    assert optimizer.state[params[0]]["momentum_buffer"].item() == pytest.approx(s.mu * v + math.sqrt(h_max), rel=1e-9)


def test_adaptive_clip_compares_with_the_curvature_before_this_gradient() -> None:
    """h_max rises from 3.16 to 6.31 in the step of the gradient whose square is 4.5: it must be clipped, to √3.16."""
    params = parameters((1,))
    optimizer = YellowFin(params, protect=1e30, max_move=1e30)
    for value in (1.0, 1.0, 1.0, 10.0):
        feed(optimizer, params, [torch.tensor([value])])
    before = optimizer.stats().h_max
    feed(optimizer, params, [torch.tensor([math.sqrt(4.5)])])
    assert before < 4.5 < optimizer.stats().h_max
    assert optimizer.stats().clip == pytest.approx(math.sqrt(before / 4.5), rel=1e-6)


def test_catastrophic_moves_are_limited() -> None:
    params = parameters((1,))
    optimizer = YellowFin(params, max_move=1e-3, slow_start=0)
    for t in range(10):
        feed(optimizer, params, [torch.tensor([1.0 + t % 3])])
        s = optimizer.stats()
        assert s.step == 1 or s.lr * s.gradient_norm <= 1e-3 * (1 + 1e-9)


def test_coupled_decay_enters_the_statistics_and_decoupled_decay_does_not() -> None:
    script = gradients(20, (6,))
    params = parameters((6,))
    coupled, plain_gradient = YellowFin(params, weight_decay=0.1), parameters((6,))
    by_hand = YellowFin(plain_gradient)
    for (grad,) in script:
        by_hand_grad = grad + 0.1 * plain_gradient[0].detach()
        feed(coupled, params, [grad])
        feed(by_hand, plain_gradient, [by_hand_grad])
    assert asdict(coupled.stats()) == pytest.approx(asdict(by_hand.stats()), rel=1e-12)
    torch.testing.assert_close(params[0], plain_gradient[0])

    shrunk, decoupled = run([(6,)], script, weight_decay=0.1, decoupled_weight_decay=True)
    expected = parameters((6,))
    reference = YellowFin(expected)
    for (grad,) in script:
        before = expected[0].detach().clone()
        feed(reference, expected, [grad])
        with torch.no_grad():
            expected[0] -= reference.stats().lr * 0.1 * before
    assert decoupled.stats() == reference.stats()
    torch.testing.assert_close(shrunk[0], expected[0])


def test_sparse_gradients_are_refused_or_debiased() -> None:
    torch.manual_seed(0)
    tokens = [torch.randint(0, 50, (8,)) for _ in range(30)]
    with pytest.raises(InvalidValue, match=r"sparse gradient for parameter 0 .*sparsity_debias=False"):
        table = nn.Embedding(50, 4, sparse=True)
        table(tokens[0]).square().mean().backward()
        YellowFin(table.parameters()).step()
    finals = []
    for sparse in (True, False):
        torch.manual_seed(1)
        table = nn.Embedding(50, 4, sparse=sparse)
        optimizer = YellowFin(table.parameters(), sparsity_debias=True)
        for batch in tokens:
            optimizer.zero_grad()
            table(batch).square().mean().backward()
            optimizer.step()
        finals.append((table.weight.detach(), optimizer.stats()))
    assert torch.equal(finals[0][0], finals[1][0])
    assert finals[0][1] == finals[1][1]


def test_sparsity_debias_scales_by_the_nonzero_fraction() -> None:
    """A quarter of the entries are nonzero: h and C shrink by 4, D grows by 2."""
    script = gradients(20, (2,))
    _, dense = run([(2,)], script, **UNCLIPPED)
    padded = [[torch.cat([g, torch.zeros(6, dtype=g.dtype)])] for (g,) in script]
    _, sparse = run([(8,)], padded, sparsity_debias=True, **UNCLIPPED)
    a, b = dense.stats(), sparse.stats()
    assert (b.h_min, b.h_max, b.variance) == pytest.approx((a.h_min / 4, a.h_max / 4, a.variance / 4), rel=1e-6)
    assert b.distance == pytest.approx(a.distance * 2, rel=1e-4)


def test_grad_scaler_skips_the_step_and_the_statistics() -> None:
    """An overflow in float16 makes the scaler back off; the run is then the one without the overflow."""
    script = gradients(10, (6,), dtype=torch.float32)
    plain, reference = run([(6,)], script, torch.float32)
    params = parameters((6,), dtype=torch.float32)
    optimizer = YellowFin(params)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step, (grad,) in enumerate(script):
        for value in [torch.full((6,), math.inf), grad] if step == 4 else [grad]:
            optimizer.zero_grad()
            scaler.scale((params[0] * value).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
    assert scaler.get_scale() == 2.0**9
    assert optimizer.stats().step == 10
    assert optimizer.stats().h_max == pytest.approx(reference.stats().h_max, rel=1e-6)
    torch.testing.assert_close(params[0], plain[0])


def test_unscaled_gradients_before_the_step_are_not_unscaled_again() -> None:
    params = parameters((6,), dtype=torch.float32)
    optimizer = YellowFin(params)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale((params[0] * torch.full((6,), 2.0)).sum()).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    assert optimizer.stats().gradient_norm == pytest.approx(math.sqrt(6) * 2)


def test_stats_and_reason_tell_what_ruled() -> None:
    _, optimizer = run([(1,)], [[torch.tensor([1.0 if t < 25 else 40.0])] for t in range(30)])
    record = optimizer.stats()
    assert isinstance(record, YellowFinStats)
    assert all(words in record.reason for words in ("gradient noise", "slow start 30/200", "update clipped"))
    with pytest.raises(AttributeError):
        record.lr = 3.0
    event = record.event()
    assert event["reason"] == record.reason and event["step"] == 30
    mu, lr = single_step(1.0, 1e-6, 1.0, 9.0)
    quiet = replace(record, h_min=1.0, h_max=9.0, mu_target=mu, lr=lr, clip=1.0, step=300)
    assert "curvature range (h_max / h_min = 9)" in quiet.reason and "slow start" not in quiet.reason
    assert replace(record, total_momentum=math.nan).event()["total_momentum"] is None


def test_suggest_is_the_median_of_the_tuned_steps() -> None:
    params = parameters((3,))
    optimizer = YellowFin(params, window=2, slow_start=0, max_move=1e30)
    rates, momenta = [], []
    for grads in gradients(250, (3,)):
        feed(optimizer, params, grads)
        rates.append(optimizer.stats().lr)
        momenta.append(optimizer.stats().mu)
    last = slice(-200, None)
    expected = (torch.tensor(rates[last], dtype=torch.float64).median(), torch.tensor(momenta[last]).double().median())
    assert optimizer.suggest()["lr"] == pytest.approx(expected[0].item())
    assert optimizer.suggest()["momentum"] == pytest.approx(expected[1].item(), rel=1e-6)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"beta": 1.0}, "beta"),
        ({"beta": 0.0}, "beta"),
        ({"beta": "0.9"}, "beta"),
        ({"window": 0}, "window"),
        ({"window": 2.5}, "window"),
        ({"staleness": -1}, "staleness"),
        ({"lr": -1.0}, "lr"),
        ({"lr": math.nan}, "lr"),
        ({"momentum": 1.0}, "momentum"),
        ({"clip": 0.0}, "clip"),
        ({"nesterov": 1}, "nesterov"),
        ({"nesterov": True, "staleness": 2}, "nesterov|plain step"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"slow_start": -1}, "slow_start"),
        ({"hyper_debias": True}, "smooth_hyper=False"),
    ],
)
def test_bad_options_are_named_with_their_value(options, word) -> None:
    with pytest.raises(InvalidValue, match=word) as error:
        YellowFin(parameters((2,)), **options)
    assert isinstance(error.value, ValueError)


def test_bad_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="empty parameter list"):
        YellowFin([])
    with pytest.raises(InvalidValue, match="complex64"):
        YellowFin([nn.Parameter(torch.zeros(2, dtype=torch.complex64))])
    with pytest.raises(InvalidValue, match="at least one step"):
        YellowFin(parameters((2,))).stats()
    with pytest.raises(InvalidValue, match="at least 2 steps"):
        YellowFin(parameters((2,))).suggest()
