"""Two real processes over gloo: data parallel, FSDP2, DTensors of mixed placement, and plain shards."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

WORKER = Path(__file__).with_name("distributed_worker.py")


@pytest.mark.parametrize("mode", ["ddp", "fsdp", "mixed", "shards"])
def test_two_ranks_tune_alike_and_as_one_process_does(mode: str, tmp_path: Path) -> None:
    rendezvous = tmp_path / "rendezvous"
    outputs = [tmp_path / f"rank{rank}.pt" for rank in (0, 1)]
    ranks = [
        subprocess.Popen(
            [sys.executable, str(WORKER), mode, str(rank), "2", str(rendezvous), str(outputs[rank])],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    texts = [process.communicate(timeout=120)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], "\n".join(texts)
    one, two = (torch.load(path) for path in outputs)
    assert one["stats"] == two["stats"], "ranks disagree about the statistics"
    assert all(torch.equal(a, b) for a, b in zip(one["params"], two["params"], strict=True)), "ranks drifted apart"
    assert one["stats"] == pytest.approx(one["alone_stats"], rel=1e-3)
    for ours, expected in zip(one["params"], one["alone"], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-5)
