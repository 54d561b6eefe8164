"""A decky's life follows from its seed: the same seed gives the same machine, another one gives another."""

from __future__ import annotations

import io
import re
import struct
import tarfile
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from decnet_agent.furnishing.accounts import Image, furnish
from decnet_agent.furnishing.archive import ArchiveEntry, to_tar
from decnet_agent.furnishing.living import life_of
from decnet_agent.furnishing.site import Site, local_zone
from decnet_core.fleet import Account, DeckySpec, Shard
from decnet_master.planning.draw import Draw

NOW = 1_790_000_000
SITE = Site(IPv4Address("10.9.0.7"), IPv4Network("10.9.0.0/24"), IPv4Address("10.9.0.1"), "Europe/Berlin")
IMAGE = Image(
    accounts={
        "passwd": b"root:x:0:0:root:/root:/bin/bash\nbackup:x:34:34:backup:/var/backups:/usr/sbin/nologin\n",
        "shadow": b"root:*:19000:0:99999:7:::\nbackup:*:19000:0:99999:7:::\n",
        "group": b"root:x:0:\nsudo:x:27:\nbackup:x:34:\noperator:x:37:\n",
        "gshadow": b"root:*::\nsudo:*::\nbackup:*::\noperator:*::\n",
    },
    skeleton={".bashrc": b"# bashrc\n"},
)
TELLING = re.compile(rb"decnet|decky|deckies|honeypot|docker|container|persona\b|\{[a-z]+\}", re.IGNORECASE)

seeds = st.integers(min_value=0, max_value=(1 << 48) - 1)


def drawn(seed: int, count: int = 1) -> list[DeckySpec]:
    """Deckies as the master draws them."""
    draw = Draw(seed, ())
    return [draw.decky(("ssh",)) for _ in range(count)]


def entries_of(spec: DeckySpec, now_secs: int = NOW) -> list[ArchiveEntry]:
    hashes = {account.user: f"$y$of-{account.user}" for account in spec.accounts}
    keys = {"ssh_host_ed25519_key": "private\n", "ssh_host_ed25519_key.pub": "public\n"}
    return furnish(IMAGE, spec.accounts, hashes, keys, now_secs, life=life_of(spec, SITE))


def files_of(spec: DeckySpec) -> dict[str, bytes]:
    return {entry.path: entry.content for entry in entries_of(spec) if entry.content is not None}


@given(seeds)
def test_the_same_seed_is_the_same_machine(seed):
    (spec,), (again,) = drawn(seed), drawn(seed)
    assert spec == again
    assert to_tar(entries_of(spec), NOW) == to_tar(entries_of(again), NOW)


@given(seeds)
def test_two_machines_of_a_fleet_differ_where_machines_differ(seed):
    one, other = drawn(seed, 2)
    left, right = files_of(one), files_of(other)
    for path in ("etc/machine-id", "etc/passwd", "root/.bash_history", "var/log/wtmp", "etc/network/hosts"):
        assert left[path] != right[path], path
    assert (one.name, one.mac, one.seed) != (other.name, other.mac, other.seed)
    dates = [{entry.path: entry.at_secs for entry in entries_of(spec)} for spec in (one, other)]
    assert dates[0]["etc/machine-id"] != dates[1]["etc/machine-id"]
    # and share what the machines of one LAN share
    for path in ("etc/network/resolv.conf", "etc/boot.d/site", "etc/fstab"):
        assert left[path] == right[path], path


@given(seeds)
def test_nothing_in_a_machine_tells(seed):
    (spec,) = drawn(seed)
    for entry in entries_of(spec):
        told = TELLING.search(entry.path.encode() + b"\0" + (entry.content or b""))
        assert told is None, (entry.path, told)


