"""The rooms of the package: what each may import, that no module imports itself by a detour, and what the design page shows."""

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lora_bench"

# From the top to the ground: a room imports from the rows below its own, and never from beside or above.
LEVELS = [
    ["cli", "__init__"],
    ["fleet"],
    ["execute"],
    ["published"],
    ["plan"],
    ["analyse", "probe", "plugin", "pack", "testing"],
    ["gate", "exchange", "suite", "training"],
    ["kinds.exercises"],
    ["report", "methods", "models", "tasks"],
    ["records", "tuners"],
    ["kinds"],
    ["metrics"],
    ["families", "stats", "documents", "util"],
    ["docstrings", "errors", "version"],
]
LEVEL = {room: len(LEVELS) - index for index, rooms in enumerate(LEVELS) for room in rooms}
LOOSE = {"docstrings", "documents", "errors", "testing", "version"}
DATA = {"assets", "data", "schemas"}


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(path: Path, *, for_types: bool) -> set[str]:
    """The modules of the package that a file imports, at once or in a function; with *for_types* also those for types alone."""
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if for_types else at_work(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            of_names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in of_names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & MODULES.keys()


def at_work(node: ast.AST):
    """The nodes that run at some time, also in functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from at_work(child)


def room_of(module: str) -> str:
    """The first part of a module's name below the package; the first two of a folder that stands higher than its room."""
    parts = [*module.split("."), "__init__"][1:]
    return ".".join(parts[:2]) if ".".join(parts[:2]) in LEVEL else parts[0]


def test_every_room_has_a_level():
    assert {room_of(name) for name in MODULES} == set(LEVEL)


def test_at_most_six_modules_are_in_no_room():
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"} == LOOSE
    assert len(LOOSE) <= 6


@pytest.mark.parametrize("room", sorted(LEVEL))
def test_a_room_imports_only_from_below(room):
    wrong = [
        f"{module} imports {other}"
        for module, path in MODULES.items()
        if room_of(module) == room
        for other in imports(path, for_types=True)
        if room_of(other) not in (room, "__init__") and LEVEL[room_of(other)] >= LEVEL[room]
    ]
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_itself_by_a_detour():
    graph = {name: imports(path, for_types=False) - {name} for name, path in MODULES.items()}
    # A module whose imports are all done can be put aside; what is left at the end imports in a circle.
    left = dict(graph)
    while done := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in done:
            del left[name]
    assert not left, f"modules that import each other, or what does: {', '.join(sorted(left))}"


def test_no_two_files_and_no_two_classes_have_one_name():
    files = Counter(path.name for path in MODULES.values() if path.name not in ("__init__.py", "__main__.py"))
    classes = Counter(
        node.name
        for path in MODULES.values()
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in (files + classes).items() if count > 1] == []


def test_the_design_page_shows_the_rooms_that_there_are():
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    tree = page.split("lora_bench/\n", 1)[1].split("```", 1)[0]
    shown = set(re.findall(r"\b([a-z_]+)/", tree)) | {f"{name}.py" for name in re.findall(r"\b([a-z_]+)\.py", tree)}
    folders = {path.parent for path in MODULES.values()} - {PACKAGE}
    there = {folder.name for folder in folders} | DATA | {f"{name}.py" for name in LOOSE}
    assert shown == there


@pytest.mark.parametrize(
    "module",
    [
        "lora_bench",
        "lora_bench.cli",
        "lora_bench.gate",
        "lora_bench.report",
        "lora_bench.suite.load_suite",
        "lora_bench.plan.make_plan",
        "lora_bench.execute.run_suite",
    ],
)
def test_importing_it_loads_no_torch(module):
    loaded = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "peft", "datasets"} & set(done.stdout.split())
