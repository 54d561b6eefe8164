"""The source of our packages, parsed once for the tests that read it."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable, Iterator
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


@functools.cache
def modules() -> dict[str, tuple[ast.AST, ...]]:
    """Map each module's name to every node of its syntax tree; parsed by the first test that asks."""
    return {
        name: tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path)))) for name, path in PATHS.items()
    }


@functools.cache
def imports() -> dict[str, frozenset[str]]:
    """Map each module's name to the top-level names that it imports anywhere in it, functions included."""
    return {name: frozenset(_imported_by(nodes)) for name, nodes in modules().items()}


def _imported_by(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]
