"""From records of terminals to recordings: attributed, bounded, told once, whatever dies in between."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from decnet_agent.tap.attribution import Process, Session
from decnet_agent.tap.decoding import Flow, Record
from decnet_agent.tap.observer import Observer, Watched
from decnet_agent.tap.quarantine import Quarantine
from decnet_agent.tap.recording_files import RecordingFiles
from decnet_agent.tap.recordings import Recordings
from decnet_agent.tap.terminal_programs import Kind
from decnet_core.errors import RemoteProtocolError
from decnet_core.events import Event, EventType, check
from tests.evidence.casts import Recorded, read, recorded

NAMESPACE, SERVER, TERMINAL = 77, 4242, 0xFFFF_8880_0000_1000
DECKY = Watched("web-01", "c" * 64, 100, NAMESPACE)
FLOW = Flow("192.0.2.7", 50000, "192.0.2.1", 22)


class NoProc:
    """A machine of which nothing more can be asked."""

    def running(self, _namespace: int) -> Iterator[Record]:
        return iter(())

    def program_of(self, _pid: int) -> bytes:
        return b""

    def served_flows(self, _pid: int) -> frozenset[Flow]:
        return frozenset()

    def served_ports(self, _pid: int) -> frozenset[int]:
        return frozenset()

    def server_user(self, _pid: int) -> str | None:
        return "bob"


def server(pid: int = SERVER, *, session: str | None = "s1", serving: bool = True, ended: bool = False) -> Process:
    who = None if session is None else Session(session, FLOW, pid)
    return Process(pid, 17, 1_000, NAMESPACE, 0, (b"sshd",), who, serving=serving, ended=ended)


def record(
    kind: Kind,
    data: bytes = b"",
    *,
    at_secs: float = 1.0,
    missing: int = 0,
    terminal: int = TERMINAL,
    pid: int = SERVER,
) -> bytes:
    head = struct.pack(
        "=IIQQIIQHHIQ", kind, NAMESPACE, int(at_secs * 1e9), terminal, pid, 3, 1_000, 24, 80, len(data), missing
    )
    return head + data


class Tap:
    """What surrounds the recordings: one life of a tap over a folder."""

    def __init__(self, folder: Path, *, shown_bytes: int = 1 << 20, total_bytes: int = 1 << 30) -> None:
        self.folder = folder
        self.events: list[Event] = []
        self.commits = 0
        self.observer = Observer(self.events.append, NoProc())
        self.observer.watch(DECKY)
        self.quarantine = Quarantine(folder / "quarantine", total_bytes=total_bytes)
        self.recordings = Recordings(
            RecordingFiles(folder / "live"),
            self.quarantine,
            self.observer,
            self.events.append,
            commit=self._commit,
            shown_bytes=shown_bytes,
            typed_bytes=1000,
        )
        self.safe: list[tuple[str, str]] = []

    def _commit(self) -> None:
        self.commits += 1
        self.save()

    def save(self) -> None:
        """Keep what a killed tap's memory holds."""
        self.recordings.table.all_changed()
        self.safe = [(key, value) for key, value in self.recordings.table.changes() if value is not None]

    def knows(self, *processes: Process) -> None:
        for process in processes:
            self.observer.tables[0].put(process.pid, process)

    def take(self, *records: bytes) -> None:
        for each in records:
            self.recordings.take(each)

    def keep(self) -> None:
        """Let what has ended come to the quarantine."""

        async def until_kept() -> None:
            running = asyncio.create_task(self.recordings.run())
            async with asyncio.timeout(60):
                while any(each.ended for each in self.recordings.table.values()):
                    await asyncio.sleep(0)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

        asyncio.run(until_kept())

    def told(self) -> list[Event]:
        found = [event for event in self.events if event.event_type == EventType.SESSION_RECORDED]
        for event in found:
            check(event)
        return found

    def cast(self, event: Event) -> Recorded:
        return recorded(self.folder / "quarantine", event)

    def live(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "live").iterdir())

    def close(self) -> None:
        self.recordings.close()
        self.quarantine.close()


@pytest.fixture
def tap(tmp_path: Path) -> Iterator[Tap]:
    made = Tap(tmp_path)
    made.knows(server())
    yield made
    made.close()


@contextlib.contextmanager
def successor(tap: Tap, *, gapless: bool, remembers: bool = True) -> Iterator[Tap]:
    """Another tap, after the first was killed with only what it had safe."""
    after = Tap(tap.folder)
    after.knows(server())
    if remembers:
        after.recordings.table.restore(tap.safe)
    after.recordings.restored(gapless=gapless)
    yield after
    after.close()


