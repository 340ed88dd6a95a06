"""The testbed: bytes by counters, rates, racks, the loopback form, failures that are named, and nothing left behind.

Most ranks here are small socket scripts without torch, which start at once; two tests run a real gloo all-reduce.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from drivetrain.comm import testbed

NAMES = Path("/var/run/netns")
FRAME = 1.1  # headers (54 of 1514 bytes), acknowledgements, what TCP sends twice after a full queue


@pytest.fixture
def namespaces():
    reason = testbed.available()
    if reason:
        pytest.skip(reason)


@pytest.fixture
def script(tmp_path):
    """Write a rank's script and give its path."""

    def write(text: str) -> Path:
        path = tmp_path / "rank.py"
        path.write_text(text)
        return path

    return write


def namespaces_of(pid: int) -> list[str]:
    return [name for name in (os.listdir(NAMES) if NAMES.is_dir() else []) if f"-bed-{pid}-" in name]


def runs(marker: str) -> bool:
    """Whether any process has `marker` in its command line."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if marker.encode() in entry.read_bytes():
                return True
        except OSError:
            continue
    return False


def gone(marker: str) -> bool:
    """Wait for processes with `marker` to be gone; False when they stay."""
    for _ in range(200):
        if not runs(marker):
            return True
        time.sleep(0.05)
    return False


ALL_REDUCE = """
import torch, torch.distributed as dist
from drivetrain.comm import testbed
dist.init_process_group("gloo")
x_N = torch.full((500_000,), float(dist.get_rank()))
dist.barrier()
before = testbed.rank_traffic()
dist.all_reduce(x_N)
dist.barrier()  # when all have it, all of it was sent
after = testbed.rank_traffic()
testbed.hand_back({"sum": x_N[-1].item(), "sent": None if after is None else (after - before).sent})
dist.barrier()
dist.destroy_process_group()
"""

# Rank 0 sends N bytes to rank 1 over TCP and waits for one byte in return; other ranks end at once.
SEND = """
import os, socket, sys, time
rank, size = int(os.environ["RANK"]), int(sys.argv[1])
if rank == 1:
    with socket.create_server(("", 7000)) as door:
        source = door.accept()[0]
        got = 0
        while got < size:
            got += len(source.recv(1 << 16))
        source.sendall(b"!")
        print(got)
if rank == 0:
    while True:
        try:
            out = socket.create_connection((sys.argv[2], 7000))
            break
        except ConnectionRefusedError:
            time.sleep(0.05)  # each refusal is counted too
    out.sendall(bytes(size))
    out.recv(1)
"""


def test_all_reduce_bytes_are_the_ring_bytes(namespaces, script):
    """A ring sends 2 (n-1)/n C per rank: 3.0 MB of 2 MB here; a star through one rank would send 6 MB at it."""
    with testbed.star(4, "50mbit") as bed:
        run = bed.run(script(ALL_REDUCE), timeout_s=120)
    ring = 2 * 3 / 4 * 2_000_000
    for rank, result in enumerate(run.results):
        assert result["sum"] == 6.0
        assert ring <= result["sent"] <= ring * FRAME
        assert ring <= run.traffic[rank].sent <= ring * FRAME + 20_000
        assert ring <= run.traffic[rank].received <= ring * FRAME + 20_000


def test_counted_bytes_are_sent_bytes(namespaces, script):
    size = 1_000_000
    with testbed.star(3, "200mbit") as bed:
        mark = bed.mark()
        run = bed.run(script(SEND), [size, "10.77.0.2"], timeout_s=60)
        sender, receiver, idle = bed.since(mark)
    assert run.stdout[1] == f"{size}\n"
    assert size < sender.sent <= size * FRAME
    assert size < receiver.received <= size * FRAME
    assert sender.received < size * 0.05
    assert idle.sent < 2000 and idle.received < 5000
    assert run.traffic[0] == sender


def test_a_link_passes_no_more_than_its_rate(namespaces):
    """Bytes over the sender's own seconds: a slow machine only lowers it; a missing token bucket gives 40 Mbit/s."""
    with testbed.star(2, "20mbit", burst="16kb", limit="64kb", extra_hosts=1) as bed:
        with bed.compete("40mbit") as flow:
            time.sleep(1.5)
    assert flow.sent > flow.received > 0
    assert (flow.received - 2 * (16 + 64) * 1024) * 8 / flow.seconds < 20e6
    with testbed.star(1, None, extra_hosts=1) as bed:
        with bed.compete("10mbit") as flow:
            time.sleep(0.5)
    assert flow.received == flow.sent > 0


