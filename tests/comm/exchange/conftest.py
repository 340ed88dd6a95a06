"""Ranks as real processes; they never outlive their test."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

WORKER = Path(__file__).with_name("worker.py")


@pytest.fixture
def ranks(tmp_path):
    """ranks(4, "same('3lc')") runs the scenario in 4 processes; returns what each left, in rank order.

    With several scenarios, in the same processes one after another, a list for each; ranks in `dead` leave nothing.
    """

    def run(world_size: int, *scenarios: str, dead: tuple[int, ...] = ()) -> list:
        (tmp_path / "store").unlink(missing_ok=True)  # an earlier run's would be taken for this one's
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(world_size)}
        processes = [
            subprocess.Popen(
                [sys.executable, str(WORKER), str(tmp_path), *scenarios],
                env={**environment, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True,
            )
            for rank in range(world_size)
        ]  # fmt: skip
        try:
            errors = [process.communicate(timeout=150)[1] for process in processes]
        finally:
            for process in processes:
                process.kill()
        wrong = [rank for rank, process in enumerate(processes) if process.returncode and rank not in dead]
        assert not wrong, "\n".join(errors)
        left = [
            None if rank in dead else torch.load(tmp_path / f"{rank}.pt", weights_only=False)
            for rank in range(world_size)
        ]
        if len(scenarios) == 1:
            return [found and found[0] for found in left]
        return [[found and found[index] for found in left] for index in range(len(scenarios))]

    return run
