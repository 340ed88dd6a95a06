"""A slow network on one machine: the rig of every comm benchmark.

    with testbed.star(4, rate="20mbit") as bed:
        run = bed.run("train.py", ["--steps", 10], timeout_s=120)
    run.results        what each rank gave to `testbed.hand_back`
    run.traffic        bytes that each rank sent and received, from the counters of its interface

Each rank runs in a network namespace of its own, joined by a veth pair to a bridge; `tc tbf` limits both ends of each
link. `racks` puts bridges in racks on a spine with uplinks of their own rate. Both need root and iproute2
(`available()` says what is missing). `loopback` has the same interface, needs nothing, and limits and counts nothing.

Only its own namespaces are touched; they are removed at the end of the `with`, after an exception, Ctrl-C or SIGTERM,
and by the next testbed after a kill -9. Sources: 3LC and BlueConnect, the test benches of their specs.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from drivetrain.base.errors import InvalidValue, RunFailed, unknown_name
from drivetrain.base.files import write_json

from .testbed_links import make_link, parse_rate
from .testbed_network import LINK, Loopback, Namespaces, Network, Traffic, available, remove_stale
from .testbed_ranks import Rank, RankFailed, Target, termination_unwinds, wait
from .testbed_traffic import Flow, flow

__all__ = [
    "Flow",
    "Mark",
    "RankFailed",
    "Run",
    "Testbed",
    "Traffic",
    "Unavailable",
    "available",
    "hand_back",
    "loopback",
    "parse_rate",
    "racks",
    "rank_traffic",
    "remove_stale",
    "star",
]


class Unavailable(RunFailed):
    """This machine can't limit links; the message says why."""


@dataclass(frozen=True)
class Mark:
    """The counters of all interfaces at one moment."""

    counters: Mapping[str, Traffic]


@dataclass(frozen=True)
class Run:
    """What all ranks left; lists are in the order of ranks.

    Attributes:
        seconds: from the start of the first rank to the end of the last, interpreters' start included.
        stdout, stderr: what each rank wrote.
        results: what each rank gave to `hand_back`; None where it gave nothing.
        traffic: bytes of each rank over the whole run, rendezvous included; None on the loopback form.
    """

    seconds: float
    stdout: list[str]
    stderr: list[str]
    results: list[Any]
    traffic: list[Traffic | None]


