"""What is in the files that are published."""

from __future__ import annotations

import hashlib
import tarfile

import pytest
from packaging.requirements import Requirement

from tests.packaging.wheels import PACKAGES, PROGRAMS, ROOT, build, module_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("package", PACKAGES)
def test_the_metadata_says_who_we_are(wheels, package):
    metadata = wheels.metadata(package)
    assert metadata["Name"] == package
    assert metadata["License-Expression"] == "MIT"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Summary"]
    assert metadata.get_payload()
    assert "Typing :: Typed" in metadata.get_all("Classifier")


@pytest.mark.parametrize("package", PACKAGES)
def test_the_licence_is_the_one_of_the_tree(wheels, package):
    import zipfile

    with zipfile.ZipFile(wheels.path(package)) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith("/licenses/LICENSE")]
        assert wheel.read(name) == (ROOT / "LICENSE").read_bytes()


@pytest.mark.parametrize("package", PROGRAMS)
def test_our_packages_ask_for_exactly_each_others_version(wheels, package):
    lines = map(Requirement, wheels.metadata(package).get_all("Requires-Dist"))
    ours = {line.name: str(line.specifier) for line in lines if line.name.startswith("decnet")}
    assert ours == {"decnet-core": f"=={wheels.version}"}


@pytest.mark.parametrize("package", PACKAGES)
def test_it_holds_its_module_and_nothing_beside(wheels, package):
    names = wheels.names(package)
    module = module_of(package)
    assert f"{module}/py.typed" in names
    assert {name.split("/")[0] for name in names} == {module, f"{module}-{wheels.version}.dist-info"}
    strange = [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".orig", ".swp", "~"))]
    strange += [name for name in names if "tests/" in name or name.split("/")[-1].startswith(("test_", "conftest"))]
    assert strange == []


@pytest.mark.parametrize(
    ("package", "folder"),
    [
        ("decnet-agent", "packages/decnet-agent/src/decnet_agent/images"),
        ("decnet-agent", "packages/decnet-agent/src/decnet_agent/host_files"),
        ("decnet-master", "packages/decnet-master/src/decnet_master/store/migrations"),
    ],
)
def test_it_holds_the_files_that_are_no_python(wheels, package, folder):
    source = ROOT / folder
    module = module_of(package)
    top = source.parents[len(source.parts) - source.parts.index(module) - 2]
    wanted = {
        path.relative_to(top.parent).as_posix()
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert len(wanted) > 2
    assert wanted <= set(wheels.names(package))


@pytest.mark.parametrize("package", PACKAGES)
def test_the_source_archive_builds_from_itself(wheels, package):
    (path,) = wheels.folder.glob(f"{module_of(package)}-*.tar.gz")
    stem = f"{module_of(package)}-{wheels.version}"
    with tarfile.open(path) as archive:
        names = set(archive.getnames())
    assert {f"{stem}/pyproject.toml", f"{stem}/PKG-INFO", f"{stem}/LICENSE", f"{stem}/README.md"} <= names
    assert not [name for name in names if "__pycache__" in name]


def test_building_again_gives_the_same_bytes(wheels, tree, tmp_path):
    again = build(tree, tmp_path)
    assert _digests(again) == _digests(wheels.folder)


def _digests(folder):
    files = [*folder.glob("*.whl"), *folder.glob("*.tar.gz")]
    assert len(files) == 2 * len(PACKAGES)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
