"""torch.compile(backend="drivetrain") inside DistributedDataParallel: two real processes train as without it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

WORKER = Path(__file__).with_name("distributed_worker.py")
SETTINGS = {
    "restructured, step rewritten": {"options": {"then": "eager", "bn": "always", "rewrite": True}, "dynamic": False},
    # torch cuts the graph into one for each bucket: our backend sees inputs without values
    "several buckets": {"options": {"then": "eager", "bn": "auto"}, "dynamic": False, "width": 256, "bucket_mb": 1},
    "sizes that vary": {"options": {"then": "eager", "bn": "auto"}, "dynamic": None},
}
SLOW = {"no options": {"options": {}, "dynamic": None}, "as the drive": {"options": {"bn": "auto"}, "dynamic": False}}


@pytest.mark.parametrize("name", [*SETTINGS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_two_ranks_train_as_without_it(name, tmp_path):
    settings = {"bucket_mb": None, "width": 8, **{**SETTINGS, **SLOW}[name]}
    environment = {**os.environ, "DRIVETRAIN_CACHE": str(tmp_path / "costs")}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(rank), "2", str(tmp_path), json.dumps(settings)],
            env=environment, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        told = [rank.communicate(timeout=280)[1] for rank in ranks]
        assert [rank.returncode for rank in ranks] == [0, 0], told
    finally:
        for rank in ranks:
            rank.kill()
    assert not any("Traceback" in text for text in told), told
    found = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    for part in found:
        assert part["original"] and list(part["model"]) == list(part["twin"])  # what is saved has its own names
        assert part["wrapped"] == [f"_orig_mod.{key}" for key in part["model"]]
        for key, value in part["twin"].items():
            torch.testing.assert_close(part["model"][key], value, rtol=1e-3, atol=1e-4, msg=key)
        for ours, theirs in part["predicted"]:
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
        kinds = [kind for kind, _ in part["kinds"]]
        assert set(kinds) == {"training", "inference"} and (settings["width"] == 8 or kinds.count("training") >= 4)
    for key, value in found[0]["model"].items():
        if "running" not in key:  # each rank's own statistics
            torch.testing.assert_close(value, found[1]["model"][key])
