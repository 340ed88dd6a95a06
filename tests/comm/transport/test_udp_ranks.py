"""The lossy channel between real processes over real sockets."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

WORKER = Path(__file__).with_name("udp_worker.py")

# In float32 and float16, by the plain version and, where it can be built, by the kernel: see `every_version`.


@pytest.fixture
def ranks(tmp_path):
    """ranks(3, "steps()") runs the scenario in 3 processes; returns what each left."""

    def run(world_size: int, scenario: str) -> list[dict]:
        (tmp_path / "store").unlink(missing_ok=True)
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(world_size)}
        environment.pop("MASTER_ADDR", None)
        processes = [
            subprocess.Popen(
                [sys.executable, str(WORKER), scenario, str(tmp_path)],
                env={**environment, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True,
            )
            for rank in range(world_size)
        ]  # fmt: skip
        try:
            errors = [process.communicate(timeout=90)[1] for process in processes]
        finally:
            for process in processes:
                process.kill()
        assert [process.returncode for process in processes] == [0] * world_size, "\n".join(errors)
        return [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(world_size)]

    return run


def test_several_tensors_travel_whole_where_nothing_is_dropped(ranks):
    """Loopback, too, drops where a receiver gets no processor for long: a tenth at most, and never a wrong value."""
    for rank, versions in enumerate(ranks(3, "every_version()")):
        for version, left in versions.items():
            for step in left["steps"]:
                assert step["wrong"] == 0 and step["absent"] == [], f"rank {rank}, {version}"
                assert step["lost"][rank] == 0 and max(step["lost"]) <= 0.1, f"rank {rank}, {version}"
            counts = left["counts"]
            assert counts["forged"] == counts["foreign"] == 0
            most = 4 * 2 * (left["chunks"] + 1)  # chunks and an end mark of two ranks, four steps
            assert 0.9 * most <= counts["taken"] <= most


def test_what_is_lost_is_marked_and_what_comes_is_right(ranks):
    """A third is dropped: the share that is missed must be a third within five standard deviations of a binomial."""
    found = ranks(3, "every_version(0.33, 8, deadline_s=0.7)")
    for version in found[0]:
        shares = []
        for rank, versions in enumerate(found):
            for step in versions[version]["steps"]:
                assert step["wrong"] == 0
                assert step["lost"][rank] == 0
                shares += [share for other, share in enumerate(step["lost"]) if other != rank]
        trials = sum(versions[version]["chunks"] for versions in found) * 2 * 8
        assert sum(shares) / len(shares) == pytest.approx(0.33, abs=5 * (0.33 * 0.67 / trials) ** 0.5), version


def test_a_lossy_step_ends_by_the_end_marks_long_before_its_deadline(ranks):
    for left in ranks(2, "steps(0.2, count=3, deadline_s=20.0)"):
        assert any(step["lost"] != [0.0, 0.0] for step in left["steps"])
        assert left["seconds"] < 20


def test_a_paced_sender_loses_nothing_on_loopback(ranks):
    for left in ranks(2, "steps(rate='20mbit', count=3)"):
        assert all(step["lost"] == [0.0, 0.0] for step in left["steps"])


def test_a_rank_past_the_deadline_is_missing_and_its_datagrams_are_late(ranks):
    found = ranks(3, "slow()")
    for rank in (0, 1):
        first, second = found[rank]["steps"]
        assert first["absent"] == [2] and first["wrong"] == 0
        assert second == {"wrong": 0, "lost": [0.0] * 3, "absent": []}, "nothing of the first step spoils the second"
        assert found[rank]["counts"]["late"] > 0
    assert found[2]["steps"][0] == {"wrong": 0, "lost": [0.0] * 3, "absent": []}, "it still finds what others sent"


def test_a_server_takes_and_the_others_only_send(ranks):
    for left in ranks(3, "server()"):
        assert left == {"wrong": 0, "lost": [0.0] * 3, "absent": []}


REFUSED = {
    "dtype": "rank 1 has version 1 and values of 2 bytes, rank 0 version 1 and 4 bytes",
    "deadline": "deadline_s=0.5 would cut it off",
    "no deadline": "deadline_s=0.0, wanted seconds above 0",
    "rate": "comm: udp: rate '20mbps' can't be read",
    "address": "can't listen at 203.0.113.7",
    "bfloat": "dtype torch.bfloat16, wanted torch.float32 or torch.float16",
    "policy": "did you mean 'zero'",
    "sizes": "rank 1 takes tensors of [5] values, these have [4]",
    "ranks": "tensors for 1 ranks, wanted 2",
}


def test_what_can_not_work_is_refused(ranks):
    for left in ranks(2, "refused()"):
        assert set(left) == set(REFUSED)
        for name, part in REFUSED.items():
            assert part in left[name], name
