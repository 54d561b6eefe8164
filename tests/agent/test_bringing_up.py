"""Deckies come up beside one another: what may overlap does, and what must come first comes first."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address
from itertools import chain
from pathlib import Path

import pytest

from decnet_agent.deploying.bringing_up import ASKED_TOGETHER, AT_ONCE, BringingUp
from decnet_agent.deploying.key_making import KeyMaking
from decnet_agent.deploying.planning import CreateDecky, PlacedDecky, StartDecky
from decnet_agent.furnishing.host_keys import HostKeys
from decnet_core.errors import Unavailable
from decnet_core.fleet import DeckySpec

NAMES = [f"d{number:02}" for number in range(3 * ASKED_TOGETHER)]


def create(name: str) -> CreateDecky:
    spec = DeckySpec(name=name, services=("ssh",))
    return CreateDecky(PlacedDecky(spec, IPv4Address("10.0.0.9"), "02:00:00:00:00:01", "image", "network"))


class Crew:
    """Does what it is told, a turn of the loop for each step, and writes it down."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.under_way = self.most = 0
        self.fail: frozenset[str] = frozenset()
        self.claimed: frozenset[str] = frozenset()
        self.unkeyed: dict[str, asyncio.Event] = {}

    def of(self, verb: str) -> list[str]:
        return [name for what, name in self.told if what == verb]

    async def keyed(self, name: str) -> None:
        if name in self.unkeyed:
            await self.unkeyed[name].wait()

    async def do(self, step: CreateDecky | StartDecky) -> bool:
        verb, name = ("start", step.name) if isinstance(step, StartDecky) else ("create", step.decky.spec.name)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        self.told.append((verb, name))
        return name not in self.fail

    async def ask(self, names: Sequence[str]) -> Sequence[str]:
        self.told.append(("ask", " ".join(names)))
        await asyncio.sleep(0)
        return [name for name in names if name not in self.claimed]

    async def bring_up(self, made: Sequence[str], stopped: Sequence[str] = ()) -> None:
        starts = [StartDecky(name) for name in (*made, *stopped)]
        up = BringingUp(list(map(create, made)), starts, keyed=self.keyed, do=self.do, ask=self.ask)
        async with asyncio.timeout(60):
            await up.run()


async def test_each_is_made_then_asked_for_then_started():
    crew = Crew()
    await crew.bring_up(NAMES)
    assert sorted(crew.of("create")) == sorted(crew.of("start")) == NAMES
    asked = [asked.split() for asked in crew.of("ask")]
    assert sorted(chain.from_iterable(asked)) == NAMES
    for name in NAMES:
        question = next(f for f, (what, names) in enumerate(crew.told) if what == "ask" and name in names.split())
        assert crew.told.index(("create", name)) < question < crew.told.index(("start", name))


async def test_the_first_start_while_others_are_made_and_no_more_at_once_than_the_engine_likes():
    crew = Crew()
    await crew.bring_up(NAMES)
    first_start = min(place for place, (what, _) in enumerate(crew.told) if what == "start")
    assert [what for what, _ in crew.told[first_start:]].count("create") > 0
    assert crew.most == AT_ONCE


async def test_a_few_are_asked_for_together():
    crew = Crew()
    few = NAMES[: ASKED_TOGETHER - 1]
    await crew.bring_up(few)
    assert [sorted(asked.split()) for asked in crew.of("ask")] == [few]


async def test_who_waits_for_keys_keeps_no_place():
    crew = Crew()
    crew.unkeyed = {name: asyncio.Event() for name in NAMES[: 2 * AT_ONCE]}
    running = asyncio.create_task(crew.bring_up(NAMES[: 2 * AT_ONCE], stopped=NAMES[2 * AT_ONCE :]))
    async with asyncio.timeout(60):
        while len(crew.of("start")) < len(NAMES) - 2 * AT_ONCE:
            await asyncio.sleep(0)
    assert crew.of("create") == []
    for event in crew.unkeyed.values():
        event.set()
    await running
    assert sorted(crew.of("start")) == NAMES


async def test_one_that_fails_or_is_claimed_keeps_nobody_else():
    crew = Crew()
    crew.fail, crew.claimed = frozenset(NAMES[:3]), frozenset(NAMES[5:6])
    await crew.bring_up(NAMES, stopped=["old"])
    assert sorted(crew.of("start")) == sorted({*NAMES[3:], "old"} - crew.claimed)


async def test_what_is_no_decky_s_failure_ends_all_of_it_as_itself():
    class Ended(BaseException):
        pass

    class Ending(Crew):
        async def do(self, step: CreateDecky | StartDecky) -> bool:
            if len(self.told) == AT_ONCE:
                raise Ended
            return await super().do(step)

    crew = Ending()
    with pytest.raises(Ended):
        await crew.bring_up(NAMES)
    assert len(crew.told) < 2 * AT_ONCE + 1


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


async def test_one_process_makes_the_keys_of_many_and_each_keeps_its_own(tmp_path: Path, threads: ThreadPoolExecutor):
    keys = HostKeys(tmp_path / "keys")
    making = KeyMaking(keys, ["web", "db"], threads)
    async with asyncio.timeout(60):
        await making.made("db")
        await making.made("nobody")  # has them, or needs none
    await making.end()
    web, db = keys.of("web"), keys.of("db")
    assert len(set(web.values()) | set(db.values())) == 12
    assert web["ssh_host_rsa_key.pub"].endswith(" root@web\n")
    assert db["ssh_host_ed25519_key.pub"].endswith(" root@db\n")
    assert [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").iterdir()] == [0o600, 0o600]
    assert list(keys.make(["db", "web"])) == ["db", "web"]  # at once: there they are
    assert keys.of("web") == web


async def test_stopped_it_lets_everybody_go_and_keeps_what_was_made(tmp_path: Path, threads: ThreadPoolExecutor):
    keys = HostKeys(tmp_path / "keys")
    making = KeyMaking(keys, [f"d{number}" for number in range(1_000)], threads)  # minutes
    async with asyncio.timeout(60):
        await making.made("d0")
        await making.end()
        await making.made("d999")
    kept = sorted(path.name for path in (tmp_path / "keys").iterdir())
    assert "d0.json" in kept
    assert len(kept) < 1_000
    assert all(len(json.loads((tmp_path / "keys" / name).read_bytes())) == 6 for name in kept)


def test_keys_that_cannot_be_kept_are_told(tmp_path: Path):
    (tmp_path / "keys").write_text("a file stands there")
    with pytest.raises(Unavailable, match="cannot be kept"):
        HostKeys(tmp_path / "keys").of("web")


def test_a_damaged_set_is_told(tmp_path: Path):
    (tmp_path / "web.json").write_text("{")
    with pytest.raises(Unavailable, match="damaged"):
        HostKeys(tmp_path).of("web")
