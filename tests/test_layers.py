"""Imports point one way: a module may import only from layers after its own."""

import ast
from pathlib import Path

from tests.connecting import ROOT

PACKAGE = ROOT / "src" / "parallel_mcp"
LAYERS = [
    {"__main__"},
    {"cli"},
    {"http", "stdio"},
    {"server"},
    {"listeners"},
    {"listening"},
    {"prompts", "resources", "instructions"},
    {"tools"},
    {"tasks", "render", "extensions"},
    {"api", "ledger"},
    {"settings"},
    {"errors"},
]


def test_imports_point_one_way() -> None:
    """A reader can understand any layer without the ones above it."""
    rank = {name: position for position, names in enumerate(LAYERS) for name in names}
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if own in ("__init__", "simulator"):
            continue
        for imported in imported_parts(path) - {own, ""}:
            if imported == "simulator":
                assert own == "cli", path
            else:
                assert rank[imported] > rank[own], f"{path} imports {imported}"


def test_simulator_shares_nothing_with_what_it_tests() -> None:
    """A wrong field name must not pass on both sides."""
    for path in (PACKAGE / "simulator").rglob("*.py"):
        assert imported_parts(path) <= {"simulator", ""}, path


def imported_parts(path: Path) -> set[str]:
    """The parts of the package that a module imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "parallel_mcp":
            found.add((node.module or "").partition(".")[2].partition(".")[0])
        elif isinstance(node, ast.Import):
            names = (alias.name for alias in node.names)
            found |= {name.split(".")[1] for name in names if name.startswith("parallel_mcp.")}
    return found
