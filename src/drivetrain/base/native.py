"""Native kernels: one C++ file beside its Python file, compiled at first use for this very processor.

A kernel is an optimisation, never a need: with no compiler, `load` warns once and returns None, and the caller runs
its plain torch version, which is also the reference in tests. The compiler is $CXX, g++, clang++, or the one inside the
`ziglang` wheel. Libraries are cached by source and headers, flags, compiler and processor under $DRIVETRAIN_CACHE
(default ~/.cache/drivetrain), so a shared home never serves one machine's code to another.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from .timing import processor_name

_FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp-simd", "-shared", "-fPIC")


class NativeKernelWarning(RuntimeWarning):
    """A kernel could not be built; the plain version runs instead."""


def compiler() -> tuple[str, ...] | None:
    """The command of the C++ compiler that kernels are built with, or None when there is none."""
    if os.environ.get("DRIVETRAIN_NATIVE") == "0":
        return None
    chosen = os.environ.get("CXX")
    if chosen and shutil.which(shlex.split(chosen)[0]):
        return tuple(shlex.split(chosen))
    for name in ("g++", "clang++"):
        if shutil.which(name):
            return (name,)
    if importlib.util.find_spec("ziglang") is not None:
        return (sys.executable, "-m", "ziglang", "c++")
    return None


def load(source: str | Path, flags: Sequence[str] = ()) -> ctypes.CDLL | None:
    """Build `source` if its library is not in the cache, and load it.

    Args:
        source: a C++17 file whose entry points are `extern "C"`; the caller sets their argtypes.
        flags: further compiler flags.

    Returns:
        The library, or None (with one `NativeKernelWarning`) when it can't be built here.
    """
    return _load(Path(source).resolve(), tuple(flags))


@cache
def _load(source: Path, flags: tuple[str, ...]) -> ctypes.CDLL | None:
    command = compiler()
    if command is None:
        _warn(source, "no C++ compiler was found; install g++ or `pip install ziglang`")
        return None
    target = _cache_folder() / f"{source.stem}-{_key(source, flags, command)}.so"
    if not target.exists():
        failure = _build(source, target, (*command, *_FLAGS, *flags))
        if failure:
            _warn(source, failure)
            return None
    return ctypes.CDLL(str(target))


def _build(source: Path, target: Path, command: tuple[str, ...]) -> str | None:
    """Compile beside the target and rename, so that two processes may build at once; the failure's text, or None."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        built = Path(folder) / target.name
        result = subprocess.run([*command, str(source), "-o", str(built)], capture_output=True, text=True)
        if result.returncode != 0:
            return f"{' '.join(command)} failed:\n{result.stderr.strip()[-2000:]}"
        os.replace(built, target)
    return None


def _key(source: Path, flags: tuple[str, ...], command: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for file in _with_headers(source):
        digest.update(file.read_bytes() + b"\0")
    for part in (*flags, *_FLAGS, *command, processor_name()):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:16]


def _with_headers(source: Path) -> list[Path]:
    """A source and the headers of ours that it includes, each once: a changed header is a changed kernel."""
    files = [source]
    for file in files:  # grows while it is read
        for name in re.findall(r'^#include "([^"]+)"', file.read_text(), re.MULTILINE):
            if (header := file.parent / name).is_file() and header not in files:
                files.append(header)
    return files


def _cache_folder() -> Path:
    return Path(os.environ.get("DRIVETRAIN_CACHE") or Path.home() / ".cache" / "drivetrain") / "native"


def _warn(source: Path, reason: str) -> None:
    warnings.warn(
        f"drivetrain: the plain version of {source.stem} runs, which is slower: {reason}",
        NativeKernelWarning,
        stacklevel=4,
    )
