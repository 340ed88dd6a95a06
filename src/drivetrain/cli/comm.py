"""`drivetrain comm`: what gradients cost on the wire."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .comm_audit import register as register_audit
from .comm_period import register as register_period
from .show import console, print_json, table

if TYPE_CHECKING:
    from drivetrain.comm.codec.convert import FileReport

app = typer.Typer(no_args_is_help=True)

_ROWS = 12  # of the table by tensor; --json has all


@app.callback()
def _room() -> None:
    """The exchange of gradients."""


@app.command()
def encode(
    file: Annotated[Path, typer.Argument(metavar="FILE.safetensors", help="Recorded gradients, or any tensors.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="The file to write. (default: FILE.3lc)")] = None,
    codec: Annotated[str, typer.Option(help="3lc, fp16, topk or raw.")] = "3lc",
    s: Annotated[float | None, typer.Option("-s", help="3lc: sparsity multiplier, 1 to below 2. (default: 1)")] = None,
    block: Annotated[
        int | None, typer.Option(help="3lc: values that share a scale, 0: the whole tensor. (default: 4096)")
    ] = None,
    scale: Annotated[str | None, typer.Option(help="3lc: scale from max or rms. (default: max)")] = None,
    scale_dtype: Annotated[str | None, typer.Option(help="3lc: float32 or float16 scales. (default: float32)")] = None,
    ratio: Annotated[float | None, typer.Option(help="topk: share of values that is kept. (default: 0.01)")] = None,
    crc: Annotated[bool, typer.Option("--crc", help="End each message with a CRC-32.")] = False,
    raw: Annotated[list[str] | None, typer.Option(help="Glob of tensors to leave as they are; repeatable.")] = None,
    min_numel: Annotated[int, typer.Option(help="Leave tensors with fewer values as they are.")] = 1024,
    json: Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")] = False,
) -> None:
    """Write tensors as a .3lc file, and tell how much smaller it is and what it lost."""
    from drivetrain.comm.codec.convert import encode_file
    from drivetrain.comm.codec.registry import get
    from drivetrain.comm.codec.rules import CodecRules, Rule

    given = {"s": s, "block": block, "scale": scale, "scale_dtype": scale_dtype, "ratio": ratio, "crc": crc or None}
    chosen = get(codec, **{option: value for option, value in given.items() if value is not None})
    rules = [Rule("raw", match=glob) for glob in raw or ()]
    target = out or file.with_suffix(".3lc")
    report = encode_file(file, target, CodecRules(chosen, rules, min_numel=min_numel))
    _print(report, json, f"next: drivetrain comm decode {target} -o {target.with_suffix('.decoded.safetensors')}")


@app.command()
def decode(
    file: Annotated[Path, typer.Argument(metavar="FILE.3lc", help="What `encode` wrote.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="The file to write. (default: FILE.decoded.safetensors)")
    ] = None,
    original: Annotated[Path | None, typer.Option(help="The file it was made of, to tell the error.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")] = False,
) -> None:
    """Write the tensors of a .3lc file as safetensors."""
    from drivetrain.comm.codec.convert import decode_file

    target = out or file.with_suffix(".decoded.safetensors")
    report = decode_file(file, target, original)
    _print(report, json, None if original else "next: add --original FILE.safetensors to see what was lost")


@app.command()
def bench(
    codec: Annotated[
        str, typer.Option(help="Codecs to measure, with commas: 3lc, fp16, topk, raw, auto, fp16-hook, powersgd:RANK.")
    ] = "3lc,fp16,powersgd:1",
    rate: Annotated[
        str | None, typer.Option(help="Rate of each rank's link, e.g. 100mbit; needs root. (default: loopback)")
    ] = None,
    ranks: Annotated[int, typer.Option(help="Processes.")] = 4,
    steps: Annotated[int, typer.Option(help="Steps of each that count.")] = 5,
    hidden: Annotated[int, typer.Option(help="Width of the network 784 - H - H - 10.")] = 1024,
    json: Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")] = False,
) -> None:
    """Measure steps under each codec beside plain DDP, on links of your network's rate."""
    from drivetrain.comm.bench import bench as measure

    report = measure(codec.split(","), rate=rate, ranks=ranks, steps=steps, hidden=hidden)
    if json:
        print_json(report.to_dict())
        return
    console.print(f"[bold]{report.verdict}[/]", soft_wrap=True)
    rows = [
        (
            cost.name, f"{1e3 * cost.seconds:.3g} ms", f"{1e3 * cost.low:.3g} - {1e3 * cost.high:.3g}",
            f"{cost.ratio:.2f}", "not counted" if cost.bytes is None else _bytes(round(cost.bytes)),
        )
        for cost in report.methods
    ]  # fmt: skip
    table("", ("method", "step", "range, ms", "to DDP", "bytes sent a step"), rows)
    for cost in report.methods:
        if cost.decision:
            console.print(f"{cost.name}: {cost.decision}", soft_wrap=True)
    best = min(report.methods, key=lambda cost: cost.seconds).name
    if rate is None:
        console.print("next: as root, --rate 100mbit measures links like yours")
    elif best in ("3lc", "fp16", "topk", "raw"):
        console.print(f'next: Exchange("{best}").attach(ddp)')


def _print(report: FileReport, json: bool, following: str | None) -> None:
    if json:
        print_json({**asdict(report), "ratio": report.ratio, "max_error": report.max_error})
        return
    error = "" if report.max_error is None else f", largest error {report.max_error:.4g}"
    console.print(
        f"[bold]{report.target}: {report.ratio:.1f}x[/] ({_bytes(report.raw_bytes)} as safetensors, "
        f"{_bytes(report.coded_bytes)} as .3lc){error}",
        soft_wrap=True,
    )
    largest = sorted(report.tensors, key=lambda tensor: -tensor.raw_bytes)
    table("", ("tensor", "shape", "codec", "bytes", "ratio", "largest value", "error"), map(_row, largest[:_ROWS]))
    if len(largest) > _ROWS:
        console.print(f"and {len(largest) - _ROWS} smaller ones (--json has all)")
    if following:
        console.print(following, soft_wrap=True)


def _row(tensor: Any) -> tuple[Any, ...]:
    shape = " x ".join(map(str, tensor.shape)) or "scalar"
    ratio = tensor.raw_bytes / tensor.coded_bytes if tensor.coded_bytes else 1.0
    error = "" if tensor.max_error is None else tensor.max_error
    return tensor.name, shape, tensor.codec, tensor.coded_bytes, f"{ratio:.1f}x", float(tensor.peak), error


def _bytes(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} B"


register_audit(app)
register_period(app)
