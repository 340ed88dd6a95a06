"""On a GPU the same rules run as tensor code, and give what the CPU gives."""

import pytest
import torch

from drivetrain.comm.aggregate import Suspicion, distances_to_result

from .cases import EVERY, faults, label, spread


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("precision", ["highest", "high"])
@pytest.mark.parametrize("rule", [rule for rule in EVERY if "bucketing" not in rule.name], ids=label)
def test_a_gpu_gives_what_the_cpu_gives(rule, precision):
    n = 11
    f = faults(rule, n)
    g = spread(n, 3000, seed=1)
    mask = torch.rand(n, 3000, generator=torch.Generator().manual_seed(2)) > 0.1
    if f:
        g[1, 5] = torch.nan
        mask[1, 5] = True
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        for some in (None, mask):
            info: dict = {}
            there = rule(g.cuda(), f, mask=None if some is None else some.cuda(), info=info)
            assert there.is_cuda
            torch.testing.assert_close(there.cpu(), rule(g, f, mask=some), rtol=2e-5, atol=2e-6)
            account = Suspicion(n)
            account.observe(info, sqdist_to_result=distances_to_result(g.cuda(), there))
            assert account.report()[0].rounds == 1
    finally:
        torch.set_float32_matmul_precision(before)
