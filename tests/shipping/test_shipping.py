"""From the event log to the journal, over real TLS, both ends in one loop."""

import asyncio
import json
import resource
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from decnet_core.endpoints import Endpoint
from decnet_core.errors import ConfigError, ExitCode, TrustError
from decnet_core.identity import MASTER_HOST, Identity, Role
from decnet_core.pki.authority import CertificateAuthority
from decnet_core.pki.keystore import KeyStore
from decnet_core.pki.tls import IdentityFiles, client_context
from decnet_core.shipping.control import ALPN, Hello, Reason, Refuse, Resume, Skip, encode_control
from decnet_core.syslog.framing import encode_frame
from decnet_logship.app import App, build, master_endpoint
from decnet_logship.settings import LogshipSettings
from decnet_logship.state import LogState, read
from decnet_logship.status import exit_code, survey
from decnet_master.listener.books import Counts
from decnet_master.listener.server import ServerLimits
from tests.shipping.place import SENDER, Log, Place, batches, enrol, streams
from tests.shipping.receiving import WAIT_SECS, Receiving, reached, receiving

STREAM = "0123456789abcdef" * 2


def settings_of(place: Place, **more: object) -> LogshipSettings:
    directories = {"data_directory": place.worker_data, "log_directory": place.log_path.parent}
    return LogshipSettings.load(**(directories | {"reconnect_max_secs": 0.5} | more))


@asynccontextmanager
async def shipping(place: Place, endpoint: Endpoint, **more: object) -> AsyncIterator[App]:
    """Ship the place's log until the block ends."""
    app = build(settings_of(place, **({"master": str(endpoint)} | more)))
    _started[place.folder] = app
    tasks = [asyncio.ensure_future(task()) for task in app.tasks.values()]
    try:
        yield app
        assert not any(task.done() for task in tasks), [task for task in tasks if task.done()]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        app.close()


def state_of(place: Place, number: int = 0) -> LogState:
    """Tell how one of the logs that `shipping` ships stands, or stood at its end; the event log is the first."""
    return _started[place.folder].state.logs[number]


_started: dict[Path, App] = {}


def arrived(place: Place, log: Log) -> Callable[[], bool]:
    return lambda: streams(place.journal) == log.written


async def test_every_line_arrives_once_in_order_also_while_it_is_written(place: Place) -> None:
    log = Log(place.log_path)
    log.write(b"before", b"with \xff\x00 bytes\r", b"same", b"same")
    async with receiving(place) as master, shipping(place, master.endpoint):
        await reached(arrived(place, log), "the lines from before")
        for number in range(20):
            log.write(b"%d" % number)
            await asyncio.sleep(0)
        log.append(b"half a li")
        await reached(arrived(place, log), "the lines written meanwhile")
        log.append(b"ne\n")
        log.written[log.generation].append(b"half a line")
        await reached(arrived(place, log), "the line that was half")
    assert {batch.identity for batch in batches(place.journal)} == {SENDER}


async def test_rotation_is_followed_and_shipped_files_are_removed(place: Place) -> None:
    log = Log(place.log_path)
    async with receiving(place) as master, shipping(place, master.endpoint):
        for number in range(5):
            log.write(b"file %d" % number)
            log.begin()
        log.write(b"last")
        await reached(arrived(place, log), "all files")
        await reached(lambda: [path.name for path in place.log_path.parent.iterdir()] == ["events.log"], "removal")


async def test_files_rotated_while_nobody_shipped_are_shipped_oldest_first(place: Place) -> None:
    log = Log(place.log_path)
    for number in range(5):
        log.write(b"file %d" % number)
        log.begin()
    (place.log_path.parent / f"events.log.{'0' * 32}").write_bytes(b"not ours\n")
    async with receiving(place) as master, shipping(place, master.endpoint):
        await reached(arrived(place, log), "all files")
        left = {"events.log", f"events.log.{'0' * 32}"}
        await reached(lambda: {path.name for path in place.log_path.parent.iterdir()} == left, "removal of ours alone")
    order = list(dict.fromkeys(batch.stream for batch in batches(place.journal)))
    assert order == list(log.written)


async def test_the_master_may_go_and_come_back(place: Place) -> None:
    log = Log(place.log_path)
    async with receiving(place) as master:
        port = master.port
    async with shipping(place, Endpoint("127.0.0.1", port)):
        for number in range(3):
            async with receiving(place, port):
                log.write(b"outage %d" % number)
                await reached(arrived(place, log), "the lines of this time")
            log.write(b"nobody listens")


