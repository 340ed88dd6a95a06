"""How ranks meet: run number, addresses, sizes and keys go once over the process group (AggregaThor §2.4).

Each receiver draws a key for every sender and gives it to that sender alone, so that no rank can sign for another. Who
can read the process group's traffic can read the keys: they keep out strangers and other ranks, not the owner of the
network. Raw tensors only: nothing that is read can run.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from drivetrain.base.errors import InvalidValue, RunFailed

from .datagram import KEY_BYTES, VERSION
from .layout import Layout


@dataclass(frozen=True)
class Meeting:
    """What every rank knows after the start; lists are in the order of ranks.

    Attributes:
        rank, world_size: of this process.
        run: a number that no earlier run had, most likely.
        addresses: (host, port) of each rank.
        layouts: what each rank takes from every other.
        signing: the key that each rank gave us to sign with.
        checking: the key that we gave each rank.
    """

    rank: int
    world_size: int
    run: int
    addresses: list[tuple[str, int]]
    layouts: list[Layout]
    signing: list[bytes]
    checking: list[bytes]


def meet(group: dist.ProcessGroup | None, door: socket.socket, layout: Layout) -> Meeting:
    """Exchange all that a channel needs; every rank of the group calls it at the same time.

    Raises:
        InvalidValue: ranks differ in version or type of values; names the first that does.
    """
    if dist.get_backend(group) != "gloo":
        group = dist.new_group(backend="gloo")  # of all ranks: this is a few bytes in the main memory
    rank, n = dist.get_rank(group), dist.get_world_size(group)
    run = torch.tensor([secrets.randbits(31)])
    dist.broadcast(run, dist.get_global_rank(group, 0) if group is not None else 0, group=group)
    kinds = _gather(torch.tensor([VERSION, layout.value_bytes, len(layout.sizes)]), n, group)
    for other, kind in enumerate(kinds):
        if kind[:2].tolist() != kinds[0][:2].tolist():
            raise InvalidValue(
                f"comm: udp: rank {other} has version {int(kind[0])} and values of {int(kind[1])} bytes, "
                f"rank 0 version {int(kinds[0][0])} and {int(kinds[0][1])} bytes",
                hint="open the channel with the same dtype on all ranks",
            )
    most = max(int(kind[2]) for kind in kinds)
    sizes = torch.zeros(most, dtype=torch.int64)
    sizes[: len(layout.sizes)] = torch.tensor(layout.sizes, dtype=torch.int64)
    listed = _gather(sizes, n, group)
    layouts = [
        Layout(tuple(row[: int(kind[2])].tolist()), layout.value_bytes) for row, kind in zip(listed, kinds, strict=True)
    ]
    host, port = door.getsockname()
    place = _gather(torch.tensor([*socket.inet_aton(host), port], dtype=torch.int64), n, group)
    addresses = [(socket.inet_ntoa(bytes(row[:4].tolist())), int(row[4])) for row in place]
    checking = [secrets.token_bytes(KEY_BYTES) for _ in range(n)]
    given = torch.frombuffer(bytearray(b"".join(checking)), dtype=torch.uint8)
    taken = torch.empty_like(given)
    dist.all_to_all_single(taken, given, group=group)
    signing = [bytes(key.tolist()) for key in taken.view(n, KEY_BYTES)]
    return Meeting(rank, n, int(run), addresses, layouts, signing, checking)


def open_door(address: str | None) -> socket.socket:
    """A bound UDP socket with a queue as large as the system allows.

    Args:
        address: the IPv4 address at which other ranks reach this one; None is the one with which this machine reaches
            MASTER_ADDR, and loopback without that.

    Raises:
        RunFailed: the address is not this machine's.
    """
    host = address or _own_address(os.environ.get("MASTER_ADDR", "127.0.0.1"))
    door = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        door.setsockopt(socket.SOL_SOCKET, option, 4 << 20)
    try:
        door.bind((host, 0))
    except OSError as error:
        door.close()
        raise RunFailed(
            f"comm: udp: can't listen at {host}: {(error.strerror or str(error)).lower()}",
            hint="give address=, an IPv4 address of this machine that other ranks can reach",
        ) from None
    return door


def _own_address(peer: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((peer, 9))  # sends nothing: it only looks up the route
        except OSError as error:
            raise RunFailed(
                f"comm: udp: no way to {peer}: {(error.strerror or str(error)).lower()}", hint="give address="
            ) from None
        return str(probe.getsockname()[0])


def _gather(row: Tensor, n: int, group: dist.ProcessGroup | None) -> Sequence[Tensor]:
    rows = [torch.empty_like(row) for _ in range(n)]
    dist.all_gather(rows, row, group=group)
    return rows
