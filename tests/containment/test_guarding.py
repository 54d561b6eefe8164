"""When deckies are paused, and when they go on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import pytest

from decnet_agent.containment.channel import Guard, Request, Status, Unguarded, serve_channel
from decnet_agent.containment.pairs import Pair, Passage
from decnet_agent.deploying.guarding import keep_guarded
from decnet_core.errors import Unavailable

A = Pair(decky="a", mac="52:54:00:00:00:02", ip="10.0.0.2")
BOUND_SECS = 30.0


class Said(Unguarded):
    """A guard that says what the test wants."""

    def __init__(self, said: str) -> None:
        self.said = said

    async def state(self) -> str:
        return self.said


class Pausing:
    """An engine's deckies; every word of an order is kept."""

    def __init__(self) -> None:
        self.running, self.paused = 2, 0
        self.broken = False
        self.orders: list[str] = []

    def pause_all(self) -> int:
        return self._move("pause", self.running)

    def resume_all(self) -> int:
        return self._move("resume", -self.paused)

    def _move(self, order: str, count: int) -> int:
        self.orders.append(order)
        if self.broken:
            raise Unavailable("Cannot")
        self.running, self.paused = self.running - count, self.paused + count
        return abs(count)


@contextlib.contextmanager
def kept(guard: Said, pausing: Pausing, grace_secs: float = 1000.0) -> Iterator[None]:
    task = asyncio.ensure_future(keep_guarded(guard, pausing, look_secs=0.001, grace_secs=grace_secs))
    try:
        yield
    finally:
        task.cancel()


async def until(reached) -> None:
    async with asyncio.timeout(BOUND_SECS):
        while not reached():
            await asyncio.sleep(0.001)


async def test_deckies_are_paused_when_nothing_contains_them_and_go_on_after():
    guard, pausing = Said("kernel"), Pausing()
    with kept(guard, pausing):
        await until(lambda: pausing.orders == ["resume"])  # what an agent before this one has paused
        guard.said = "none"
        await until(lambda: pausing.paused == 2)
        pausing.running += 1  # the engine's own policy
        await until(lambda: pausing.paused == 3)
        guard.said = "kernel"
        await until(lambda: pausing.running == 3)
        count = len(pausing.orders)
        await asyncio.sleep(0.01)
        assert len(pausing.orders) == count


async def test_silence_is_borne_for_a_while():
    guard, pausing = Said("silent"), Pausing()
    with kept(guard, pausing):
        await asyncio.sleep(0.02)
        assert pausing.orders == []
    with kept(guard, pausing, grace_secs=0.0):
        await until(lambda: pausing.paused == 2)


async def test_an_engine_that_does_not_obey_is_told_again():
    guard, pausing = Said("none"), Pausing()
    pausing.broken = True
    with kept(guard, pausing):
        await until(lambda: len(pausing.orders) > 3)
        pausing.broken = False
        await until(lambda: pausing.paused == 2)
        pausing.broken = True
        guard.said = "kernel"
        await until(lambda: pausing.orders[-3:] == ["resume"] * 3)
        pausing.broken = False
        await until(lambda: pausing.running == 2)


async def test_who_contains_nothing_pauses_nothing():
    pausing = Pausing()
    guard = Said(await Unguarded().state())
    with kept(guard, pausing):
        await until(lambda: bool(pausing.orders))
        await asyncio.sleep(0.01)
    assert set(pausing.orders) == {"resume"}


@contextlib.asynccontextmanager
async def answering(path, answer):
    ready = asyncio.Event()
    task = asyncio.create_task(serve_channel(path, answer, ready.set))
    await asyncio.wait_for(ready.wait(), BOUND_SECS)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_the_agent_is_answered_after_it_is_done(tmp_path):
    heard: list[Request] = []

    async def answer(request: Request) -> Status:
        heard.append(request)
        return Status(enforcing=True)

    guard = Guard(tmp_path / "s", (Passage.parse("tcp:10.0.0.5:53"),), 7)
    assert await guard.state() == "silent"
    hold = asyncio.create_task(guard.hold("eth0", [A]))  # before anybody listens: it is being started
    async with answering(tmp_path / "s", answer):
        await asyncio.wait_for(hold, BOUND_SECS)
        await guard.keep("eth0", [])
        assert await guard.state() == "kernel"
    assert [request.verb for request in heard] == ["hold", "keep", "status"]
    assert heard[0].policy.pairs == (A,)
    assert [str(passage) for passage in heard[0].policy.passages] == ["tcp:10.0.0.5:53"]
    assert heard[0].policy.passage_per_second == 7


async def test_what_cannot_be_enforced_is_said(tmp_path):
    async def answer(_request: Request) -> Status:
        raise Unavailable("There is no interface eth0", "Bring it up.")

    async with answering(tmp_path / "s", answer):
        guard = Guard(tmp_path / "s")
        with pytest.raises(Unavailable, match="There is no interface eth0"):
            await guard.hold("eth0", [A])
        assert await guard.state() == "silent"


@pytest.mark.parametrize("line", [b"", b"{", b'{"verb": "flush"}', b'{"verb": "hold", "more": 1}', b"x" * (2 << 20)])
async def test_who_says_something_else_is_hung_up_on(tmp_path, line):
    async def answer(_request: Request) -> Status:
        raise AssertionError

    async with answering(tmp_path / "s", answer):
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        with contextlib.suppress(ConnectionError):
            writer.write(line + b"\n")
            await writer.drain()
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), BOUND_SECS) == b""
        writer.close()
        _, again = await asyncio.open_unix_connection(str(tmp_path / "s"))  # it lives on
        again.close()


def test_the_socket_is_the_owners_alone(tmp_path):
    async def look() -> int:
        async def answer(_request: Request) -> Status:
            raise AssertionError

        async with answering(tmp_path / "s", answer):
            return (tmp_path / "s").stat().st_mode & 0o777

    assert asyncio.run(look()) == 0o600
