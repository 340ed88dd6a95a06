"""Statistics: known answers, shifted sums, Chan's merge, reuse across concatenation (spec 19, 2.3, 2.5 and 5)."""

import pytest
import torch
from torch import nn

from drivetrain.graph.batchnorm import batch_statistics, kernel
from drivetrain.graph.batchnorm.statistics import check_count, merge, reference_statistics, update_running


def variance_error(m2, x):
    exact = x.double().var(dim=(0, 2, 3), unbiased=False)
    return float(((m2 / (x.numel() / x.shape[1]) - exact) / exact).abs().max())


@pytest.mark.parametrize("mean", [0, 10, 100, 1000, 10_000])
def test_variance_far_from_zero(mean):
    x = torch.randn(16, 2, 64, 64, generator=torch.Generator().manual_seed(0)) + mean
    assert variance_error(batch_statistics(x)[1], x) < 1e-4
    assert variance_error(reference_statistics(x)[1], x) < 1e-4


def test_naive_sums_fail_there():
    """The table's last row: what the shift is for."""
    x = torch.randn(16, 2, 64, 64, generator=torch.Generator().manual_seed(0)) + 10_000
    m = x.numel() / x.shape[1]
    naive = (x.square().sum(dim=(0, 2, 3)) - x.sum(dim=(0, 2, 3)).square() / m).double()
    assert variance_error(naive, x) > 1e-2


def test_a_concatenation_has_its_parts_statistics():
    a, b = (torch.randn(4, c, 5, 5, dtype=torch.float64) for c in (3, 6))
    whole = batch_statistics(torch.cat([a, b], dim=1))
    for together, first, second in zip(whole, batch_statistics(a), batch_statistics(b), strict=True):
        torch.testing.assert_close(torch.cat([first, second]), together, rtol=1e-13, atol=1e-13)


def test_merge_of_halves_is_the_whole():
    x = torch.randn(7, 3, 4, 4, dtype=torch.float64) + 5
    parts = [(float(part.shape[0] * 16), *batch_statistics(part)) for part in (x[:2], x[2:])]
    count, mean, m2 = merge(*parts)
    assert count == 112
    torch.testing.assert_close(mean, x.mean(dim=(0, 2, 3)), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(m2, x.var(dim=(0, 2, 3), unbiased=False) * 112, rtol=1e-12, atol=1e-12)


def test_the_kernel_equals_the_reference():
    if kernel.load() is None:
        pytest.skip("no C++ compiler")
    x = torch.randn(3, 5, 67, 71) * 3 + 2  # rows longer than 4,096 and not divisible
    for native, plain in zip(kernel.stats([x]), reference_statistics(x), strict=True):
        torch.testing.assert_close(native, plain, rtol=1e-6, atol=1e-6)


def test_nan_stays_in_its_channel():
    x = torch.randn(2, 3, 8, 8)
    x[1, 1, 3, 3] = float("nan")
    for value in batch_statistics(x):
        assert torch.isnan(value).tolist() == [False, True, False]


@pytest.mark.parametrize("momentum", [0.1, 0.3, None])
def test_running_statistics_are_torchs(momentum):
    """m = 2 makes the unbiased factor m / (m - 1) a factor of two."""
    theirs, ours = nn.BatchNorm2d(3, momentum=momentum), nn.BatchNorm2d(3, momentum=momentum)
    for _ in range(3):
        x = torch.randn(2, 3, 1, 1)
        theirs(x)
        update_running(ours, 2, *batch_statistics(x))
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-6, atol=1e-6)


def test_one_value_per_channel_is_torchs_error():
    with pytest.raises(ValueError, match="more than 1 value per channel") as theirs:
        nn.BatchNorm2d(4)(torch.zeros(1, 4, 1, 1))
    with pytest.raises(ValueError, match="more than 1 value per channel") as ours:
        check_count((1, 4, 1, 1))
    assert str(ours.value) == str(theirs.value)