async def test_a_full_disk_stops_acknowledging_and_loses_nothing(place: Place) -> None:
    log = Log(place.log_path)
    log.write(*[b"%0999d" % number for number in range(9_000)])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with receiving(place) as master:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, hard))  # the journal's segment cannot take one block
        try:
            async with shipping(place, master.endpoint):
                await reached(lambda: master.server.committer.counts.failures > 2, "refusals of the disk")
                assert master.writer.durable_offset(SENDER, log.generation) < 64 << 10
                assert state_of(place).shipped_bytes < 64 << 10
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
                await reached(arrived(place, log), "all lines")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_line_that_no_frame_can_hold_is_cut_and_blocks_nothing(place: Place) -> None:
    log = Log(place.log_path)
    log.write(b"before")
    start = place.log_path.stat().st_size
    log.append(b"\n" + b"x" * (3 << 20) + b"\n")
    mark = b" [cut: %d bytes]" % (3 << 20)
    cut = b"x" * ((1 << 20) - len(mark)) + mark
    log.written[log.generation] += [cut]
    log.write(b"after")
    async with receiving(place) as master, shipping(place, master.endpoint):
        await reached(arrived(place, log), "the lines around it")
        await reached(lambda: state_of(place).skipped_lines == state_of(place).cut_lines == 1, "the counts")
    holes = [(batch.start, batch.end) for batch in batches(place.journal) if not batch.lines]
    assert holes == [(start, start + 1), (start + 2 + (1 << 20), start + 2 + (3 << 20))]


async def test_a_file_that_was_cut_goes_on_under_another_name(place: Place) -> None:
    log = Log(place.log_path)
    log.write(*[b"line %d" % number for number in range(10)])
    header = log.written[log.generation][0]
    async with receiving(place) as master, shipping(place, master.endpoint):
        await reached(arrived(place, log), "all lines")
        log.cut(len(header) + 1)
        log.append(b"other\n")
        await reached(lambda: len(streams(place.journal)) == 2, "a second stream")
        await reached(lambda: list(streams(place.journal).values())[1] == [header, b"other"], "what stands there now")
        log.begin()
        log.write(b"in the next file")
        await reached(lambda: streams(place.journal).get(log.generation) == log.written[log.generation], "the next")
    first = next(iter(log.written))
    assert streams(place.journal)[first] == log.written[first]


async def test_status_tells_what_is_missing(place: Place) -> None:
    log = Log(place.log_path)
    async with receiving(place) as master, shipping(place, master.endpoint):
        log.write(b"there")
        size = place.log_path.stat().st_size
        state_file = settings_of(place).state_file
        await reached(lambda: state_file.exists() and read(state_file)["acked"] == {log.generation: size}, "state")
        now = survey(settings_of(place), datetime.now(UTC))
        assert exit_code(now) == ExitCode.OK
        (row,) = now["logs"]
        assert row["connected"]
        assert (row["generation"], row["shipped_bytes"]) == (log.generation, size)
        assert (row["backlog_bytes"], row["backlog_lines"], row["reconnects"], row["gaps"]) == (0, 0, 0, 0)
        assert row["connected_since"] <= row["last_line_at"] <= row["last_ack_at"]
    log.write(b"123456789")
    log.begin()
    later = survey(settings_of(place), datetime.now(UTC) + timedelta(seconds=60))
    assert (later["backlog_lines"], later["connected"], later["running"]) == (2, False, False)
    assert later["backlog_bytes"] == 10 + place.log_path.stat().st_size
    assert exit_code(later) == ExitCode.UNAVAILABLE
    json.dumps(later)


async def test_an_impostor_is_not_told_anything(place: Place, tmp_path: Path) -> None:
    other = CertificateAuthority.open_or_create(tmp_path / "other-ca", "Test CA", None, datetime.now(UTC))
    impostor = Place.make(tmp_path / "impostor", other)
    Log(place.log_path)
    async with receiving(impostor) as master, shipping(place, master.endpoint):
        await reached(lambda: master.server.counts.handshakes_refused > 0, "a refused handshake")
        assert master.server.counts.accepted == 0
    assert batches(impostor.journal) == []


def test_it_refuses_to_start_without_identity_or_master(place: Place, tmp_path: Path) -> None:
    with pytest.raises(TrustError):
        build(LogshipSettings.load(data_directory=tmp_path / "empty", master="127.0.0.1:1"))
    with pytest.raises(ConfigError):
        build(settings_of(place))
    (place.worker_data / "enrolment.json").write_text("{}")
    with pytest.raises(ConfigError):
        build(settings_of(place))
    (place.worker_data / "enrolment.json").write_text(
        '{"host":"w1","master":"10.0.0.1","listener_port":6514,"enrolment_port":8771}'
    )
    assert master_endpoint(settings_of(place)) == Endpoint("10.0.0.1", 6514)
    assert master_endpoint(settings_of(place, master="m.example:99")) == Endpoint("m.example", 99)