def test_a_tcp_competitor_arrives_whole(namespaces):
    with testbed.star(2, "10mbit", extra_hosts=1) as bed:
        mark = bed.mark()
        with bed.compete("5mbit", "tcp", sink="rank1") as flow:
            time.sleep(0.5)
        aside, hit = bed.since(mark)
    assert flow.sent - 1400 <= flow.received <= flow.sent + 1400
    assert flow.received < hit.received <= flow.received * FRAME + 5000
    assert aside.received < 5000


def test_racks_connect_and_count_their_uplinks(namespaces, script):
    """Ranks 0 and 1 share a rack when dealt contiguously, and the spine stays idle; round-robin parts them."""
    size = 300_000
    for deal, address, crossing in (("contiguous", "10.77.0.2", False), ("round-robin", "10.77.1.1", True)):
        with testbed.racks(2, 2, host_rate="100mbit", uplink_rate="50mbit", deal=deal) as bed:
            mark = bed.mark()
            bed.run(script(SEND), [size, address], timeout_s=60)
            near, far = bed.uplinks_since(mark)
            sender, receiver = bed.since(mark)[:2]
        assert size < sender.sent <= size * FRAME and size < receiver.received <= size * FRAME
        if crossing:
            assert size < near.sent <= size * FRAME + 5000
            assert size < far.received <= size * FRAME + 5000
        else:
            assert near.sent < 5000 and far.received < 5000


def test_extra_hosts_of_racks_share_the_uplink(namespaces):
    with testbed.racks(2, 1, host_rate="100mbit", uplink_rate="10mbit", extra_hosts=2) as bed:
        assert bed.hosts == ("rank0", "extra0", "rank1", "extra1")
        mark = bed.mark()
        with bed.compete("30mbit") as flow:
            time.sleep(1)
        near, _ = bed.uplinks_since(mark)
    assert 0 < flow.received <= near.sent < flow.sent


def test_loopback_all_reduce_opens_no_port_to_the_network(script):
    text = ALL_REDUCE.replace("dist.destroy_process_group()\n", PORTS if sys.platform == "linux" else "")
    with testbed.loopback(2) as bed:
        run = bed.run(script(text), timeout_s=120)
    assert [result["sum"] for result in run.results] == [1.0, 1.0]
    assert run.traffic == [None, None]
    assert [result["sent"] for result in run.results] == [None, None]
    if sys.platform == "linux":
        assert run.stdout == ["open: []\n", "open: []\n"]


# Sockets of this process and of the one that started it, listening on another address than 127.0.0.1.
PORTS = """
import glob, os, re
own = set()
for pid in (os.getpid(), os.getppid()):
    for link in glob.glob(f"/proc/{pid}/fd/*"):
        try:
            own |= set(re.findall(r"socket:.(\\d+)", os.readlink(link)))
        except OSError:
            pass
rows = [line.split() for kind in ("tcp", "tcp6") for line in open(f"/proc/net/{kind}").readlines()[1:]]
print("open:", [row[1] for row in rows if row[3] == "0A" and row[9] in own and not row[1].startswith("0100007F:")])
"""


@pytest.fixture(params=["namespaces", "loopback"])
def two_ranks(request):
    """Both forms, for what they share."""
    if request.param == "loopback":
        return testbed.loopback
    request.getfixturevalue("namespaces")
    return lambda world_size: testbed.star(world_size, "100mbit")


def test_ranks_get_arguments_environment_and_hand_back(two_ranks, script):
    path = script(
        "import os, sys\nfrom pathlib import Path\n"
        "Path(os.environ['DRIVETRAIN_RESULT']).write_text('[%s]' % os.environ['RANK'])\n"
        "print(sys.argv[1:], os.environ['WORLD_SIZE'], os.environ['OMP_NUM_THREADS'], os.environ['COLOUR'])\n"
    )
    with two_ranks(2) as bed:
        run = bed.run(path, ["--steps", 3], {"COLOUR": "red"}, timeout_s=60)
        again = bed.run("platform", timeout_s=60)
    assert run.stdout == ["['--steps', '3'] 2 1 red\n"] * 2
    assert run.results == [[0], [1]]
    assert again.stdout[0] == again.stdout[1] != ""


def test_the_failing_rank_is_named_and_the_others_are_killed(two_ranks, script):
    """Rank 1 fails; rank 0 and the child that it left in the background must not live on."""
    marker = f"marker-{os.getpid()}-{time.monotonic_ns()}"
    path = script(
        "import os, subprocess, sys, time\n"
        "if os.environ['RANK'] == '1':\n    time.sleep(0.3)\n    raise ArithmeticError('loss is NaN at step 7')\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)', sys.argv[1]])\n"
        "time.sleep(600)\n"
    )
    with two_ranks(2) as bed:
        with pytest.raises(testbed.RankFailed, match=r"rank 1 of 2 ended with exit code 1 in rank\.py") as caught:
            bed.run(path, [marker], timeout_s=60)
        assert gone(marker)
    assert caught.value.rank == 1 and caught.value.exit_code == 1
    assert "loss is NaN at step 7" in caught.value.output and "loss is NaN at step 7" in str(caught.value)


