"""The kernels for channels_last: float64 agreement, masks as bits, parts, slices, far means, layouts of results."""

import pytest
import torch
import torch.nn.functional as F

from drivetrain.graph.batchnorm import batch_statistics, channels_last, conv1x1, kernel, layout, ops, product
from drivetrain.graph.cost import CostTable

from .test_ops import inverse, relative
from .test_statistics import variance_error

pytestmark = pytest.mark.skipif(channels_last.load() is None, reason="no C++ compiler")
ROWS = torch.channels_last


@pytest.fixture(params=["tiled", "swept"])
def form(request, monkeypatch):
    """Either form of a 1x1 convolution, whatever is faster here."""
    choice = {"tiled": lambda key, tiled, swept: tiled(), "swept": lambda key, tiled, swept: swept()}
    monkeypatch.setattr(product, "faster", choice[request.param])


def tensors(channels, hw=(9, 7), out=8, size=1):
    torch.manual_seed(0)
    parts = [(torch.randn(3, c, *hw) * 2 + 1).to(memory_format=ROWS) for c in channels]
    total = sum(channels)
    rest = [torch.rand(total), torch.randn(total), torch.randn(out, total, size, size)]
    return [value.requires_grad_() for value in parts + rest]


def normalised(q):
    *parts, gamma, beta, _ = q
    return F.batch_norm(torch.cat(parts, 1), None, None, gamma, beta, True, 0.1, 1e-5)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("channels", [(5, 7), (16, 48), (32, 12), (64,), (20, 16, 28)])