class Peer:
    """A hand-driven client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def dial(cls, master: Receiving, context: ssl.SSLContext) -> "Peer":
        dialled = asyncio.open_connection("127.0.0.1", master.port, ssl=context, server_hostname=MASTER_HOST)
        return cls(*await asyncio.wait_for(dialled, WAIT_SECS))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def expect(self, data: bytes) -> None:
        assert await asyncio.wait_for(self.reader.readexactly(len(data)), WAIT_SECS) == data

    async def ended(self) -> None:
        """Wait for the end, however it is told."""
        try:
            while await asyncio.wait_for(self.reader.read(1 << 16), WAIT_SECS):
                pass
        except OSError:
            pass
        finally:
            self.writer.transport.abort()


def shipper_context(place: Place, alpn: tuple[str, ...] = (ALPN,)) -> ssl.SSLContext:
    files = KeyStore(place.worker_data / "identities").load(Role.LOGSHIP, datetime.now(UTC)).files
    return client_context(files, files.ca, alpn)


async def test_the_newest_connection_of_a_stream_wins(place: Place) -> None:
    async with receiving(place) as master:
        old = await Peer.dial(master, shipper_context(place))
        old.send(encode_control(Hello(STREAM)))
        await old.expect(encode_control(Resume(0)))
        old.send(encode_frame(b"one"))
        await old.expect(b"6 \nACK 4")
        new = await Peer.dial(master, shipper_context(place))
        new.send(encode_control(Hello(STREAM)))
        await new.expect(encode_control(Resume(4)))
        await old.expect(encode_control(Refuse(Reason.SUPERSEDED)))
        old.send(encode_frame(b"late"))
        new.send(encode_frame(b"two"))
        await new.expect(b"6 \nACK 8")
        await old.ended()
        assert master.server.counts.superseded == 1
        new.writer.transport.abort()
    assert streams(place.journal) == {STREAM: [b"one", b"two"]}


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", encode_frame(b"line"), b"\x00" * 70_000, b"5 \nPING"])
async def test_garbage_from_an_authenticated_peer_ends_its_connection_alone(place: Place, garbage: bytes) -> None:
    async with receiving(place) as master:
        good = await Peer.dial(master, shipper_context(place))
        good.send(encode_control(Hello(STREAM)))
        await good.expect(encode_control(Resume(0)))
        bad = await Peer.dial(master, shipper_context(place))
        bad.send(garbage)
        await bad.expect(encode_control(Refuse(Reason.PROTOCOL)))
        await bad.ended()
        good.send(encode_control(Skip(3)) + encode_frame(b"still here"))
        await good.expect(b"7 \nACK 14")
        good.writer.transport.abort()
        assert master.server.counts.protocol_errors == 1


async def test_a_half_frame_is_forgotten_and_the_good_ones_before_it_stay(place: Place) -> None:
    async with receiving(place) as master:
        peer = await Peer.dial(master, shipper_context(place))
        peer.send(encode_control(Hello(STREAM)))
        await peer.expect(encode_control(Resume(0)))
        peer.send(encode_frame(b"whole") + b"100 half")
        await peer.expect(b"6 \nACK 6")
        peer.writer.transport.abort()
    assert streams(place.journal) == {STREAM: [b"whole"]}


async def test_strangers_never_get_beyond_the_handshake(place: Place, tmp_path: Path) -> None:
    other = CertificateAuthority.open_or_create(tmp_path / "other-ca", "Test CA", None, datetime.now(UTC))
    stranger = enrol(other, tmp_path / "stranger", Identity(Role.LOGSHIP, "w1"))
    ours = shipper_context(place)
    files = KeyStore(place.worker_data / "identities").load(Role.LOGSHIP, datetime.now(UTC)).files
    foreign = client_context(IdentityFiles(stranger.files.key, stranger.files.certificate, files.ca), files.ca, (ALPN,))
    nobody = client_context(None, files.ca, (ALPN,))
    async with receiving(place) as master:
        for number, context in enumerate((foreign, nobody), start=1):
            peer = await Peer.dial(master, context)
            peer.send(encode_control(Hello(STREAM)))
            await peer.ended()
            await reached(lambda expected=number: master.server.counts.handshakes_refused == expected, "a refusal")
        _, plain = await asyncio.open_connection("127.0.0.1", master.port)
        plain.write(b"39 \nHELLO " + STREAM.encode())
        await reached(lambda: master.server.counts.handshakes_refused == 3, "a refusal of plain TCP")
        plain.transport.abort()
        assert master.server.counts.accepted == 0
        peer = await Peer.dial(master, ours)
        peer.send(encode_control(Hello(STREAM)))
        await peer.expect(encode_control(Resume(0)))
        peer.writer.transport.abort()


async def test_a_silent_handshake_is_given_up(place: Place) -> None:
    async with receiving(place, limits=ServerLimits(handshake_secs=0.2)) as master:
        _, silent = await asyncio.open_connection("127.0.0.1", master.port)
        await reached(lambda: master.server.counts.handshakes_refused == 1, "the end of the silence")
        silent.transport.abort()


async def test_silent_strangers_keep_nobody_out(place: Place) -> None:
    async with receiving(place, limits=ServerLimits(handshakes=8, handshake_secs=WAIT_SECS)) as master:
        strangers = [await asyncio.open_connection("127.0.0.1", master.port) for _ in range(200)]
        for _, writer in strangers[::2]:
            writer.write(b"\x16\x03\x01\x02\x00\x01")  # a ClientHello that never goes on
        async with asyncio.timeout(WAIT_SECS / 2):
            peer = await Peer.dial(master, shipper_context(place))
            peer.send(encode_control(Hello(STREAM)))
            await peer.expect(encode_control(Resume(0)))
        assert master.server.counts.handshakes_refused >= len(strangers) - 8
        for writer in (peer.writer, *(writer for _, writer in strangers)):
            writer.transport.abort()


async def test_the_master_may_look_whether_it_is_there(place: Place) -> None:
    files = KeyStore(place.master_data / "identities").load(Role.MASTER, datetime.now(UTC)).files
    async with receiving(place) as master:
        peer = await Peer.dial(master, client_context(files, files.ca, (ALPN,)))
        await peer.expect(encode_control(Refuse(Reason.ROLE)))
        await peer.ended()
        assert master.server.counts == Counts()


async def test_the_books_and_the_role_decide_who_ships(place: Place) -> None:
    agent = enrol(place.authority, place.folder / "agent", Identity(Role.AGENT, "w1")).files
    async with receiving(place) as master:
        wrong_role = await Peer.dial(master, client_context(agent, agent.ca, (ALPN,)))
        await wrong_role.expect(encode_control(Refuse(Reason.ROLE)))
        await wrong_role.ended()
        master.books.active.clear()
        retired = await Peer.dial(master, shipper_context(place))
        retired.send(encode_control(Hello(STREAM)))
        await retired.expect(encode_control(Refuse(Reason.HOST)))
        await retired.ended()
        plain = await Peer.dial(master, shipper_context(place, ()))
        plain.send(encode_frame(b"unheard"))
        await plain.ended()
        assert master.server.counts.refused == 3
    assert batches(place.journal) == []


async def test_a_host_that_is_retired_loses_its_live_connection(place: Place) -> None:
    async with receiving(place, limits=ServerLimits(muster_secs=0.02, tick_secs=0.01)) as master:
        peer = await Peer.dial(master, shipper_context(place))
        peer.send(encode_control(Hello(STREAM)))
        await peer.expect(encode_control(Resume(0)))
        master.books.active.clear()
        await peer.expect(encode_control(Refuse(Reason.HOST)))
        await peer.ended()


async def test_connections_of_one_peer_are_bounded(place: Place) -> None:
    async with receiving(place, limits=ServerLimits(connections_per_peer=1)) as master:
        first = await Peer.dial(master, shipper_context(place))
        second = await Peer.dial(master, shipper_context(place))
        await second.expect(encode_control(Refuse(Reason.BUSY)))
        await second.ended()
        first.send(encode_control(Hello(STREAM)))
        await first.expect(encode_control(Resume(0)))
        first.writer.transport.abort()


async def test_a_plain_sender_is_journaled_byte_for_byte(place: Place) -> None:
    messages = [b"<13>1 - h a - - - x", b"with\nline feeds\n", b"\nACK 5", b"x" * 60_000]
    async with receiving(place) as master:
        peer = await Peer.dial(master, shipper_context(place, ()))
        peer.send(b"".join(map(encode_frame, messages)))
        await reached(lambda: sum(len(batch.lines) for batch in batches(place.journal)) == 4, "four messages")
        peer.send(b"100000 ")
        await peer.ended()
        assert master.server.counts.protocol_errors == 1
    (stream,) = streams(place.journal)
    assert stream.startswith("plain-")
    assert streams(place.journal)[stream] == messages
