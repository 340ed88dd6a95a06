"""Predictions of commits: stored ones, or made in the commit's own tree by the configured command (§4)."""

from __future__ import annotations

import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..base.errors import InvalidValue, RunFailed
from ..base.files import atomic_path
from .predict import read_predictions
from .testset import TestSet


def head(root: Path) -> str:
    """The commit checked out at `root`."""
    found = _git(root, "rev-parse", "HEAD")
    if found.returncode:
        raise InvalidValue("ci: this is no git checkout, so the commit has no name", hint="give one: --commit NAME")
    return found.stdout.strip()


def check_name(commit: str) -> str:
    """Return the name of a commit, or raise `InvalidValue` for one that could be a path or an option."""
    if not re.fullmatch(r"\w[\w.@+/-]*", commit) or ".." in commit:
        raise InvalidValue(f"ci: {commit!r} is no name of a commit", hint="letters, digits, . _ - / @ +")
    return commit


class PredictionStore:
    """Predictions by commit, kept beside the ledger so that the next commit finds the accepted ones.

    Args:
        folder: where they are kept.
        root: folder of the configuration file.
        template: path of a commit's predictions under root, with `{commit}`.
        command: command that makes them, with `{commit}` and `{out}`; None: there is none.
    """

    def __init__(self, folder: Path, root: Path, template: str, command: str | None) -> None:
        self.folder, self.root, self.template, self.command = folder, root, template, command

    def kept(self, commit: str) -> Path:
        return self.folder / f"{commit.replace('/', '_')}.npy"

    def keep(self, commit: str, predictions: np.ndarray) -> None:
        """Store the predictions of a decided commit."""
        with atomic_path(self.kept(commit)) as beside:
            np.save(beside, predictions, allow_pickle=False)

    def of_new(self, commit: str, testset: TestSet) -> np.ndarray:
        """Predictions of the commit that is checked out: its file, else the command's output."""
        path = self.root / self.template.replace("{commit}", commit)
        if not path.exists() and self.command is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._run(commit, path, self.root)
        return read_predictions(path, testset)

    def of_old(self, commit: str, testset: TestSet) -> np.ndarray:
        """Predictions of an accepted commit: stored ones, its file, else the command in a worktree of that commit."""
        for path in (self.kept(commit), self.root / self.template.replace("{commit}", commit)):
            if path.exists():
                found = read_predictions(path, testset)
                if len(found) == testset.pool_size:
                    return found
        if self.command is None:
            raise InvalidValue(
                f"ci: no predictions on this test set for the old model, commit {commit}",
                hint="store them at [ci] predictions, or set [ci] predict so that they can be made",
            )
        with tempfile.TemporaryDirectory() as folder, worktree(self.root, commit, Path(folder) / "tree") as tree:
            out = Path(folder) / "old.npy"
            self._run(commit, out, tree)
            return read_predictions(out, testset)

    def _run(self, commit: str, out: Path, cwd: Path) -> None:
        assert self.command is not None
        fill = {"{commit}": commit, "{out}": str(out.resolve())}
        words = shlex.split(self.command)
        for key, value in fill.items():
            words = [word.replace(key, value) for word in words]
        try:
            done = subprocess.run(words, cwd=cwd, capture_output=True, text=True)
        except OSError as error:
            raise RunFailed(f"ci: predict command {words[0]!r}: {error.strerror}") from None
        if done.returncode or not out.exists():
            last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["(no output)"]
            what = f"ended with {done.returncode}" if done.returncode else f"wrote no {out.name}"
            raise RunFailed(f"ci: the predict command for {commit} {what}", hint=last[0])


@contextmanager
def worktree(root: Path, commit: str, folder: Path) -> Iterator[Path]:
    """A checkout of `commit` beside the present one; yields the folder that corresponds to `root`."""
    top = _git(root, "rev-parse", "--show-toplevel")
    made = _git(root, "worktree", "add", "--detach", str(folder), commit)
    if top.returncode or made.returncode:
        reason = (made.stderr.strip().splitlines() or ["git failed"])[-1]
        raise InvalidValue(f"ci: cannot check out the old commit {commit}", hint=reason)
    try:
        yield folder / root.resolve().relative_to(Path(top.stdout.strip()).resolve())
    finally:
        _git(root, "worktree", "remove", "--force", str(folder))


def _git(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True)
