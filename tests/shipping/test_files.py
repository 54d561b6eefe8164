"""Other programs' logs beside ours, and receivers that acknowledge nothing, over real TLS."""

import asyncio
import os
import shutil
import socket
import ssl
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from decnet_core.endpoints import Endpoint
from decnet_core.errors import ConfigError
from decnet_core.events import EventType, from_syslog
from decnet_core.identity import Role
from decnet_core.pki.keystore import KeyStore
from decnet_core.pki.tls import server_context
from decnet_core.syslog.framing import FrameDecoder
from decnet_core.syslog.rfc5424 import decode
from decnet_logship.app import build
from decnet_logship.label import label_of
from decnet_logship.rotation import LINGER_SECS
from decnet_logship.settings import MAX_FILES, LogshipSettings
from tests.shipping.place import WORKER, Log, Place, batches, streams
from tests.shipping.receiving import WAIT_SECS, reached, receiving
from tests.shipping.rotating import Their
from tests.shipping.test_shipping import settings_of, shipping, state_of

LINE = b"Nov 23 12:00:00 w1 sshd[7]: Failed password for root from 192.0.2.7 port 4711 ssh2"


def texts(place: Place, path: Path) -> list[bytes]:
    """Return what the master has of another program's log, without labels."""
    label = label_of(path, WORKER)
    lines = [line for batch in batches(place.journal) for line in batch.lines]
    return [line.removeprefix(label) for line in lines if line.startswith(label)]


async def test_another_programs_log_arrives_beside_ours_as_events_of_this_host(place: Place) -> None:
    log, their = Log(place.log_path), place.folder / "auth.log"
    their.write_bytes(LINE + b"\n")
    async with receiving(place) as master, shipping(place, master.endpoint, files=(their,)):
        log.write(b"ours")
        await reached(lambda: texts(place, their) == [LINE], "their line")
        await reached(lambda: streams(place.journal).get(log.generation) == log.written[log.generation], "our line")
        with their.open("ab") as file:
            file.write(b"y" * 9000 + b"\n\nlast\n")
        await reached(lambda: texts(place, their)[-1] == b"last", "the rest")
        await reached(lambda: state_of(place, 1).cut_lines == 1, "the count")
        assert master.server.counts.accepted == 2, "a connection for each log"
    cut = b"y" * (8192 - 18) + b" [cut: 9000 bytes]"
    assert texts(place, their) == [LINE, cut, b"", b"last"]
    (first, *_) = [line for batch in batches(place.journal) for line in batch.lines if LINE in line]
    event = from_syslog(decode(first), fallback_source="s", fallback_cursor="1", received_at=datetime.now(UTC))
    assert (event.event_type, event.decky, event.service, event.text) == (
        EventType.GUEST_LINE,
        WORKER,
        "auth.log",
        LINE.decode(),
    )


async def test_their_rotations_are_followed_through_outages_of_both_sides(place: Place) -> None:
    Log(place.log_path)
    their, written = place.folder / "their.log", list[bytes]()
    long_ago = time.time() - 10_000

    def write(number: int) -> None:
        nonlocal long_ago
        lines = [b"%d.%d %s" % (number, more, b"x" * 40) for more in range(3)]
        with their.open("ab") as file:
            file.write(b"".join(line + b"\n" for line in lines))
        written.extend(lines)
        long_ago += 2 * LINGER_SECS
        os.utime(their, (long_ago, long_ago))

    write(0)
    async with receiving(place) as master:
        port = master.port
        async with shipping(place, master.endpoint, files=(their,)):
            await reached(lambda: texts(place, their) == written, "the first lines")
            write(1)
            their.rename(place.folder / "their.log.2")
            write(2)
            await reached(lambda: texts(place, their) == written, "rotation by rename")
    write(3)
    copy = place.folder / "their.log.1"
    shutil.copyfile(their, copy)
    os.utime(copy, (long_ago + 1, long_ago + 1))
    os.truncate(their, 0)
    write(4)
    async with receiving(place, port), shipping(place, Endpoint("127.0.0.1", port), files=(their,)):
        await reached(lambda: texts(place, their) == written, "rotation by copy, while nobody ran")
    write(5)
    async with shipping(place, Endpoint("127.0.0.1", port), files=(their,)):
        await reached(lambda: "Cannot reach" in state_of(place, 1).last_error, "an attempt")
        write(6)
        async with receiving(place, port):
            await reached(lambda: texts(place, their) == written, "what was written in the outage")
    assert len(list(streams(place.journal))) == 4


@pytest.mark.parametrize("protocol", [{}, {"protocol": "rfc5425", "receiver_name": "decnet-master"}])
async def test_a_log_that_is_truncated_and_renamed_in_an_outage_is_read_from_its_copy(
    place: Place, protocol: dict[str, str]
) -> None:
    Log(place.log_path)
    their = Their(place.folder / "their.log")
    async with receiving(place) as master:
        port = master.port
    async with shipping(place, Endpoint("127.0.0.1", port), files=(their.path,), **protocol):
        async with receiving(place, port):
            await reached(lambda: texts(place, their.path) == their.written, "the first lines")
            await reached(lambda: state_of(place, 1).last_ack_at != "", "the acknowledgement")
        their.write(40)
        their.rotate_by_copy()
        their.write(1)
        their.rotate_by_rename()
        async with receiving(place, port):
            await reached(lambda: set(texts(place, their.path)) == set(their.written), "what was written in the outage")
    if not protocol:  # a plain receiver does not say what it has, and may be sent lines twice
        assert texts(place, their.path) == their.written


