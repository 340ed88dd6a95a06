"""The usage of every card, and of the README, works when pasted.

The fenced blocks under "## Use" run in order in one empty folder: `python` blocks of a card as one script, `bash`
blocks with `bash -e` (a first line "# exit 1" names the exit code that is expected), and a block such as
"toml file=ci.toml" is written to that file.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CARDS = sorted((ROOT / "docs" / "systems").glob("[0-9][0-9]-*.md"))
SECTIONS = ("Use", "How it works", "Measured", "Limits", "Source")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file it is written to (if any), its text."""

    language: str
    file: str | None
    text: str


def section(text: str, title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    return found[1] if found else ""


def blocks(text: str) -> list[Block]:
    fences = re.finditer(r"^```(\w+)(?: file=(\S+))?[^\n]*\n(.*?)^```$", text, re.M | re.S)
    return [Block(fence[1], fence[2], fence[3]) for fence in fences]


def run_blocks(found: list[Block], folder: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "160"}
    script = ""
    for number, block in enumerate(found):
        if block.file:
            (folder / block.file).write_text(block.text)
        elif block.language == "python":
            # Earlier blocks run again before this one, so that all share their names and a bash block may lie between.
            script += block.text
            is_last_of_run = number + 1 == len(found) or found[number + 1].language != "python"
            if is_last_of_run:
                (folder / "_pasted.py").write_text(script)
                check([sys.executable, "_pasted.py"], folder, environment, 0)
        elif block.language == "bash":
            expected = re.match(r"# exit (\d+)\n", block.text)
            check(["bash", "-e", "-c", block.text], folder, environment, int(expected[1]) if expected else 0)


def check(command: list[str], folder: Path, environment: dict[str, str], expected: int) -> None:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == expected, f"{command[-1]}\n--- printed\n{done.stdout}\n--- and\n{done.stderr}"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.stem)
def test_a_card_has_the_shape_of_all(card):
    text = card.read_text()
    titles = re.findall(r"^## (.+)$", text, re.M)
    assert [title for title in titles if title in SECTIONS] == list(SECTIONS)
    assert re.search(r"\*\*Use it when\*\*.*\*\*Don't when\*\*", text, re.S)
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
        assert (card.parent / picture).is_file(), f"the picture {picture} is missing"


def test_the_first_steps_of_the_readme_work_when_pasted(tmp_path):
    found = blocks(section((ROOT / "README.md").read_text(), "First steps"))
    assert len(found) >= 3
    run_blocks(found, tmp_path)


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.stem)
def test_the_usage_of_a_card_works_when_pasted(card, tmp_path):
    found = blocks(section(card.read_text(), "Use"))
    assert any(block.language == "python" for block in found)
    assert any(block.language == "bash" for block in found)
    run_blocks(found, tmp_path)
