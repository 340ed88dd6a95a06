"""Competing traffic: a paced sender and its receiver, run as a script on two hosts of a testbed.

    python testbed_sender.py receive tcp|udp ADDRESS            counts until SIGTERM
    python testbed_sender.py send tcp|udp ADDRESS PORT BIT/S    sends 1400-byte pieces until SIGTERM

Each prints its port when it is ready, and its bytes of payload at the end. Standard library only: it starts in a few
hundredths of a second.
"""

from __future__ import annotations

import signal
import socket
import sys
import time

PIECE = bytes(1400)  # one Ethernet frame
_LONGEST_ARREARS_S = 0.05  # what a sender that was held up makes good at once; the rest is let go


class _Stopped(Exception):
    pass


def _stop(number: int, frame: object) -> None:
    raise _Stopped


def receive(kind: str, address: str) -> int:
    """Count payload bytes until SIGTERM."""
    family = socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM
    count = 0
    with socket.socket(socket.AF_INET, family) as door:
        door.bind((address, 0))
        if kind == "tcp":
            door.listen(1)
        try:
            print(door.getsockname()[1], flush=True)
            source = door if kind == "udp" else door.accept()[0]
            while piece := source.recv(1 << 16):
                count += len(piece)
            signal.pause()
        except _Stopped:
            pass
    return count


def send(kind: str, address: str, port: int, rate: int) -> int:
    """Send at `rate` bit/s of payload until SIGTERM; TCP sends less where the network gives less."""
    family = socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM
    pause = len(PIECE) * 8 / rate
    count = 0
    with socket.socket(socket.AF_INET, family) as out:
        out.connect((address, port))
        due = time.monotonic()
        try:
            print(port, flush=True)
            while True:
                now = time.monotonic()
                due = max(due, now - _LONGEST_ARREARS_S)
                if due > now:
                    time.sleep(due - now)
                count += _send_piece(out)
                due += pause
        except (_Stopped, ConnectionError):
            pass
    return count


def _send_piece(out: socket.socket) -> int:
    try:
        return out.send(PIECE)
    except ConnectionRefusedError:  # a datagram's receiver that is not there any more
        return 0


def main() -> None:
    """Read the command line above."""
    signal.signal(signal.SIGTERM, _stop)
    verb, kind, address, *rest = sys.argv[1:]
    print(receive(kind, address) if verb == "receive" else send(kind, address, int(rest[0]), int(rest[1])))


if __name__ == "__main__":
    main()
