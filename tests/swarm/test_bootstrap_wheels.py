"""Which wheels a worker is sent, and what the master keeps of a folder of them."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from packaging import tags

from decnet_core.errors import NotFound, RemoteProtocolError
from decnet_master.bootstrap.bundles import Bundles, coverage
from decnet_master.bootstrap.wheels import Target, Wheel, fits, pythons_of, requirements, select
from tests.swarm.bundled import COMPILED, MACHINE, MINOR, VERSION, fill, make_wheel

HERE = Target(minor=MINOR, machine=MACHINE, glibc=(2, 36))
LEGACY = {"manylinux1": 5, "manylinux2010": 12, "manylinux2014": 17}

pythons = st.sampled_from(["py3", "py2", "py311", "py312", "cp310", "cp311", "cp312", "cp3", "pp311"])
abis = st.sampled_from(["none", "abi3", "cp310", "cp311", "cp312", "cp311d"])
platforms = st.sampled_from(
    [
        *("any", "linux_x86_64", "manylinux1_x86_64", "manylinux2014_x86_64", "manylinux2014_aarch64"),
        *("manylinux_2_17_x86_64", "manylinux_2_34_x86_64", "manylinux_2_39_x86_64"),
        *("musllinux_1_2_x86_64", "win_amd64", "macosx_11_0_arm64"),
    ]
)
names = st.builds(
    lambda *parts: "thing-1-" + "-".join(".".join(sorted(part)) for part in parts) + ".whl",
    *(st.sets(of, min_size=1, max_size=2) for of in (pythons, abis, platforms)),
)
targets = st.builds(
    lambda minor, machine, glibc: Target(minor=minor, machine=machine, glibc=(2, glibc)),
    st.sampled_from([11, 12]),
    st.sampled_from(["x86_64", "aarch64"]),
    st.sampled_from([12, 17, 36, 39]),
)


@given(names, targets)
@example("thing-1-cp310-abi3-any.whl", Target(minor=11, machine="x86_64", glibc=(2, 36)))
def test_a_wheel_fits_where_pip_would_take_it(name: str, target: Target) -> None:
    assert fits(name, target) == bool(
        tags.parse_tag("-".join(name.removesuffix(".whl").split("-")[2:])) & _taken(target)
    )


@functools.cache
def _taken(target: Target) -> frozenset[tags.Tag]:
    """What pip takes there, by the library that pip uses."""
    newest = target.glibc[1]
    known = [f"manylinux_2_{minor}_{target.machine}" for minor in range(newest + 1)]
    known += [f"{name}_{target.machine}" for name, minor in LEGACY.items() if minor <= newest]
    known.append(f"linux_{target.machine}")
    version = (3, target.minor)
    own = tags.cpython_tags(version, [f"cp3{target.minor}"], known)
    return frozenset([*own, *tags.compatible_tags(version, f"cp3{target.minor}", known)])


def test_what_a_wheel_asks_for_is_read_by_name_and_markers_are_left_to_pip() -> None:
    needs, may_need = requirements(
        ["Typing_Extensions>=4; python_version < '3.13'", "uvicorn[standard] (>=1)", "x ; extra == 'dev'", "A.B==1"]
    )
    assert (needs, may_need) == (("uvicorn", "a-b"), ("typing-extensions",))
    with pytest.raises(RemoteProtocolError, match="no requirement"):
        requirements([" ;;; "])


def test_a_bundle_holds_what_workers_need_and_nothing_of_the_masters(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    bundles = Bundles(tmp_path / "data" / "bundles")
    manifest = bundles.build(fill(tmp_path / "house"), VERSION)
    kept = {(wheel.project, wheel.version) for wheel in manifest.wheels}
    assert {project for project, _ in kept} == {
        *("decnet-core", "decnet-agent", "decnet-logship", "decnet-updater"),
        *("compiled", "pip", "sometimes", "up-dates"),
    }
    assert ("decnet-agent", "99.0") not in kept
    assert bundles.load(VERSION) == manifest
    for wheel in manifest.wheels:
        assert hashlib.sha256(bundles.path(wheel.sha256).read_bytes()).hexdigest() == wheel.sha256
    assert [(kind.target, kind.lacks) for kind in coverage(manifest)] == [(f"Python 3.{MINOR} on {MACHINE}", None)]


def test_a_worker_is_sent_the_newest_of_each_and_of_its_parts_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    wheels = Bundles(tmp_path / "data" / "bundles").build(fill(tmp_path / "house"), VERSION).wheels
    everything = [wheel.project for wheel in select(wheels, HERE, ["agent", "logship", "updater"])]
    assert everything[0] == "pip"
    assert len(everything) == len(set(everything)) == 8
    without = select(wheels, HERE, ["agent", "logship"])
    assert {wheel.project for wheel in without} == set(everything) - {"decnet-updater", "up-dates"}
    assert next(wheel.version for wheel in without if wheel.project == "compiled") == "1.10"


@pytest.mark.parametrize(
    "target",
    [
        Target(minor=MINOR + 1, machine=MACHINE, glibc=(2, 36)),
        Target(minor=MINOR, machine="riscv64", glibc=(2, 36)),
        Target(minor=MINOR, machine=MACHINE, glibc=(2, 5)),
    ],
)
def test_a_worker_that_nothing_fits_is_told_what_there_is(tmp_path: Path, target: Target) -> None:
    (tmp_path / "data").mkdir()
    wheels = Bundles(tmp_path / "data" / "bundles").build(fill(tmp_path / "house"), VERSION).wheels
    with pytest.raises(NotFound, match=f"no compiled for .*for Python 3.{MINOR} on {MACHINE}"):
        select(wheels, target, ["agent"])


def test_building_again_replaces_the_bundle_and_drops_what_nobody_names(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    bundles, house = Bundles(tmp_path / "data" / "bundles"), fill(tmp_path / "house")
    old = bundles.build(house, VERSION)
    (gone,) = (wheel for wheel in old.wheels if (wheel.project, wheel.version) == ("compiled", "1.9"))
    (house / gone.file).unlink()
    new = bundles.build(house, VERSION)
    assert set(old.wheels) - set(new.wheels) == {gone}
    assert not bundles.path(gone.sha256).exists()
    assert all(bundles.path(wheel.sha256).exists() for wheel in new.wheels)


def test_a_folder_that_makes_no_bundle_is_refused_and_the_old_one_stays(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    bundles, house = Bundles(tmp_path / "data" / "bundles"), fill(tmp_path / "house")
    with pytest.raises(NotFound, match="no bundle of release"):
        bundles.load(VERSION)
    manifest = bundles.build(house, VERSION)
    (house / f"pip-1-{'py3-none-any'}.whl").unlink()
    with pytest.raises(NotFound, match="no pip for"):
        bundles.build(house, VERSION)
    with pytest.raises(NotFound, match=r"no wheel of decnet-agent 5\.0"):
        bundles.build(house, "5.0")
    (house / "broken-1-py3-none-any.whl").write_bytes(b"PK no zip")
    with pytest.raises(RemoteProtocolError, match="is no wheel"):
        bundles.build(house, VERSION)
    assert bundles.load(VERSION) == manifest


def test_the_stable_abi_names_no_python(tmp_path: Path) -> None:
    path = make_wheel(tmp_path, "c", "1", f"cp38-abi3-manylinux_2_17_{MACHINE}")
    stable = Wheel(file=path.name, sha256="0" * 64, bytes=1)
    exact = Wheel(file=f"d-1-{COMPILED}.whl", sha256="0" * 64, bytes=1)
    assert pythons_of([stable, exact]) == [(MINOR, MACHINE)]
    assert fits(stable.file, HERE)
