"""What the documents say of the house is what the folders show."""

import ast
import re
import subprocess
import sys
from pathlib import Path

from drivetrain.systems import SYSTEMS

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "drivetrain"
FLOORS = {"cli", "drive", "base", "nets"}


def rooms_on_disk() -> set[str]:
    return {path.parent.name for path in PACKAGE.glob("*/__init__.py")}


def test_a_system_works_exactly_where_its_room_and_card_are():
    assert rooms_on_disk() <= {system.room for system in SYSTEMS} | FLOORS
    for system in SYSTEMS:
        assert not system.works or system.room in rooms_on_disk()
        assert (ROOT / system.card).is_file() == system.works, system.card


def test_there_are_twenty_five_systems_with_numbers_of_their_own():
    assert sorted(system.number for system in SYSTEMS) == list(range(1, 26))


def test_the_architecture_page_names_every_room_and_no_other():
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"^\| `(\w+)/`", page, re.M))
    assert named == rooms_on_disk()


def test_the_drawn_picture_shows_every_room():
    sys.path.insert(0, str(ROOT / "tools"))
    from draw_architecture import draw

    assert (ROOT / "docs" / "img" / "architecture.svg").read_text() == draw(), "draw it again: make picture"


def test_the_readme_table_is_the_register():
    readme = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \| `([^`]+)` \|", readme, re.M)
    works = [system for system in SYSTEMS if system.works]
    assert [(int(number), title.strip()) for number, title, _ in rows] == [
        (system.number, f"[{system.title}]({system.card})") for system in works
    ]


def test_a_room_is_a_face_and_files(repository):
    """A package's __init__ holds a docstring, imports and a lazy door, no work."""
    for init in PACKAGE.glob("*/__init__.py"):
        tree = ast.parse(init.read_text())
        assert ast.get_docstring(tree), init
        assert not any(isinstance(node, ast.ClassDef | ast.For | ast.While) for node in tree.body), init


def test_importing_drivetrain_imports_no_room():
    program = (
        "import sys, drivetrain; names = [name for name in sys.modules if name.startswith('drivetrain.')]; "
        "print([name for name in names if not name.startswith('drivetrain.base')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_rooms_load_at_first_use():
    import drivetrain

    assert drivetrain.nets.NETS