@given(seeds)
def test_dates_are_spread_over_the_time_that_the_machine_has_lived(seed):
    (spec,) = drawn(seed)
    entries = [entry for entry in entries_of(spec) if entry.at_secs is not None]
    assert len(entries) == len(entries_of(spec))
    dates = [entry.at_secs for entry in entries]
    assert max(dates) < NOW
    assert max(dates) - min(dates) > 365 * 86_400
    assert len(set(dates)) >= 6
    newest = {entry.path: entry.at_secs for entry in entries}
    for entry in entries:  # nothing is younger than the folder that it was put into
        folder, _, name = entry.path.rpartition("/")
        if folder in newest and name and not entry.path.startswith(("home/", "root/")):
            assert newest[folder] >= entry.at_secs, entry.path


@given(seeds)
def test_every_machine_can_be_unpacked_and_its_tables_read(seed):
    (spec,) = drawn(seed)
    with tarfile.open(fileobj=io.BytesIO(to_tar(entries_of(spec), NOW))) as archive:
        members = archive.getmembers()
        names = [member.name for member in members]
        assert len(names) == len(set(names))
        seen: set[str] = set()
        for member in members:  # a folder comes before what is in it
            assert member.isdir() or member.name.rpartition("/")[0] not in set(names) - seen
            seen.add(member.name)
        assert sum(member.size for member in members) < 256 << 10
    files = files_of(spec)
    users = [line.split(":") for line in files["etc/passwd"].decode().splitlines()]
    assert all(len(fields) == 7 for fields in users)
    assert len({fields[0] for fields in users}) == len({fields[2] for fields in users}) == len(users)
    shadow = dict(line.split(":")[:2] for line in files["etc/shadow"].decode().splitlines())
    assert shadow.keys() == {fields[0] for fields in users}
    opened = {user for user, hashed in shadow.items() if hashed not in ("*", "!")}
    assert opened == {account.user for account in spec.accounts}
    sudo = next(line for line in files["etc/group"].decode().splitlines() if line.startswith("sudo:"))
    assert 1 <= len(sudo.rpartition(":")[2].split(",")) <= 2
    assert set(sudo.rpartition(":")[2].split(",")) <= shadow.keys()
    assert len(files["var/log/wtmp"]) % 384 == 0
    kinds = {struct.unpack_from("<h", files["var/log/wtmp"], at)[0] for at in range(0, len(files["var/log/wtmp"]), 384)}
    assert kinds <= {7, 8}


def test_a_clock_that_is_wrong_makes_no_dates_in_the_future():
    (spec,) = drawn(7)
    for now_secs in (1_600_000_000, 1_700_000_000):
        assert all(entry.at_secs is not None and entry.at_secs < now_secs for entry in entries_of(spec, now_secs))


def test_a_spec_of_before_there_were_seeds_is_read_and_written_as_it_was():
    text = '{"name":"web-01","services":["ssh"],"accounts":[{"user":"root","password":"toor"}],"ip":null,"mac":null}'
    spec = DeckySpec.model_validate_json(text)
    assert spec.seed is None
    assert spec.model_dump_json() == text
    assert Shard(generation=1, deckies=(spec,)).model_dump_json() == f'{{"generation":1,"deckies":[{text}]}}'
    bare = entries_of(spec)
    assert {entry.at_secs for entry in bare} == {None}
    assert "etc/machine-id" not in {entry.path for entry in bare}
    assert DeckySpec.model_validate_json(spec.model_copy(update={"seed": 5}).model_dump_json()).seed == 5


def test_a_system_s_user_keeps_his_home():
    spec = DeckySpec(name="web-01", services=("ssh",), accounts=(Account(user="backup", password="b"),), seed=1)
    files = files_of(spec)
    assert b"backup:x:34:34:backup:/var/backups:/bin/bash" in files["etc/passwd"]
    assert not [path for path in files if path.startswith(("var/backups/.", "home/backup"))]


def test_the_zone_is_the_worker_s(tmp_path: Path):
    link = tmp_path / "localtime"
    assert local_zone(link) == "Etc/UTC"
    link.symlink_to("/usr/share/zoneinfo/America/Port_of_Spain")
    assert local_zone(link) == "America/Port_of_Spain"
    link.unlink()
    link.symlink_to("/etc/elsewhere")
    assert local_zone(link) == "Etc/UTC"