@pytest.mark.parametrize(("out", "size"), [(8, 1), (48, 1), (8, 3)])
@pytest.mark.parametrize("hw", [(9, 7), (20, 33)])
def test_conv_behind_batch_norm(form, threads, channels, out, size, hw):
    values = tensors(channels, hw, out, size)
    count = len(channels)
    mean, m2 = batch_statistics(values[:count])
    inv = inverse(m2, 3 * hw[0] * hw[1])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        y, y_mean, y_m2 = ops.bn_relu_conv(
            values[:count], *values[count:-1], mean, inv, values[-1], [1, 1], [size // 2] * 2, [1, 1], 1, True
        )
        dy = torch.randn_like(y)
        got = torch.autograd.grad(y, values, dy)
    finally:
        torch.set_num_threads(before)
    exact = [value.detach().double().requires_grad_() for value in values]
    wanted = F.conv2d(F.relu(normalised(exact)), exact[-1], None, 1, size // 2)
    assert y.is_contiguous(memory_format=ROWS) and relative(y, wanted) <= 1e-5
    for ours, theirs in zip((y_mean, y_m2), batch_statistics(wanted), strict=True):
        assert relative(ours, theirs) <= 1e-5
    for ours, theirs in zip(got, torch.autograd.grad(wanted, exact, dy.double()), strict=True):
        assert relative(ours, theirs) <= 1e-4


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("channels", [(5, 7), (16, 32)])
def test_one_sweep(relu, joined, channels):
    values = tensors(channels)[:-1]
    residual = torch.randn(3, sum(channels), 9, 7).to(memory_format=ROWS).requires_grad_() if joined else None
    mean, m2 = batch_statistics(values[:2])
    a, mask = ops.bn_relu(values[:2], *values[2:], mean, inverse(m2, 189), residual, relu)
    inputs = [*values, residual] if joined else values
    exact = [value.detach().double().requires_grad_() for value in inputs]
    wanted = normalised([*exact[:4], None]) + (exact[4] if joined else 0)
    wanted = F.relu(wanted) if relu else wanted
    assert mask.numel() == (a.numel() // 8 if joined and relu and channels[0] == 16 else 0)
    da = torch.randn_like(a)
    assert relative(a, wanted) <= 1e-5
    for ours, theirs in zip(
        torch.autograd.grad(a, inputs, da), torch.autograd.grad(wanted, exact, da.double()), strict=True
    ):
        assert relative(ours, theirs) <= 1e-4


def test_the_bits_are_the_mask():
    """Values a rounding away from zero, and a NaN, which is let through as ReLU lets it through."""
    torch.manual_seed(0)
    x = (torch.randn(2, 16, 8, 8) * 1e-7 + 0.3).to(memory_format=ROWS)
    x[0, 3, 0, 0] = float("nan")
    s, t, residual = torch.full((16,), 1.7), torch.full((16,), -0.51), torch.zeros_like(x)
    mask = torch.empty(x.numel() // 8, dtype=torch.uint8)
    a = channels_last.apply([x], s, t, residual, True, mask)
    bits = torch.stack([mask >> k & 1 for k in range(8)], dim=1).view(2, 8, 8, 16).permute(0, 3, 1, 2)
    assert torch.equal(bits.bool(), (a > 0) | a.isnan()) and 0 < int(bits.sum()) < bits.numel()
    zeros = torch.zeros(16)
    *_, dbeta, dresidual = channels_last.backward([x], s, t, zeros, zeros, mask, True, torch.ones_like(x))
    assert torch.equal(dresidual, bits.float()) and dbeta.tolist() == bits.sum(dim=(0, 2, 3)).tolist()


@pytest.mark.parametrize("mean", [0, 100, 10_000])
def test_variance_far_from_zero(mean):
    x = torch.randn(16, 3, 64, 64, generator=torch.Generator().manual_seed(0)) + mean
    x = x.to(memory_format=ROWS)
    assert not kernel.fits([x]) and variance_error(batch_statistics(x)[1], x) < 1e-4


def test_a_slice_of_channels_is_taken_as_it_lies():
    whole = torch.randn(2, 24, 5, 6).to(memory_format=ROWS)
    part = whole[:, 4:20]
    assert channels_last.step(part) == 24 and channels_last.step(part[:, :, ::2]) == 0
    assert channels_last.step(torch.randn(2, 4, 5, 6)) == 0
    for ours, theirs in zip(channels_last.stats([part]), kernel.stats([part.contiguous()]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_the_product_is_torchs_convolution():
    """Images are cut so that oneDNN is taken; a height of prime length, a single row."""
    for n, h, w in ((2, 8, 5), (3, 7, 7), (1, 1, 9), (16, 3, 3)):
        x = torch.randn(n, 16, h, w, dtype=torch.float64).to(memory_format=ROWS)
        weight, dy = torch.randn(6, 16, 1, 1, dtype=torch.float64), torch.randn(n, 6, h, w, dtype=torch.float64)
        x.requires_grad_(), weight.requires_grad_()
        wanted = F.conv2d(x, weight)
        torch.testing.assert_close(product.multiply(x, weight), wanted, rtol=1e-12, atol=1e-12)
        got = product.multiply_backward(dy.to(memory_format=ROWS), x.detach(), weight.detach(), (True, True))
        for ours, theirs in zip(got, torch.autograd.grad(wanted, (x, weight), dy), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_product_is_not_copied():
    """Operators may give no views: what the product wrote must not be copied for that."""
    x, weight, dy = (
        torch.randn(shape).to(memory_format=ROWS) for shape in ((2, 16, 8, 5), (6, 16, 1, 1), (2, 6, 8, 5))
    )
    dx, _ = product.multiply_backward(dy, x, weight, (True, True))
    for made in (product.multiply(x, weight), dx):
        assert layout.fresh(made, [x]) is made and not made._is_view()


def test_the_faster_form_is_measured_once(tmp_path, monkeypatch):
    table = CostTable(tmp_path / "costs.json")
    monkeypatch.setattr(product, "_table", lambda threads: table)
    calls = []
    quick, slow = (lambda: calls.append("quick") or "quick"), (lambda: calls.append("slow") or sum(range(10**6)))
    assert product.faster("k", slow, quick) == "quick" and len(calls) == 7
    assert product.faster("k", slow, quick) == "quick" and calls[7:] == ["quick"]
    assert CostTable(tmp_path / "costs.json").times["product:k:swept"].n == 2


def test_the_operators_keep_torchs_contract():
    values = tensors((16, 32))
    mean, m2 = batch_statistics(values[:2])
    inv = inverse(m2, 189)
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    residual = torch.randn(3, 48, 9, 7).to(memory_format=ROWS)
    torch.library.opcheck(ops.bn_relu, (values[:2], *values[2:4], mean, inv, residual, True), test_utils=checks)
    arguments = (values[:2], *values[2:4], mean, inv, values[4], [1, 1], [0, 0], [1, 1], 1, True)
    torch.library.opcheck(ops.bn_relu_conv, arguments, test_utils=checks)
    torch.library.opcheck(conv1x1.conv1x1_stats, (values[1], torch.randn(3, 32, 1, 1)), test_utils=checks)
