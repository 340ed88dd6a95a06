"""What must not change a YellowFin run: scale, order, splitting, grouping, the way the passes are made."""

from dataclasses import asdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from drivetrain.optim import YellowFin
from drivetrain.optim.fused import load

from .scripted import UNCLIPPED, feed, gradients, parameters, run

SHAPES = [(3, 4), (5,), (2, 2, 2), ()]


@settings(max_examples=10, deadline=None)
@given(scale=st.floats(0.1, 1e4), seed=st.integers(0, 1000))
def test_scaling_the_loss_scales_the_statistics_and_leaves_momentum(scale: float, seed: int) -> None:
    script = gradients(30, *SHAPES, seed=seed)
    _, one = run(SHAPES, script, **UNCLIPPED)
    _, scaled = run(SHAPES, [[g * scale for g in grads] for grads in script], **UNCLIPPED)
    a, b = one.stats(), scaled.stats()
    tolerance = 1e-4  # eps = 1e-6 is not scaled
    assert b.h_min == pytest.approx(a.h_min * scale**2, rel=tolerance)
    assert b.h_max == pytest.approx(a.h_max * scale**2, rel=tolerance)
    assert b.variance == pytest.approx(a.variance * scale**2, rel=tolerance)
    assert b.distance == pytest.approx(a.distance / scale, rel=tolerance)
    assert b.mu == pytest.approx(a.mu, rel=tolerance)
    assert b.lr == pytest.approx(a.lr / scale**2, rel=10 * tolerance)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), order=st.permutations(range(4)))
def test_order_of_parameters_changes_nothing(seed: int, order: list[int]) -> None:
    script = gradients(25, *SHAPES, seed=seed)
    _, one = run(SHAPES, script)
    _, other = run([SHAPES[i] for i in order], [[grads[i] for i in order] for grads in script])
    assert asdict(other.stats()) == pytest.approx(asdict(one.stats()), rel=1e-6)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), cut=st.integers(1, 11))
def test_splitting_a_parameter_changes_nothing(seed: int, cut: int) -> None:
    script = gradients(25, (12,), seed=seed)
    (whole,), one = run([(12,)], script)
    start = parameters((12,))[0].detach()
    params = [nn.Parameter(start[:cut].clone()), nn.Parameter(start[cut:].clone())]
    two = YellowFin(params)
    for (grad,) in script:
        feed(two, params, [grad[:cut], grad[cut:]])
    assert asdict(two.stats()) == pytest.approx(asdict(one.stats()), rel=1e-6)
    torch.testing.assert_close(torch.cat([p.detach() for p in params]), whole.detach())


def test_one_group_of_n_is_n_groups_of_one() -> None:
    script = gradients(40, *SHAPES)
    together, one = run(SHAPES, script)
    apart = parameters(*SHAPES)
    many = YellowFin([{"params": [p]} for p in apart])
    for grads in script:
        feed(many, apart, grads)
    assert one.stats() == many.stats()
    for a, b in zip(together, apart, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(("decay", "decoupled"), [(0.0, False), (0.1, False), (0.1, True)])
@pytest.mark.parametrize("spike", [1.0, 50.0])
def test_multi_tensor_and_native_passes_agree_with_the_loop(nesterov, decay, decoupled, spike) -> None:
    shapes = [(300, 7), (5,), (2, 8, 3, 3), ()]
    script = gradients(25, *shapes, dtype=torch.float32)
    script[20] = [g * spike for g in script[20]]  # makes both clips act
    options = {"nesterov": nesterov, "weight_decay": decay, "decoupled_weight_decay": decoupled, "slow_start": 0}
    runs = [run(shapes, script, torch.float32, foreach=foreach, **options) for foreach in (False, True, None)]
    (reference, loop), *others = runs
    for params, optimizer in others:
        assert asdict(optimizer.stats()) == pytest.approx(asdict(loop.stats()), rel=1e-4)
        for a, b in zip(params, reference, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_native_sums_do_not_depend_on_the_number_of_threads() -> None:
    passes = load()
    if passes is None:
        pytest.skip("no C++ compiler here")
    tensors = [torch.randn(n, generator=torch.Generator().manual_seed(n)) for n in (1_000_003, 17, 300_000)]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = passes.squares(tensors)
        torch.set_num_threads(3)
        together = passes.squares(tensors)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(alone, together)
    torch.testing.assert_close(alone, torch.stack([t.double().square().sum() for t in tensors]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_native_passes_take_channels_last_weights(layout) -> None:
    shapes = [(8, 4, 3, 3)]
    script = gradients(10, *shapes, dtype=torch.float32)
    (reference,), _ = run(shapes, script, torch.float32, foreach=False)
    start = parameters(*shapes, dtype=torch.float32)[0].detach()
    param = nn.Parameter(start.to(memory_format=layout, copy=True))
    optimizer = YellowFin([param])
    for (grad,) in script:
        param.grad = grad.to(memory_format=layout)
        optimizer.step()
    torch.testing.assert_close(param, reference)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_do_not_overflow_the_norm(dtype) -> None:
    params = parameters((300, 300), dtype=dtype)
    optimizer = YellowFin(params, **UNCLIPPED)
    for _ in range(3):
        feed(optimizer, params, [torch.full((300, 300), 300.0)])
    assert optimizer.stats().gradient_norm == pytest.approx(90_000, rel=1e-2)


def test_constant_gradient_has_no_variance() -> None:
    params = parameters((6,))
    optimizer = YellowFin(params)
    for _ in range(50):
        feed(optimizer, params, [torch.full((6,), 0.5)])
    assert optimizer.stats().variance == pytest.approx(1e-6)


def test_gradient_accumulation_sees_the_mean_gradient() -> None:
    """Two halves of a batch, each loss divided by two, are the whole batch."""
    script = gradients(20, (4, 3))
    (whole,), one = run([(4, 3)], script)
    params = parameters((4, 3))
    two = YellowFin(params)
    for (grad,) in script:
        params[0].grad = grad * 0.25
        params[0].grad += grad * 0.75
        two.step()
    torch.testing.assert_close(params[0], whole)
    assert two.stats().lr == pytest.approx(one.stats().lr)
