"""The two networks under a testbed: namespaces with rate-limited links, and the loopback device.

A namespace is named `drivetrain-bed-<pid>-<start>-<serial>-<role>`: pid and start time tell whether its owner still
lives, so that what a killed run left behind is found and removed by the next one. Every interface is made inside a
namespace and never seen by the host; its names (`dtlink`, `dtport0`, ...) are our own all the same.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from drivetrain.base.errors import RunFailed

from .testbed_links import Link, make_link

LINK = "dtlink"  # a host's one interface
_BRIDGE, _UPLINK = "dtbridge", "dtuplink"
_NAMES = Path("/var/run/netns")
_OURS = re.compile(r"drivetrain-bed-(\d+)-(\d+)-\d+-\w+")
_serial = itertools.count()


@dataclass(frozen=True)
class Traffic:
    """Bytes that an interface sent and received, headers of Ethernet, IP and TCP included."""

    sent: int
    received: int

    def __sub__(self, earlier: Traffic) -> Traffic:
        return Traffic(self.sent - earlier.sent, self.received - earlier.received)


class Network(Protocol):
    """What a testbed needs of the network under it."""

    hosts: tuple[str, ...]

    def build(self) -> None: ...
    def remove(self) -> None: ...
    def kill_processes(self) -> None: ...
    def enter(self, host: str) -> list[str]: ...
    def address(self, host: str) -> str: ...
    def environment(self, host: str) -> dict[str, str]: ...
    def counters(self) -> dict[str, Traffic]: ...


class Namespaces:
    """Hosts in racks; with more than one rack, the racks hang on a spine by uplinks of their own rate.

    Args:
        racks: the names of the hosts in each rack, e.g. [["rank0", "rank1"], ["rank2", "rank3"]].
        link: of every host. uplink: of every rack; unused with one rack.
    """

    def __init__(self, racks: Sequence[Sequence[str]], link: Link, uplink: Link) -> None:
        self.racks = [list(hosts) for hosts in racks]
        self.link, self.uplink = link, uplink
        self.hosts = tuple(host for hosts in racks for host in hosts)
        self._addresses = {
            host: f"10.77.{rack}.{position + 1}"
            for rack, hosts in enumerate(racks)
            for position, host in enumerate(hosts)
        }
        self._prefix = f"drivetrain-bed-{os.getpid()}-{_start_time(os.getpid())}-{next(_serial)}-"
        self._made: list[str] = []
        self._owner = os.getpid()

    def build(self) -> None:
        """Make everything; `remove` is to be called also when this fails half-way."""
        spine = len(self.racks) > 1
        if spine:
            self._add_bridge("spine")
        for rack, hosts in enumerate(self.racks):
            self._add_bridge(f"rack{rack}")
            if spine:
                self._connect("spine", rack, f"rack{rack}", _UPLINK, self.uplink)
                self._ip(f"rack{rack}", "link", "set", _UPLINK, "master", _BRIDGE)
            for position, host in enumerate(hosts):
                self._add(host)
                self._connect(f"rack{rack}", position, host, LINK, self.link)
                self._ip(host, "address", "add", f"{self._addresses[host]}/16", "dev", LINK)

    def remove(self) -> None:
        """Kill what still runs inside and remove every namespace; never raises."""
        if os.getpid() != self._owner:  # a forked child that leaves the same `with`
            return
        with _uninterrupted():
            _remove(reversed(self._made))
            self._made.clear()

    def kill_processes(self) -> None:
        """Kill every process inside, also those that a rank started and left."""
        for name in self._made:
            _kill_inside(name)

    def enter(self, host: str) -> list[str]:
        """The words before a command that make it run on `host`."""
        return ["ip", "netns", "exec", self._prefix + host]

    def address(self, host: str) -> str:
        """The IPv4 address of `host`."""
        return self._addresses[host]

    def environment(self, host: str) -> dict[str, str]:
        """What gloo must know on `host`."""
        return {"GLOO_SOCKET_IFNAME": LINK}

    def counters(self) -> dict[str, Traffic]:
        """Bytes since the start at the interface of each host, and at the uplink of each rack ("rack0", ...)."""
        interfaces = dict.fromkeys(self.hosts, LINK)
        if len(self.racks) > 1:
            interfaces |= {f"rack{rack}": _UPLINK for rack in range(len(self.racks))}
        readers = {}
        for role, interface in interfaces.items():
            files = [f"/sys/class/net/{interface}/statistics/{kind}_bytes" for kind in ("tx", "rx")]
            readers[role] = subprocess.Popen([*self.enter(role), "cat", *files], stdout=subprocess.PIPE, text=True)
        return {role: Traffic(*map(int, reader.communicate()[0].split())) for role, reader in readers.items()}

    def _add(self, role: str) -> None:
        name = self._prefix + role
        self._made.append(name)  # before it exists: an interrupt between the two lines must not lose it
        _tool("ip", "netns", "add", name)
        self._ip(role, "link", "set", "lo", "up")

    def _add_bridge(self, role: str) -> None:
        self._add(role)
        # No spanning tree and no multicast queries: the counters hold what hosts send, and nothing else.
        self._ip(role, *f"link add {_BRIDGE} type bridge stp_state 0 mcast_snooping 0".split())
        self._ip(role, *f"link set {_BRIDGE} addrgenmode none up".split())

    def _connect(self, bridge: str, port: int, far: str, far_name: str, link: Link) -> None:
        """A veth pair from the bridge in namespace `bridge` to `far`, with a token bucket at both ends."""
        near_name = f"dtport{port}"
        self._ip(bridge, *f"link add {near_name} type veth peer name {far_name} netns".split(), self._prefix + far)
        self._ip(bridge, *f"link set {near_name} master {_BRIDGE}".split())
        for role, interface in ((bridge, near_name), (far, far_name)):
            frame = [] if link.largest_frame is None else ["gso_max_size", str(link.largest_frame)]
            self._ip(role, "link", "set", interface, "addrgenmode", "none", *frame, "up")
            if link.rate is not None:
                _tool("tc", "-n", self._prefix + role, "qdisc", "add", "dev", interface, "root", *link.tbf())

    def _ip(self, role: str, *words: str) -> None:
        _tool("ip", "-n", self._prefix + role, *words)


class Loopback:
    """All ranks on this machine's loopback device: no root, no rate, no bytes per rank."""

    def __init__(self, world_size: int) -> None:
        self.hosts = tuple(f"rank{rank}" for rank in range(world_size))

    def build(self) -> None:
        """Nothing to make."""

    def remove(self) -> None:
        """Nothing to remove."""

    def kill_processes(self) -> None:
        """Ranks are killed with their sessions; there is no other bound to what is ours."""

    def enter(self, host: str) -> list[str]:
        """No words: every host is this one."""
        return []

    def address(self, host: str) -> str:
        """The loopback address."""
        return "127.0.0.1"

    def environment(self, host: str) -> dict[str, str]:
        """What gloo must know to stay on the loopback device."""
        return {"GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo"}

    def counters(self) -> dict[str, Traffic]:
        """None: the device is shared by all ranks and all other programs."""
        return {}