def test_a_terminal_becomes_one_recording_and_one_event(tap: Tap) -> None:
    tap.take(
        record(Kind.OPENED),
        record(Kind.SHOWN, b"$ ", at_secs=2.0),
        record(Kind.TYPED, b"id\r", at_secs=3.0),
        record(Kind.SHOWN, b"id\r\nuid=0\xff\r\n", at_secs=4.5),
        record(Kind.ENDED, at_secs=4.5),
    )
    tap.keep()
    (event,) = tap.told()
    cast = tap.cast(event)
    assert (cast.shown, cast.typed) == (b"$ id\r\nuid=0\xff\r\n", b"id\r")
    assert (event.src_ip, event.src_port, event.session, event.decky) == ("192.0.2.7", 50000, "s1", "web-01")
    assert (event.fields["user"], event.fields["terminal"], event.fields["duration_secs"]) == ("bob", "pts/3", "2.500")
    assert "truncated" not in event.fields
    assert tap.live() == []
    note = (tap.folder / "quarantine" / event.fields["stored_as"]).with_suffix(".json").read_text()
    assert '"src_ip": "192.0.2.7"' in note


def test_the_deckys_own_machinery_is_not_recorded_and_an_unknown_process_is(tap: Tap) -> None:
    tap.knows(server(5000, session=None))
    tap.take(record(Kind.SHOWN, b"cron's", terminal=1, pid=5000), record(Kind.SHOWN, b"whose?", terminal=2, pid=6000))
    tap.take(record(Kind.ENDED, terminal=1), record(Kind.ENDED, terminal=2))
    tap.keep()
    (event,) = tap.told()
    assert tap.cast(event).shown == b"whose?"
    assert (event.session, event.src_ip) == (None, None)


def test_a_terminal_within_a_session_is_recorded_only_where_no_outer_one_is(tap: Tap) -> None:
    tap.knows(server(5000, serving=False), server(5001, session="s2", serving=False))
    tap.take(
        record(Kind.SHOWN, b"outer"),
        record(Kind.SHOWN, b"script", terminal=2, pid=5000),
        record(Kind.SHOWN, b"alone", terminal=3, pid=5001),
        *(record(Kind.ENDED, terminal=terminal) for terminal in (TERMINAL, 2, 3)),
    )
    tap.keep()
    assert sorted(tap.cast(event).shown for event in tap.told()) == [b"alone", b"outer"]


def test_a_number_that_is_given_to_a_new_terminal_begins_a_new_recording(tap: Tap) -> None:
    tap.take(record(Kind.SHOWN, b"first"), record(Kind.OPENED), record(Kind.SHOWN, b"second"), record(Kind.ENDED))
    tap.keep()
    assert [tap.cast(event).shown for event in tap.told()] == [b"first", b"second"]


def test_a_terminal_ends_with_the_process_that_holds_it_after_its_last_words(tap: Tap) -> None:
    tap.take(record(Kind.SHOWN, b"almost"))
    tap.recordings.look(lambda: None)
    tap.knows(server(ended=True))
    tap.recordings.look(lambda: tap.take(record(Kind.SHOWN, b" all")))
    tap.keep()
    assert [tap.cast(event).shown for event in tap.told()] == [b"almost all"]


def test_a_decky_that_goes_takes_its_terminals_with_it(tap: Tap) -> None:
    tap.take(record(Kind.SHOWN, b"last words"))
    tap.recordings.forget(DECKY)
    tap.keep()
    assert [tap.cast(event).shown for event in tap.told()] == [b"last words"]


def test_what_is_over_the_bound_is_counted_told_and_does_not_hide_what_is_typed(tmp_path: Path) -> None:
    tap = Tap(tmp_path, shown_bytes=1000)
    tap.knows(server())
    tap.take(*(record(Kind.SHOWN, b"y\r\n" * 100) for _ in range(10)), record(Kind.TYPED, b"hidden?\r"))
    tap.take(record(Kind.ENDED))
    tap.recordings.look(lambda: None)
    tap.keep()
    (event,) = tap.told()
    cast = tap.cast(event)
    assert (len(cast.shown), cast.typed) == (1200, b"hidden?\r")
    assert (event.fields["truncated"], event.fields["missing_bytes"]) == ("true", "1800")
    assert len(cast.of("m")) == 1
    (dropped,) = [each for each in tap.events if each.event_type == EventType.EVIDENCE_DROPPED]
    assert dropped.fields == {"count": "1800", "reason": "recording-full"}
    tap.close()


def test_what_the_kernel_had_no_room_for_is_told_where_it_is_missing(tap: Tap) -> None:
    tap.take(record(Kind.SHOWN, b"before"), record(Kind.SHOWN, b"after", missing=300), record(Kind.TYPED, b"x"))
    tap.take(record(Kind.ENDED))
    tap.keep()
    (event,) = tap.told()
    codes = [(code, text) for _, code, text in tap.cast(event).events if code in "om"]
    assert [code for code, _ in codes] == ["o", "m", "o"]
    assert codes[1][1].startswith("300 bytes shown")
    assert event.fields["missing_bytes"] == "300"


