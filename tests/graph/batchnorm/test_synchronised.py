"""SyncBatchNorm: two real processes with unequal halves of a batch are one process with the whole."""

import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

WORKER = Path(__file__).with_name("synchronised_worker.py")


def test_two_ranks_are_one_batch(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 1))
    x = (torch.randn(5, 4, 6, 6) * 2 + 3).requires_grad_()
    dy = torch.randn(5, 5, 6, 6)
    torch.save({"state": model.state_dict(), "x": x.detach(), "dy": dy}, tmp_path / "given.pt")
    y = model(x)
    y.backward(dy)
    ranks = [subprocess.Popen([sys.executable, str(WORKER), str(rank), "2", str(tmp_path)]) for rank in range(2)]
    try:
        assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    found = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    torch.testing.assert_close(torch.cat([part["y"] for part in found]), y.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.cat([part["dx"] for part in found]), x.grad, rtol=1e-4, atol=1e-5)
    for index, parameter in enumerate(model.parameters()):
        together = found[0]["grads"][index] + found[1]["grads"][index]
        torch.testing.assert_close(together, parameter.grad, rtol=1e-4, atol=1e-4)
    for key, value in model.state_dict().items():
        for part in found:
            torch.testing.assert_close(part["state"][key], value, rtol=1e-5, atol=1e-5)