def available() -> str | None:
    """Why namespaces with rate-limited links can't be made here, or None when they can."""
    if not sys.platform.startswith("linux"):
        return f"network namespaces need Linux, this is {sys.platform}"
    if os.geteuid() != 0:
        return "network namespaces need root (run with sudo)"
    for command in ("ip", "tc"):
        if shutil.which(command) is None:
            return f"no `{command}` command (apt install iproute2)"
    trial = Namespaces([["trial"]], make_link("1mbit"), make_link(None))
    try:
        trial.build()  # the only sure test: a container's root often may not, and a kernel may lack tbf
    except RunFailed as error:
        return error.message
    finally:
        trial.remove()
    return None


def remove_stale() -> list[str]:
    """Remove the namespaces whose owner is dead, with what runs in them; returns their names."""
    found = sorted(entry.name for entry in _NAMES.iterdir()) if _NAMES.is_dir() else []
    matches = [match for match in map(_OURS.fullmatch, found) if match]
    stale = [match[0] for match in matches if _start_time(int(match[1])) != match[2]]
    _remove(stale)
    return stale


def _remove(names: Iterable[str]) -> None:
    for name in names:
        if (_NAMES / name).exists():
            _kill_inside(name)
            # Another process that removes the same stale one may be faster: then there is nothing left to do.
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def _kill_inside(name: str) -> None:
    inside = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True)
    for pid in inside.stdout.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


def _start_time(pid: int) -> str | None:
    """The clock tick at which a process started, which no later process of that pid shares; None when it is dead."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ignore Ctrl-C, here and in the commands that are started: a second one must not stop the cleaning."""
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not the main thread, which Ctrl-C does not reach
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _tool(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        raise RunFailed(f"comm: testbed: `{' '.join(words)}` failed: {done.stderr.strip() or done.returncode}")
