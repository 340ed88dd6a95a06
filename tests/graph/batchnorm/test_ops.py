"""The fused operators against float64 eager, the hand example, the mask, what they refuse (spec 19, 5)."""

import pytest
import torch
import torch.nn.functional as F

from drivetrain.graph.batchnorm import batch_statistics, conv1x1, kernel, ops, reference

TOLERANCE = {torch.float64: (1e-12, 1e-12), torch.float32: (1e-5, 1e-4)}


def relative(a, b):
    return float((a.detach().double() - b.detach().double()).norm() / b.detach().double().norm().clamp_min(1e-30))


def inverse(m2, count):
    return (m2 / count + 1e-5).rsqrt()


def edge(dtype, kernel_size=1, hw=(9, 7)):
    """Two parts, gamma, beta, a weight."""
    torch.manual_seed(0)
    parts = [torch.randn(3, c, *hw, dtype=dtype) * 2 + 1 for c in (5, 7)]
    tensors = [*parts, torch.rand(12, dtype=dtype), torch.randn(12, dtype=dtype)]
    tensors.append(torch.randn(8, 12, kernel_size, kernel_size, dtype=dtype))
    return [tensor.requires_grad_() for tensor in tensors]


def normalised(q):
    return F.batch_norm(torch.cat(q[:2], 1), None, None, q[2], q[3], True, 0.1, 1e-5)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("kernel_size", "stride", "padding"), [(1, 1, 0), (1, 2, 0), (3, 1, 1), (3, 2, 1)])
@pytest.mark.parametrize("hw", [(9, 7), (40, 33)])
def test_conv_behind_batch_norm(dtype, kernel_size, stride, padding, hw):
    values = edge(dtype, kernel_size, hw)
    mean, m2 = batch_statistics(values[:2])
    inv = inverse(m2, 3 * hw[0] * hw[1])
    y, y_mean, y_m2 = ops.bn_relu_conv(
        values[:2], *values[2:4], mean, inv, values[4], [stride] * 2, [padding] * 2, [1, 1], 1, True
    )
    exact = [value.detach().double().requires_grad_() for value in values]
    wanted = F.conv2d(F.relu(normalised(exact)), exact[4], None, stride, padding)
    dy = torch.randn_like(y)
    output, gradient = TOLERANCE[dtype]
    assert relative(y, wanted) <= output
    for got, want in zip((y_mean, y_m2), batch_statistics(wanted), strict=True):
        assert relative(got, want) <= output
    for got, want in zip(
        torch.autograd.grad(y, values, dy), torch.autograd.grad(wanted, exact, dy.double()), strict=True
    ):
        assert relative(got, want) <= gradient


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("joined", [True, False])
def test_one_sweep(dtype, relu, joined):
    values = edge(dtype)[:4]
    residual = torch.randn(3, 12, 9, 7, dtype=dtype, requires_grad=True) if joined else None
    mean, m2 = batch_statistics(values[:2])
    a = ops.bn_relu(values[:2], *values[2:], mean, inverse(m2, 189), residual, relu)[0]
    inputs = [*values, residual] if joined else values
    exact = [value.detach().double().requires_grad_() for value in inputs]
    wanted = normalised(exact) + (exact[4] if joined else 0)
    wanted = F.relu(wanted) if relu else wanted
    da = torch.randn_like(a)
    assert relative(a, wanted) <= TOLERANCE[dtype][0]
    for got, want in zip(
        torch.autograd.grad(a, inputs, da), torch.autograd.grad(wanted, exact, da.double()), strict=True
    ):
        assert relative(got, want) <= TOLERANCE[dtype][1]


@pytest.mark.parametrize("sweeps", [kernel, reference])
def test_hand_example(sweeps):
    if sweeps is kernel and kernel.load() is None:
        pytest.skip("no C++ compiler")
    x = torch.tensor([1.0, 3, 5, 7]).view(1, 1, 2, 2)
    mean, m2 = batch_statistics(x)
    assert mean.item() == 4 and m2.item() / 4 == 5
    inv = (m2 / 4).rsqrt()
    s, t = ops.scale_and_shift(torch.tensor([2.0]), torch.tensor([1.0]), mean, inv, torch.float32)
    a = sweeps.apply([x], s, t, None, True)
    torch.testing.assert_close(a.view(-1), torch.tensor([0, 0.1056, 1.8944, 3.6833]), atol=1e-4, rtol=0)
    da = torch.tensor([1.0, 2, 3, 4]).view(1, 1, 2, 2)
    (dx,), dgamma, dbeta, _ = sweeps.backward([x], s, t, mean.float(), inv.float(), None, True, da)
    assert dbeta.item() == 9 and dgamma.item() == pytest.approx(5.8138, abs=1e-4)
    wanted = torch.tensor([-0.26833, 0.35777, 0.08944, -0.17889])
    torch.testing.assert_close(dx.view(-1), wanted, atol=1e-5, rtol=0)
    assert abs(dx.sum().item()) < 1e-6 and abs((dx * (x - 4)).sum().item()) < 1e-5


