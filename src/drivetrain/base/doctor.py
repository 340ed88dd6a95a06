"""What this machine has of all that drivetrain can use, and what to install for what is missing."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

from .native import compiler

_EXTRA_PURPOSES = {
    "data": "drivetrain data",
    "fuzz": "drivetrain data fuzz",
    "ray": "statistics over many files on Ray",
    "proto": "statistics as TFDV protos",
    "ci": "drivetrain ci",
    "legacy": "conditions in old YAML files",
    "comm": "drivetrain comm encode and decode",
    "drive": "drivetrain run",
    "examples": "make demo",
}


@dataclass(frozen=True)
class Finding:
    """One part: whether it is present, what was found, what it is for, and how to get it."""

    part: str
    present: bool
    found: str
    purpose: str
    remedy: str


def examine() -> list[Finding]:
    """Look at this machine; starts no server and changes nothing."""
    return [*_core(), *_extras(), _compiler(), _browser(), _gpu(), _namespaces()]


def _core() -> Iterator[Finding]:
    yield Finding("Python", True, platform.python_version(), "everything", "")
    for name in ("torch", "numpy", "drivetrain"):
        yield Finding(name, True, version(name), "everything", "")


def _extras() -> Iterator[Finding]:
    for extra, libraries in _libraries_by_extra().items():
        have = [(name, _version_or_none(name)) for name in libraries]
        lacking = [name for name, found in have if found is None]
        found = ", ".join(f"{name} {number}" for name, number in have if number) or "nothing"
        note = f"{found}; lacks {', '.join(lacking)}" if lacking else found
        purpose = _EXTRA_PURPOSES.get(extra, extra)
        yield Finding(f"extra [{extra}]", not lacking, note, purpose, f'pip install "drivetrain[{extra}]"')


def _libraries_by_extra() -> dict[str, list[str]]:
    """Read from our own package metadata, so that the list can't differ from what pip installs."""
    extras: dict[str, list[str]] = {}
    for line in requires("drivetrain") or []:
        requirement, _, marker = line.partition(";")
        if "extra ==" not in marker or requirement.startswith("drivetrain"):
            continue
        extra = marker.split("extra ==")[1].strip().strip("'\"")
        name = requirement.strip()
        for stop in "<>=![ ~(":
            name = name.partition(stop)[0]
        if extra in _EXTRA_PURPOSES:
            extras.setdefault(extra, []).append(name)
    return extras


def _version_or_none(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _compiler() -> Finding:
    command = compiler()
    found = " ".join(command) if command else "none"
    return Finding("C++ compiler", bool(command), found, "native kernels", "apt install g++  (or pip install ziglang)")


def _browser() -> Finding:
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    return Finding("browser", path is not None, path or "none", "looking at reports", "apt install chromium")


def _gpu() -> Finding:
    import torch

    found = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    return Finding("GPU", torch.cuda.is_available(), found, "speed; nothing needs it", "a CUDA build of torch")


def _namespaces() -> Finding:
    """Make a network namespace and remove it at once: the only sure test of the right to."""
    purpose, remedy = "slow-network test rig", "run as root with: apt install iproute2"
    if os.geteuid() != 0 or not shutil.which("ip"):
        return Finding("network namespaces", False, "not root" if os.geteuid() else "no ip command", purpose, remedy)
    name = f"drivetrain-doctor-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode == 0:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return Finding("network namespaces", made.returncode == 0, made.stderr.strip() or "allowed", purpose, remedy)