class Testbed:
    """An open testbed; made by `star`, `racks` or `loopback`."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.world_size = sum(host.startswith("rank") for host in network.hosts)

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names of all hosts: "rank0", ..., "extra0", ..."""
        return self._network.hosts

    def run(
        self,
        module_or_script: str | Path,
        args: Sequence[object] = (),
        env: Mapping[str, str] | None = None,
        *,
        timeout_s: float = 300,
    ) -> Run:
        """Run one process per rank and wait for all of them.

        Every rank finds RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT, GLOO_SOCKET_IFNAME and
        OMP_NUM_THREADS=1 in its environment, so that a plain `init_process_group("gloo")` works.

        Args:
            module_or_script: "path/to/script.py" or "package.module"; it runs with this Python in this folder.
            args: its command line.
            env: goes over what ranks inherit and over the above.
            timeout_s: for the whole run, in seconds.

        Raises:
            RankFailed: a rank ended with an error or a signal, or ran too long. All ranks are killed by then.
            MissingFile, InvalidValue: no such script.
        """
        target = Target.of(module_or_script)
        words = [*target.words, *map(str, args)]
        ranks: list[Rank] = []
        with tempfile.TemporaryDirectory(prefix="drivetrain-bed-") as folder, self._rendezvous() as rendezvous:
            before, started = self.mark(), time.perf_counter()
            try:
                for number in range(self.world_size):
                    host = f"rank{number}"
                    environment = self._environment(number) | rendezvous | dict(env or {})
                    ranks.append(Rank(number, [*self._network.enter(host), *words], environment, Path(folder)))
                wait(ranks, target, timeout_s)
                seconds = time.perf_counter() - started
            finally:
                for rank in ranks:
                    rank.kill()
                self._network.kill_processes()
            return Run(
                seconds,
                [rank.stdout_file.read_text(errors="replace") for rank in ranks],
                [rank.stderr_file.read_text(errors="replace") for rank in ranks],
                [rank.result() for rank in ranks],
                self.since(before),
            )

    def mark(self) -> Mark:
        """The counters now, to be given to `since`."""
        return Mark(self._network.counters())

    def since(self, mark: Mark) -> list[Traffic | None]:
        """Bytes that each rank sent and received since `mark`; None for each on the loopback form."""
        now = self._network.counters()
        hosts = [f"rank{number}" for number in range(self.world_size)]
        return [now[host] - mark.counters[host] if host in now else None for host in hosts]

    def uplinks_since(self, mark: Mark) -> list[Traffic]:
        """Bytes that each rack sent to the spine and received from it since `mark`; empty without racks."""
        now = self._network.counters()
        return [now[name] - mark.counters[name] for name in now if name.startswith("rack")]

    @contextmanager
    def compete(
        self,
        rate: str | float,
        kind: Literal["udp", "tcp"] = "udp",
        *,
        source: str = "extra0",
        sink: str | None = None,
    ) -> Iterator[Flow]:
        """A paced sender from host to host for as long as the `with` lasts; `Flow` tells its bytes afterwards.

        Args:
            rate: of the payload, in 1400-byte pieces; "18mbit" or bit/s. TCP sends less where it gets less.
            source, sink: hosts (see `hosts`). The default sink is "extra1" in racks, so that the uplinks are shared,
                and "rank0" in a star, where two extra hosts share no link with any rank.

        Raises:
            InvalidValue: an unknown host, or a pair of hosts that shares no link with a rank.
        """
        network = self._network
        if not isinstance(network, Namespaces):
            raise InvalidValue(
                "comm: testbed: the loopback form has no links to compete for", hint="use star() or racks()"
            )
        in_racks = len(network.racks) > 1
        sink = sink or ("extra1" if in_racks else "rank0")
        for name, host in (("source", source), ("sink", sink)):
            if host not in self.hosts:
                raise unknown_name(f"comm: testbed: {name}", host, self.hosts)
        if source == sink or (not in_racks and source.startswith("extra") and sink.startswith("extra")):
            raise InvalidValue(
                f"comm: testbed: traffic from {source} to {sink} shares no link with a rank",
                hint='in a star, let source or sink be a rank: sink="rank0"',
            )
        if kind not in ("udp", "tcp"):
            raise unknown_name("comm: testbed: kind of traffic", kind, ("udp", "tcp"))
        with flow(network.enter(source), network.enter(sink), network.address(sink), kind, parse_rate(rate)) as running:
            yield running

    def _environment(self, rank: int) -> dict[str, str]:
        host = f"rank{rank}"
        local = 0 if isinstance(self._network, Namespaces) else rank
        return {
            **os.environ,
            "RANK": str(rank),
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_RANK": str(local),
            "MASTER_ADDR": self._network.address("rank0"),
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",  # so that the last lines of a killed rank are its last
            "TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR"),
            **self._network.environment(host),
        }

    @contextmanager
    def _rendezvous(self) -> Iterator[dict[str, str]]:
        """Where ranks meet: at rank 0 in its namespace; on loopback at a store of this process.

        A rank's own store would listen on all interfaces, which inside a namespace is no harm and on the host is.
        """
        if isinstance(self._network, Namespaces):
            yield {"MASTER_PORT": "29500", "TORCHELASTIC_USE_AGENT_STORE": "False"}
            return
        from torch.distributed import TCPStore

        door = socket.create_server(("127.0.0.1", 0))
        port = door.getsockname()[1]
        store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=door.detach())
        yield {"MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
        del store


def star(
    world_size: int,
    rate: str | float | None,
    *,
    burst: str | int = "256kb",
    latency: float = 0.1,
    limit: str | int | None = None,
    extra_hosts: int = 0,
) -> AbstractContextManager[Testbed]:
    """Ranks around one bridge, each on a link of `rate`.

    Args:
        world_size: ranks, 1 to 250.
        rate: of each link in each direction: "20mbit", "1gbit", bit/s, or None for no limit.
        burst: bytes that may pass at once.
        latency: seconds that a byte may wait in a queue; sets the queue's size.
        limit: the queue's size in bytes, instead of `latency`; a small one makes UDP lose datagrams.
        extra_hosts: hosts without a rank, for `Testbed.compete`.

    Raises:
        InvalidValue: a value out of range. Unavailable: not root, or no `ip` or `tc` (at the `with`).
    """
    _check_count("world_size", world_size, 1)
    link = make_link(rate, burst, latency, limit)
    hosts = [*_names("rank", world_size), *_names("extra", _check_count("extra_hosts", extra_hosts, 0))]
    return _open(Namespaces([hosts], link, link))


def racks(
    count: int,
    hosts: int,
    *,
    host_rate: str | float | None,
    uplink_rate: str | float | None,
    deal: Literal["contiguous", "round-robin"] = "contiguous",
    burst: str | int = "256kb",
    latency: float = 0.1,
    limit: str | int | None = None,
    extra_hosts: int = 0,
) -> AbstractContextManager[Testbed]:
    """`count` racks of `hosts` ranks each: a bridge per rack, joined to a spine bridge by uplinks (BlueConnect).

    Args:
        count, hosts: racks, and ranks in each; 1 to 250.
        host_rate, uplink_rate: in each direction, as in `star`.
        deal: "contiguous" puts ranks 0, 1, ... into rack 0 first; "round-robin" puts rank r into rack r mod count.
        burst, latency, limit: of all links, as in `star`.
        extra_hosts: dealt over the racks in turn, so that extra0 and extra1 share the uplinks with the ranks.
    """
    _check_count("count", count, 1)
    _check_count("hosts", hosts, 1)
    if deal not in ("contiguous", "round-robin"):
        raise unknown_name("comm: testbed: deal", deal, ("contiguous", "round-robin"))
    ranks = _names("rank", count * hosts)
    extras = _names("extra", _check_count("extra_hosts", extra_hosts, 0))
    dealt = [
        (ranks[rack::count] if deal == "round-robin" else ranks[rack * hosts : (rack + 1) * hosts])
        + extras[rack::count]
        for rack in range(count)
    ]
    links = [make_link(rate, burst, latency, limit) for rate in (host_rate, uplink_rate)]
    return _open(Namespaces(dealt, *links))


def loopback(world_size: int) -> AbstractContextManager[Testbed]:
    """The same interface on this machine's loopback device: no root, no limit, no bytes (`traffic` is None)."""
    _check_count("world_size", world_size, 1)
    return _open(Loopback(world_size))


def hand_back(result: Any) -> None:
    """Called in a rank: give `result` (anything that JSON holds) to `Run.results`; outside a testbed, print it."""
    file = os.environ.get("DRIVETRAIN_RESULT")
    if file is None:
        print(json.dumps(result))
    else:
        write_json(file, result)


def rank_traffic() -> Traffic | None:
    """Called in a rank: the bytes of its link so far; None where none are counted (loopback, no testbed).

    To count a step, subtract two readings with a barrier before each: a collective may return while its last bytes
    still wait in this rank's queue, which counts them when they leave.
    """
    folder = Path(f"/sys/class/net/{LINK}/statistics")
    if not folder.is_dir():
        return None
    return Traffic(*(int((folder / f"{kind}_bytes").read_text()) for kind in ("tx", "rx")))


@contextmanager
def _open(network: Network) -> Iterator[Testbed]:
    if isinstance(network, Namespaces):
        reason = available()
        if reason is not None:
            raise Unavailable(
                f"comm: testbed: {reason}", hint="testbed.loopback(world_size) runs the same ranks without limits"
            )
        remove_stale()
    with termination_unwinds():
        try:
            network.build()
            yield Testbed(network)
        finally:
            network.remove()


def _names(kind: str, count: int) -> list[str]:
    return [f"{kind}{number}" for number in range(count)]


def _check_count(name: str, found: int, least: int) -> int:
    if not isinstance(found, int) or not least <= found <= 250:
        raise InvalidValue(f"comm: testbed: {name} {found!r} is not a whole number from {least} to 250")
    return found