def test_invariants_of_an_input_gradient():
    """Sum dx = 0 and sum dx xhat = 0 per channel, whatever comes from above."""
    x_parts = [part.requires_grad_(False) for part in edge(torch.float32)[:2]]
    x = torch.cat(x_parts, 1).requires_grad_()
    mean, m2 = batch_statistics(x)
    inv = inverse(m2, 189)
    y, *_ = ops.bn_relu_conv(
        [x], torch.rand(12), torch.randn(12), mean, inv, torch.randn(8, 12, 1, 1), [1, 1], [0, 0], [1, 1], 1, False
    )
    (dx,) = torch.autograd.grad(y.square().sum(), x)
    xhat = (x.detach() - mean.float().view(1, -1, 1, 1)) * inv.float().view(1, -1, 1, 1)
    scale = dx.abs().sum(dim=(0, 2, 3)) + 1e-3  # a channel that the ReLU closes has no gradient
    assert float((dx.sum(dim=(0, 2, 3)) / scale).abs().max()) < 1e-5
    assert float(((dx * xhat).sum(dim=(0, 2, 3)) / scale).abs().max()) < 1e-4


def test_forward_and_backward_agree_on_the_mask():
    """Values a rounding away from zero: the gradient passes exactly where the forward let through."""
    if kernel.load() is None:
        pytest.skip("no C++ compiler")
    torch.manual_seed(0)
    x = torch.randn(2, 4, 16, 16) * 1e-7 + 0.3
    s, t = torch.full((4,), 1.7), torch.full((4,), -0.51)
    a = kernel.apply([x], s, t, None, True)
    zeros = torch.zeros(4)
    (dz,), *_ = kernel.backward([x], s, t, zeros, zeros, None, True, torch.ones_like(x))
    _, _, dbeta, _ = kernel.backward([x], s, t, zeros, zeros, None, True, torch.ones_like(x))
    assert 0 < int((a > 0).sum()) < a.numel()
    assert dbeta.tolist() == (a > 0).sum(dim=(0, 2, 3)).tolist() and dz.shape == x.shape


def test_nan_propagates_to_its_channel_only():
    x = torch.randn(2, 3, 4, 4)
    x[0, 1, 2, 2] = float("nan")
    mean, m2 = batch_statistics(x)
    a = ops.bn_relu([x], torch.ones(3), torch.zeros(3), mean, inverse(m2, 32), None, True)[0]
    assert torch.isnan(a).flatten(2).any(dim=2).any(dim=0).tolist() == [False, True, False]


def test_double_backward_is_refused_by_name():
    values = edge(torch.float32)
    mean, m2 = batch_statistics(values[:2])
    a = ops.bn_relu(values[:2], *values[2:4], mean, inverse(m2, 189), None, True)[0]
    (dx,) = torch.autograd.grad(a.square().sum(), values[0], create_graph=True)
    with pytest.raises(NotImplementedError, match="drivetrain::bn_relu has no second derivative"):
        dx.sum().backward()


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_convolution_that_leaves_statistics(dtype):
    torch.manual_seed(0)
    x = torch.randn(3, 6, 20, 9, dtype=dtype, requires_grad=True)
    weight = torch.randn(8, 6, 1, 1, dtype=dtype, requires_grad=True)
    y, mean, m2 = conv1x1.conv1x1_stats(x, weight)
    exact = [value.detach().double().requires_grad_() for value in (x, weight)]
    wanted = F.conv2d(*exact)
    assert relative(y, wanted) <= TOLERANCE[dtype][0]
    for got, want in zip((mean, m2), batch_statistics(wanted), strict=True):
        assert relative(got, want) <= TOLERANCE[dtype][0]
    dy = torch.randn_like(y)
    for got, want in zip(
        torch.autograd.grad(y, (x, weight), dy), torch.autograd.grad(wanted, exact, dy.double()), strict=True
    ):
        assert relative(got, want) <= TOLERANCE[dtype][1]


def test_the_operators_keep_torchs_contract():
    """Schema, fake kernel and autograd registration, by torch's own check."""
    values = edge(torch.float32)
    mean, m2 = batch_statistics(values[:2])
    inv = inverse(m2, 189)
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(ops.bn_stats, ([value.detach() for value in values[:2]],), test_utils=checks)
    torch.library.opcheck(conv1x1.conv1x1_stats, (values[0], torch.randn(3, 5, 1, 1)), test_utils=checks)
    shape = ([1, 1], [0, 0], [1, 1], 1)
    arguments = (values[:2], *values[2:4], mean, inv, values[4], *shape, True)
    torch.library.opcheck(ops.bn_relu_conv, arguments, test_utils=checks)
    torch.library.opcheck(ops.bn_relu, (*arguments[:5], None, True), test_utils=checks)
