"""Each wheel alone in an environment of its own, as somebody has it who asked for nothing else."""

from __future__ import annotations

import importlib.util

import pytest

from tests.packaging.allowed import CLOSURE, DECLARED, NEVER_ON_A_WORKER
from tests.packaging.wheels import PACKAGES, PROGRAMS, WORKER, module_of

pytestmark = pytest.mark.slow

# Modules that do something when they are imported, because the tool that imports them wants it so.
ACTS_ON_IMPORT = (".__main__", "decnet_master.store.migrations.env")

IMPORT_ALL = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    print(name)
"""


@pytest.mark.parametrize("package", PACKAGES)
def test_it_brings_what_is_allowed_and_nothing_else(wheels, package):
    assert wheels.environment(package).distributions() == CLOSURE[package]


@pytest.mark.parametrize("package", PACKAGES)
def test_of_ours_it_brings_core_alone(wheels, package):
    ours = {name for name in wheels.environment(package).distributions() if name.startswith("decnet")}
    assert ours == {"decnet-core", package}


@pytest.mark.parametrize("package", PACKAGES)
def test_what_it_declares_is_allowed(wheels, package):
    declared = {_name(line) for line in wheels.metadata(package).get_all("Requires-Dist", [])}
    assert declared == DECLARED[package]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_imports(wheels, package):
    environment = wheels.environment(package)
    names = [name for name in environment.modules(module_of(package)) if not name.endswith(ACTS_ON_IMPORT)]
    assert len(names) > 1
    done = environment.run("python", "-c", IMPORT_ALL, *names, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == names


@pytest.mark.parametrize("package", PROGRAMS)
@pytest.mark.parametrize("option", ["--version", "--help"])
def test_its_command_answers(wheels, package, option):
    done = wheels.environment(package).run(package, option, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    if option == "--version":
        assert wheels.version in done.stdout.split()
    else:
        assert package in done.stdout
        assert "--version" in done.stdout


@pytest.mark.parametrize("package", PROGRAMS)
def test_it_tells_its_version(wheels, package):
    module = module_of(package)
    code = f"import decnet_core, {module}; print(decnet_core.__version__, {module}.__version__)"
    assert wheels.environment(package).run("python", "-c", code).stdout.split() == [wheels.version] * 2


def test_a_worker_holds_nothing_of_the_master(wheels):
    environment = wheels.environment(*WORKER)
    assert environment.distributions() == frozenset().union(*(CLOSURE[package] for package in WORKER))
    assert NEVER_ON_A_WORKER.isdisjoint(environment.distributions())
    assert not list(environment.folder.glob("**/decnet_master*"))
    # The same question here, where the master is installed, shows that the one below can fail.
    assert importlib.util.find_spec("decnet_master") is not None
    ask = "import importlib.util as u; print(u.find_spec('decnet_master'), u.find_spec('sqlalchemy'))"
    assert environment.run("python", "-c", ask).stdout.split() == ["None", "None"]


def _name(requirement: str) -> str:
    from packaging.requirements import Requirement

    return Requirement(requirement).name
