"""What import-linter cannot see of the architecture's rules (docs: architecture, style)."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("common", "edge", "cloud")
FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70
CHARTER_CHARS_MIN = 40

HEAVY = ("sqlalchemy", "typer", "rich", "aiohttp", "nicegui", "kubernetes", "prometheus_client", "fastapi")
# what an agent loads when a file, an installed hook, a chain or an error needs it, together a third of its import
LATE = ("yaml", "tomllib", "importlib.metadata", "email", "zipfile", "difflib", "common.chain", "paho")

# modules that may be imported in one place only -> that place
ONLY_HERE = {"paho": "common/messaging/pahoclient.py", "cryptography": "common/brokerfiles/authority.py"}
WALL_CLOCK = {("time", "time"), ("time", "time_ns"), ("datetime", "now"), ("datetime", "utcnow"), ("date", "today")}
MAY_READ_THE_WALL_CLOCK = ("common/clock.py", "common/message.py")


def sources() -> list[Path]:
    """Every Python file of the product, the command line included."""
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return [*files, ROOT / "fieldpost.py"]


@cache
def tree_of(path: Path) -> ast.Module:
    """The file's syntax tree."""
    return ast.parse(path.read_text(), str(path))


def name_of(path: Path) -> str:
    """The path as people write it."""
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[str]:
    """The full names of all modules that the file imports, wherever in the file."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def tracked_files() -> list[Path]:
    """Every file that is, or would be, in the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True
    )
    if listed.returncode:
        pytest.skip("not a git clone: there is no list of the repository's files")
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize(("module", "place"), ONLY_HERE.items())
def test_one_importer(module: str, place: str) -> None:
    """A library that must be tamed is imported in one file (decision 1)."""
    found = {name_of(path) for path in sources() if any(name.split(".")[0] == module for name in imports(path))}
    assert found <= {place}


def test_only_the_command_line_knows_both_sides() -> None:
    """No file but the composition root imports edge and cloud."""
    for path in sources():
        sides = {name.split(".")[0] for name in imports(path)} & {"edge", "cloud"}
        assert len(sides) < 2 or path.name == "fieldpost.py", f"{name_of(path)} imports {sides}"


def test_wall_clock_has_one_door() -> None:
    """Only clock.py and now_ms read the wall clock; everything else is given a Clock (style 12)."""
    for path in sources():
        if name_of(path) in MAY_READ_THE_WALL_CLOCK:
            continue
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                read = (node.value.id, node.attr)
                assert read not in WALL_CLOCK, f"{name_of(path)}:{node.lineno} reads {'.'.join(read)}: take a Clock"
            elif isinstance(node, ast.ImportFrom) and node.module == "time":
                names = {alias.name for alias in node.names}
                assert not names & {"time", "time_ns"}, f"{name_of(path)}:{node.lineno} imports {names} from time"


def test_output_has_one_door() -> None:
    """Nothing prints but the command line; ruff's T20 says the same and can be silenced, this cannot."""
    for path in sources():
        if path.name == "fieldpost.py" or "common/cli/" in name_of(path):
            continue
        for node in ast.walk(tree_of(path)):
            prints = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            assert not prints, f"{name_of(path)}:{node.lineno} prints"


def test_files_and_functions_are_short() -> None:
    """A file has at most 600 lines, a function at most 70 (docs: architecture)."""
    for path in [*sources(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "bench").rglob("*.py")]:
        lines = len(path.read_text().splitlines())
        assert lines <= FILE_LINES_MAX, f"{name_of(path)} has {lines} lines"
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                assert length <= FUNCTION_LINES_MAX, f"{name_of(path)}:{node.lineno} {node.name} has {length} lines"


def test_packages_have_a_charter() -> None:
    """Every package says in its docstring what belongs into it (style 2)."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("__init__.py"):
            charter = ast.get_docstring(tree_of(path)) or ""
            assert len(charter) >= CHARTER_CHARS_MIN, f"{name_of(path)} has no charter"


def test_public_functions_have_docstrings() -> None:
    """Every module and every public class and top-level function has a docstring (style 17)."""
    for path in sources():
        tree = tree_of(path)
        assert ast.get_docstring(tree) or not tree.body, f"{name_of(path)} has no docstring"
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name[0] != "_":
                assert ast.get_docstring(node), f"{name_of(path)}:{node.lineno} {node.name} has no docstring"


def test_every_test_states_its_property() -> None:
    """A test has a docstring that says what must hold (style 17)."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                assert ast.get_docstring(node), f"{name_of(path)}:{node.lineno} {node.name} has no docstring"


def test_edge_starts_light() -> None:
    """Importing the agent loads no SQL, web or command line library, and nothing that only a file, an installed hook,
    a chain or an error needs: a small node pays only for what it runs.
    """
    program = f"import sys, edge.agent, edge.__main__; print([m for m in {HEAVY + LATE!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_works_at_import(package: str) -> None:
    """Importing a package starts no thread, opens no socket and writes nothing."""
    program = (
        "import sys, threading, socket, pkgutil, importlib\n"
        "def audit(event, args):\n"
        "    writes = event == 'open' and isinstance(args[1], str) and set(args[1]) & set('wax+')\n"
        "    if (writes and '__pycache__' not in str(args[0])) or event in ('socket.connect', 'subprocess.Popen'):\n"
        "        raise SystemExit(f'{event} {args}')\n"
        "sys.dont_write_bytecode = True\n"
        "sys.addaudithook(audit)\n"
        f"import {package}\n"
        f"for module in pkgutil.walk_packages({package}.__path__, '{package}.'):\n"
        "    if not module.name.endswith('__main__'):\n"
        "        importlib.import_module(module.name)\n"
        "print(threading.active_count())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "1"), done.stderr


def test_nothing_points_at_one_machine() -> None:
    """No package index, registry or path of somebody's machine is in the repository."""
    words = (
        "py" + r"pi\.",
        "python" + "hosted",
        "index" + "-url",
        "/wo" + "rk/",
        "/ro" + "ot/",
        re.escape(str(ROOT)) + r"\b",
    )
    forbidden = re.compile("|".join(words))
    for path in tracked_files():
        found = forbidden.search(path.read_bytes().decode("utf-8", "replace"))
        assert not found, f"{name_of(path)} holds {found[0]!r}" if found else ""


def test_dependencies_are_pinned_for_tests() -> None:
    """Every dependency of pyproject.toml has an exact version in constraints.txt."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["embedded"], *extras["api"], *extras["dev"]]
    names = {re.split(r"[\[<>=!~; ]", text)[0].lower().replace("_", "-") for text in wanted}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    assert names <= pinned


def test_cancellation_is_never_swallowed() -> None:
    """asyncio.wait_for of Python 3.11 returns instead of raising when a cancel meets a result: a loop around it lives
    on for ever, and with it everything that waits for its end. Tasks use asyncio.timeout.
    """
    allowed = {"common/messaging/broker.py", "common/processes.py"}  # they wait for a child's end, outside of loops
    found = {str(path.relative_to(ROOT)) for path in sources() if "wait_for(" in path.read_text()}
    assert found <= allowed