def test_a_daemon_that_a_rank_leaves_in_its_namespace_is_killed(namespaces, script):
    marker = f"marker-{os.getpid()}-{time.monotonic_ns()}"
    path = script(
        "import subprocess, sys\n"
        "child = [sys.executable, '-c', 'import time; time.sleep(600)', sys.argv[1]]\n"
        "subprocess.Popen(child, start_new_session=True)\n"
    )
    with testbed.star(1, None) as bed:
        bed.run(path, [marker], timeout_s=60)
        assert gone(marker)


def test_a_killed_rank_is_named_by_its_signal(script):
    path = script("import os, signal\nprint('at step 3')\nif os.environ['RANK'] == '0': os.kill(os.getpid(), 9)\n")
    with (
        testbed.loopback(2) as bed,
        pytest.raises(testbed.RankFailed, match="rank 0 of 2 was killed by SIGKILL") as caught,
    ):
        bed.run(path, timeout_s=60)
    assert caught.value.exit_code == -9 and caught.value.output == "at step 3"


def test_a_rank_that_hangs_is_named(script):
    path = script("import os, time\nprint('waiting')\nif os.environ['RANK'] == '1': time.sleep(600)\n")
    with testbed.loopback(2) as bed, pytest.raises(testbed.RankFailed, match="rank 1 of 2 still runs") as caught:
        bed.run(path, timeout_s=1.5)
    assert caught.value.rank == 1 and caught.value.exit_code is None and "waiting" in str(caught.value)


def test_nothing_stays_after_an_exception(namespaces):
    with pytest.raises(ZeroDivisionError):
        with testbed.racks(2, 1, host_rate="10mbit", uplink_rate="10mbit"):
            assert len(namespaces_of(os.getpid())) == 5  # two hosts, two racks, a spine
            _ = 1 / 0
    assert namespaces_of(os.getpid()) == []


def test_nothing_stays_when_building_fails(namespaces, monkeypatch):
    """A tc without tbf, after half of it was made."""
    from drivetrain.comm import testbed_network

    real = testbed_network._tool

    def broken(*words: str) -> None:
        real(*("tc" if word == "tc" else word for word in (words if words[0] != "tc" else ("tc", "nonsense"))))

    monkeypatch.setattr(testbed, "available", lambda: None)
    monkeypatch.setattr(testbed_network, "_tool", broken)
    with pytest.raises(testbed.RunFailed, match="tc nonsense.* failed"):
        with testbed.star(2, "10mbit"):
            pytest.fail("it was built")
    assert namespaces_of(os.getpid()) == []


OWNER = """
import signal, sys
from drivetrain.comm import testbed
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is born deaf to it
with testbed.star(2, "10mbit") as bed:
    bed.run(sys.argv[1], [sys.argv[2]], timeout_s=600)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_nothing_stays_of_a_killed_owner(namespaces, script, tmp_path, number):
    """SIGINT and SIGTERM clean up on the way out; after kill -9 the ranks die and the next testbed removes the rest."""
    marker = f"marker-{os.getpid()}-{time.monotonic_ns()}"
    owner = tmp_path / "owner.py"
    owner.write_text(OWNER)
    rank = script(
        "import subprocess, sys, time\n"
        "child = [sys.executable, '-c', 'import time; time.sleep(600)', 'child-of-' + sys.argv[1]]\n"
        "subprocess.Popen(child, start_new_session=True)\n"
        "time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, owner, rank, marker], stderr=subprocess.PIPE, start_new_session=True)
    try:
        for _ in range(600):
            if len(ranks_of(process.pid)) == 2 and runs(f"child-of-{marker}"):
                break
            time.sleep(0.05)
        assert len(ranks_of(process.pid)) == 2
        process.send_signal(number)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert gone(f"{rank}\0{marker}")
    if number == signal.SIGKILL:
        with testbed.star(1, None):
            assert namespaces_of(process.pid) == []
            testbed.remove_stale()
            assert len(namespaces_of(os.getpid())) == 2  # of a living owner: left alone
    assert gone(f"child-of-{marker}")  # a session of its own: found by the namespace it is in
    assert namespaces_of(process.pid) == []


def ranks_of(pid: int) -> list[str]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [child for child in children if b"rank.py" in Path(f"/proc/{child}/cmdline").read_bytes()]


def test_two_testbeds_at_once_do_not_meet(namespaces, script):
    path = script(SEND)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with testbed.star(2, "100mbit") as bed:
                run = bed.run(path, [200_000, "10.77.0.2"], timeout_s=60)
                assert 200_000 < run.traffic[0].sent <= 200_000 * FRAME
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert namespaces_of(os.getpid()) == []
