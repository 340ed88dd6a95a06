"""`drivetrain graph`: trace, explain, report; other files of the room add their commands at the end of this one."""

from __future__ import annotations

import importlib.util
import json as json_format
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from drivetrain.base.errors import InvalidValue, MissingFile, unknown_name

from .graph_batchnorm import register as register_batchnorm
from .graph_rewrite import register as register_rewrite
from .show import console, print_json, table

app = typer.Typer(no_args_is_help=True, add_completion=False)

Target = Annotated[
    str, typer.Argument(help="What to trace: file.py:name, a function, a staged function or an nn.Module.")
]
Specs = Annotated[
    list[str], typer.Option("--spec", help='One per argument: sizes, then dtype: "B:1..64,3,224,224:f32".')
]
Json = Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")]


@app.command()
def trace(
    target: Target,
    spec: Specs,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the graph as a .pt2 file.")] = None,
    json: Json = False,
) -> None:
    """Trace a function for arguments of given shapes; show what came of it, write it to a file."""
    made = _trace(target, spec)
    path = made.exported(output) if output is not None else None
    if json:
        print_json(_facts(made) | {"file": None if path is None else str(path)})
        return
    console.print(f"{made.name}: {made.nodes} operators, {made.seconds:.2f} s", markup=False, soft_wrap=True)
    table("", ("argument", "tensor"), [line.split(": ", 1) for line in made.structured_inputs])
    if made.captures:
        rows = [(c.name, c.kind, f"{list(c.tensor.shape)}", c.tensor.nbytes) for c in made.captures]
        table("captured", ("name", "kind", "shape", "bytes"), rows[:20])
    for effect in made.side_effects:
        console.print(f"note: {effect}", markup=False, soft_wrap=True)
    if path is not None:
        console.print(f"written to {path}; next: drivetrain.load({str(path)!r})", markup=False, soft_wrap=True)


@app.command()
def explain(
    target: Target,
    spec: Specs,
    other: Annotated[list[str] | None, typer.Option("--beside", help="Another call: one Spec per argument.")] = None,
    json: Json = False,
) -> None:
    """Say what a trace holds, operator by operator with its source line; with --beside, whether a call fits it."""
    made = _trace(target, spec)
    lines = made.source_map
    rows = [
        (node.name, str(node.target), lines[node.name].short if node.name in lines else "")
        for node in made.graph.graph.nodes
        if node.op.startswith("call_")
    ]
    verdict = _beside(target, spec, other) if other else None
    if json:
        operators = [dict(zip(("name", "operator", "line"), row, strict=True)) for row in rows]
        print_json(_facts(made) | {"operators": operators, "beside": verdict})
        return
    if verdict is not None:
        console.print(verdict, markup=False, soft_wrap=True)
        return
    console.print(f"{made!r}", markup=False, soft_wrap=True)
    table("", ("node", "operator", "line"), rows[:40])
    if len(rows) > 40:
        console.print(f"{len(rows) - 40} more: --json")


@app.command()
def report(
    file: Annotated[
        Path, typer.Argument(help="A file of traces (DRIVETRAIN_TRACES=FILE writes it), or a script to run.")
    ],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the traces of the script here.")] = None,
    json: Json = False,
) -> None:
    """All traces of a run: how often which function was traced, for what, in what time, with what memory."""
    from drivetrain.graph.staging import report as traces

    if not file.is_file():
        raise MissingFile(f"graph: there is no file {file}")
    if file.suffix == ".py":
        before = len(traces.TRACES)
        runpy.run_path(str(file), run_name="__main__")
        content: dict[str, Any] = {"traces": traces.TRACES[before:]}
        if output is not None:
            traces.write(output, since=before)
    else:
        content = _read(file)
    if json:
        print_json(content)
        return
    found = content["traces"]
    seconds = sum(item["seconds"] for item in found)
    console.print(
        f"{len(found)} traces of {len({item['function'] for item in found})} functions, {seconds:.2f} s in all"
    )
    rows = [
        (
            item["function"],
            item["number"],
            ", ".join(item["arguments"])[:60],
            item["nodes"],
            item["seconds"],
            f"{item['capture_bytes'] / 2**20:.1f}",
        )
        for item in sorted(found, key=lambda item: -item["seconds"])[:30]
    ]
    table("", ("function", "trace", "arguments", "operators", "seconds", "captured MiB"), rows)
    for item in found:
        for effect in item["side_effects"]:
            console.print(f"note: {item['function']}: {effect}", markup=False, soft_wrap=True)


def _read(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json_format.loads(file.read_text())
    except ValueError as error:
        raise InvalidValue(
            f"graph: {file} is no file of traces: {error}", hint="DRIVETRAIN_TRACES=FILE writes one"
        ) from error
    if not isinstance(content, dict) or content.get("format") != "drivetrain traces 1":
        raise InvalidValue(f"graph: {file} is no file of traces", hint="DRIVETRAIN_TRACES=FILE writes one")
    return content


def _trace(target: str, specs: list[str]) -> Any:
    from drivetrain.graph import Function, Spec

    found = find_target(target)
    wanted = tuple(Spec.parse(text) for text in specs)
    python = found.python if isinstance(found, Function) else found
    staged = Function(python, signature=wanted, backend="eager", effects="ignore")
    return staged.concrete(*wanted)


def _beside(target: str, specs: list[str], other: list[str]) -> str:
    from drivetrain.graph import Function, Spec

    found = find_target(target)
    staged = Function(found.python if isinstance(found, Function) else found, backend="eager", effects="ignore")
    staged.concrete(*(Spec.parse(text) for text in specs))
    sizes: dict[str, int] = {}
    return staged.explain(*(Spec.parse(text).example(sizes) for text in other))


def _facts(made: Any) -> dict[str, Any]:
    return {
        "name": made.name,
        "operators_count": made.nodes,
        "seconds": made.seconds,
        "arguments": made.structured_inputs,
        "captures": [{"name": c.name, "kind": c.kind, "shape": list(c.tensor.shape)} for c in made.captures],
        "side_effects": [str(effect) for effect in made.side_effects],
    }


def find_target(text: str) -> Callable[..., Any]:
    """What "file.py:name" names; the file's folder can be imported from.

    Raises:
        InvalidValue: not of this form, or no such name. MissingFile: no such file.
    """
    path, colon, name = text.rpartition(":")
    if not colon or not path:
        raise InvalidValue(f"graph: {text!r} names no function", hint="file.py:name")
    file = Path(path)
    if not file.is_file():
        raise MissingFile(f"graph: there is no file {path}")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise InvalidValue(f"graph: {path} is no Python file", hint="file.py:name")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.resolve().parent))
    sys.modules[file.stem] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InvalidValue(f"graph: {path} can't be imported: {type(error).__name__}: {error}") from error
    found = getattr(module, name, None)
    if found is None:
        raise unknown_name(
            f"graph: name in {path}", name, [key for key, value in vars(module).items() if callable(value)]
        )
    if not callable(found):
        raise InvalidValue(f"graph: {text} is a {type(found).__name__}, not a function or a module")
    made: Callable[..., Any] = found
    return made


# One line for each further file of commands.
register_rewrite(app)
register_batchnorm(app)
