"""The source of our packages, parsed once for the tests that read it."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.packaging.wheels import PACKAGES, ROOT, module_of


def _paths() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        source = ROOT / "packages" / package / "src"
        for path in sorted((source / module_of(package)).rglob("*.py")):
            parts = path.relative_to(source).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


PATHS = _paths()
"""Module name -> file."""

MODULES = {name: ast.parse(path.read_text(encoding="utf-8"), str(path)) for name, path in PATHS.items()}
"""Module name -> its syntax tree."""


def imported_by(tree: ast.AST) -> set[str]:
    """Return the top-level names that a module imports anywhere in it, functions included."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names