async def test_a_plain_receiver_gets_every_line_and_a_restart_sends_none_again(place: Place) -> None:
    log, their = Log(place.log_path), place.folder / "their.log"
    values = ["ü", "日本\\n with an escape", 'quote " and ]', "\x01\x7f", "x" * 65_000]
    log.write(*[b"<134>1 - w1 ssh - - - %s" % value.encode() for value in values], b"", b"<134>1 - w1 a - - - end")
    their.write_bytes(LINE + b"\n")
    plain = {"files": (their,), "protocol": "rfc5425", "receiver_name": "decnet-master"}
    wanted = [line for line in log.written[log.generation] if line]
    async with receiving(place) as master:
        for more in range(2):
            async with shipping(place, master.endpoint, **plain):
                await reached(lambda: texts(place, their) == [LINE] * 1, "their line")
                log.write(b"<134>1 - w1 a - - - more %d" % more)
                wanted.append(log.written[log.generation][-1])
                await reached(lambda: ours(place) == wanted, "our lines")
                size = place.log_path.stat().st_size
                await reached(lambda size=size: state_of(place).acked_offset == size, "the state")
    assert {batch.stream[:6] for batch in batches(place.journal)} == {"plain-"}


def ours(place: Place) -> list[bytes]:
    lines = [line for batch in batches(place.journal) for line in batch.lines]
    return [line for line in lines if LINE not in line]


async def test_a_plain_receiver_that_takes_nothing_is_given_up(place: Place) -> None:
    """A listener that shakes hands and reads no more: its kernel's buffer is all that is taken."""
    files = KeyStore(place.master_data / "identities").load(Role.MASTER, datetime.now(UTC)).files
    log = Log(place.log_path)
    log.write(*[b"x" * 60_000] * 200)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(WAIT_SECS)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)

        def shake_hands() -> ssl.SSLSocket:
            connection = listening.accept()[0]
            connection.settimeout(WAIT_SECS)
            return server_context(files).wrap_socket(connection, server_side=True)

        accepted = asyncio.get_running_loop().run_in_executor(None, shake_hands)
        endpoint = Endpoint("127.0.0.1", listening.getsockname()[1])
        more = {"protocol": "rfc5425", "receiver_name": "decnet-master", "ack_timeout_secs": 0.3}
        async with shipping(place, endpoint, **more):
            await reached(lambda: "takes nothing" in state_of(place).last_error, "giving up")
        with await accepted as connection:
            assert FrameDecoder(1 << 20).feed(connection.recv(1 << 14))[0] == log.written[log.generation][0]
        assert state_of(place).shipped_bytes == 0


async def test_an_acknowledged_log_goes_on_where_it_was_after_a_restart_with_a_label_to_count(place: Place) -> None:
    Log(place.log_path)
    their = place.folder / "their.log"
    their.write_bytes(b"".join(b"%d\n" % number for number in range(50_000)))
    async with receiving(place) as master:
        async with shipping(place, master.endpoint, files=(their,)):
            await reached(lambda: len(texts(place, their)) == 50_000, "all")
        with their.open("ab") as file:
            file.write(b"more\n")
        async with shipping(place, master.endpoint, files=(their,)):
            await reached(lambda: texts(place, their)[50_000:] == [b"more"], "one more")
    assert texts(place, their)[:50_000] == [b"%d" % number for number in range(50_000)]


def test_the_files_to_ship_must_make_sense(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ini = tmp_path / "decnet.ini"
    ini.write_text("[logship]\nfiles = /var/log/auth.log   /var/log/nginx/access.log\n")
    monkeypatch.setenv("DECNET_CONFIG", str(ini))
    assert LogshipSettings.load().files == (Path("/var/log/auth.log"), Path("/var/log/nginx/access.log"))
    for wrong in ("auth.log", "/a /a", " ".join(f"/{number}" for number in range(MAX_FILES + 1))):
        ini.write_text(f"[logship]\nfiles = {wrong}\n")
        with pytest.raises(ConfigError, match="files"):
            LogshipSettings.load()
    ini.write_text("")
    with pytest.raises(ConfigError, match="event log"):
        build(settings_of(place, master="127.0.0.1:1", files=(place.log_path,)))
    with pytest.raises(ConfigError, match="rfc5425"):
        build(settings_of(place, protocol="rfc5425"))


def test_a_label_is_a_header_whatever_the_file_is_called() -> None:
    for name in ("auth.log", "with space]", "ü" * 100, '"'):
        message = decode(label_of(Path("/var/log") / name, WORKER) + LINE)
        assert (message.host, message.message, message.msgid, message.params) == (WORKER, LINE.decode(), "-", {})
        assert 0 < len(message.app) <= 48
