"""Gradients on a GPU stay there; messages go where the process group takes them."""

import pytest
import torch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@pytest.mark.parametrize("backend", ["gloo", "nccl"])
def test_the_hook_takes_gradients_on_a_gpu(tmp_path, backend):
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from drivetrain.comm import Exchange

    dist.init_process_group(backend, init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = torch.nn.Linear(64, 64).cuda()
        ddp = DistributedDataParallel(model)
        exchange = Exchange("raw", topology="sharded")
        exchange.attach(ddp)
        x = torch.randn(8, 64, device="cuda")
        ddp(x).square().mean().backward()
        found = model.weight.grad.clone()
        model.zero_grad()
        model(x).square().mean().backward()
        assert torch.allclose(found, model.weight.grad, atol=1e-6)
        exchange.close()
    finally:
        dist.destroy_process_group()
