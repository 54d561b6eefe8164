"""Every log line of ours is named in a table, and every name in a table is logged.

A name is `noun.past_verb` and stands as a literal where it is logged, so that a search for it finds the one place.
"""

from __future__ import annotations

import ast
import importlib
import re

import pytest

from tests.packaging.sources import PATHS, modules
from tests.packaging.wheels import PACKAGES, module_of

LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
NAME = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*\.[a-z][a-z0-9]*(?:_[a-z0-9]+)*")


def calls(nodes):
    """Yield each call that writes a log line: `log.info(…)`, `self._log.info(…)` or `getattr(log, level)(…)`."""
    for node in nodes:
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        if (isinstance(function, ast.Attribute) and function.attr in LEVELS and is_log(function.value)) or (
            isinstance(function, ast.Call)
            and isinstance(function.func, ast.Name)
            and function.func.id == "getattr"
            and is_log(function.args[0])
        ):
            yield node


def is_log(node) -> bool:
    """Tell whether an expression is a structlog logger, however it is held."""
    if isinstance(node, ast.Name):
        return node.id.strip("_") in {"log", "logger"}
    if isinstance(node, ast.Attribute):
        return node.attr.strip("_") in {"log", "logger"}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr in {"get_logger", "getLogger"} or (node.func.attr == "bind" and is_log(node.func.value))
    return False


def logged_in(package):
    """Return the literal names that a package logs, and the places where the name is no literal."""
    names, odd = set(), []
    for module, nodes in modules().items():
        if module.partition(".")[0] != package:
            continue
        for call in calls(nodes):
            first = call.args[0] if call.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                names.add(first.value)
            else:
                odd.append(f"{module}:{call.lineno}")
    return names, odd


def declared_in(package):
    """Return the tables of a package, merged; one name never has two meanings."""
    merged = {}
    for module in PATHS:
        if module.partition(".")[0] == package and module.endswith(".log_events"):
            table = importlib.import_module(module).LOG_EVENTS
            assert all(merged.get(name, meaning) == meaning for name, meaning in table.items()), module
            merged |= table
    return merged


@pytest.mark.parametrize("package", [module_of(package) for package in PACKAGES])
def test_tables_and_code_are_equal(package):
    logged, odd = logged_in(package)
    assert odd == [], "the name of a log line is a literal"
    declared = declared_in(package).keys()
    assert (sorted(logged - declared), sorted(declared - logged)) == ([], []), "not declared, not logged"


@pytest.mark.parametrize("package", [module_of(package) for package in PACKAGES])
def test_names_and_meanings_have_their_form(package):
    for name, meaning in declared_in(package).items():
        assert NAME.fullmatch(name), name
        assert len(meaning) > 10, name


def test_this_test_finds_what_it_looks_for():
    source = (
        "log.info('a.b')\nself._log.warning(name)\ngetattr(log, level)('c.d')\n"
        "structlog.get_logger().error('e.f')\nlog.bind(x=1).debug('g.h')\nmath.log(2)\nparser.error('no')"
    )
    found = [call.args[0] for call in calls(ast.walk(ast.parse(source)))]
    assert [first.value for first in found if isinstance(first, ast.Constant)] == ["a.b", "c.d", "e.f", "g.h"]
    assert len(found) == 5