def test_a_full_quarantine_is_told_with_the_hash(tmp_path: Path) -> None:
    tap = Tap(tmp_path, total_bytes=0)
    tap.knows(server())
    tap.take(record(Kind.SHOWN, b"no room"), record(Kind.ENDED))
    tap.keep()
    tap.recordings.look(lambda: None)
    (event,) = tap.told()
    assert "stored_as" not in event.fields
    assert [each.fields["reason"] for each in tap.events if "reason" in each.fields] == ["quarantine-full"]
    tap.close()


def test_a_killed_taps_successor_writes_on_and_nothing_is_there_twice(tap: Tap) -> None:
    tap.take(record(Kind.SHOWN, b"one \xe2\x82"))
    tap.save()
    unsafe = record(Kind.SHOWN, b"\xac two ", at_secs=2.0)
    tap.take(unsafe)  # written to the file; the kernel still has it
    with successor(tap, gapless=True) as after:
        after.take(unsafe, record(Kind.SHOWN, b"three", at_secs=3.0), record(Kind.ENDED))
        after.keep()
        (event,) = after.told()
        assert after.cast(event).shown == "one € two three".encode()


def test_a_tap_that_comes_after_a_gap_closes_what_it_finds_and_begins_anew(tap: Tap) -> None:
    tap.take(record(Kind.SHOWN, b"before"))
    tap.save()
    with successor(tap, gapless=False) as after:
        after.take(record(Kind.SHOWN, b"later", at_secs=9.0), record(Kind.ENDED))
        after.keep()
        first, second = (after.cast(event) for event in after.told())
        assert (first.shown, second.shown) == (b"before", b"later")
        assert "away" in first.of("m")[0]


def test_one_that_was_kept_and_not_told_is_told_once_by_the_successor(tap: Tap) -> None:
    tap.take(record(Kind.SHOWN, b"kept"), record(Kind.ENDED))
    tap.save()
    (name,) = tap.live()
    tap.recordings._files.mark_kept(name)
    with successor(tap, gapless=True) as after:
        after.keep()
        assert [after.cast(event).shown for event in after.told()] == [b"kept"]
        assert after.live() == []


def test_one_that_was_told_is_not_told_again_whatever_is_left_of_it(tap: Tap) -> None:
    tap.take(record(Kind.SHOWN, b"told"), record(Kind.ENDED))
    (name,) = tap.live()
    tap.recordings._files.mark_kept(name)
    with successor(tap, gapless=True, remembers=False) as after:
        after.recordings.look(lambda: None)
        assert (after.told(), after.live()) == ([], [])


def test_a_recording_of_another_boot_is_kept_up_to_its_last_whole_line(tap: Tap) -> None:
    tap.take(record(Kind.SHOWN, b"whole", at_secs=1.0), record(Kind.SHOWN, b"torn", at_secs=2.0))
    (name,) = tap.live()
    path = tap.folder / "live" / name
    path.write_bytes(path.read_bytes()[:-3])
    with successor(tap, gapless=False, remembers=False) as after:
        after.keep()
        (event,) = after.told()
        cast = after.cast(event)
        assert cast.shown == b"whole"
        assert "restarted" in cast.of("m")[0]
        assert (event.src_ip, event.session, event.decky) == ("192.0.2.7", "s1", "web-01")


@pytest.mark.parametrize("content", [b"", b"\n", b"{}\n", b'{"about":1}\n[1,2]\n', b"\xff" * 100_000])
def test_a_file_that_is_no_recording_is_counted_and_removed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "live").mkdir()
    (tmp_path / "live" / "x.cast").write_bytes(content)
    tap = Tap(tmp_path)
    tap.recordings.restored(gapless=False)
    tap.recordings.look(lambda: None)
    assert tap.live() == []
    assert [event.fields["reason"] for event in tap.events] == ["recording-file"]
    tap.close()


def test_a_live_recording_is_roots_alone_and_readable_at_any_time(tap: Tap) -> None:
    tap.take(record(Kind.TYPED, b"secret"))
    (path,) = (tap.folder / "live").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert (tap.folder / "live").stat().st_mode & 0o777 == 0o700
    assert read(path.read_bytes()).typed == b"secret"


@pytest.mark.parametrize("data", [b"", b"x" * 55, record(Kind.SHOWN, b"abc")[:-1], b"\x09" + record(Kind.SHOWN)[1:]])
def test_what_is_no_record_is_refused(tap: Tap, data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        tap.recordings.take(data)
