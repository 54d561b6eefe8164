"""Log daemons that nobody here wrote send RFC 5425 with a worker's certificate to our real listener."""

import re
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from decnet_core.identity import MASTER
from decnet_core.pki.authority import CertificateAuthority
from decnet_core.pki.certificates import make_csr
from decnet_core.pki.keystore import KeyStore
from decnet_core.syslog.rfc5424 import SyslogMessage, decode
from decnet_master.journal.reader import Batch
from tests.lab.peers import Link, Peer
from tests.lab.processes import Daemon, free_port
from tests.lab.slots import MissingPart
from tests.shipping.place import SENDER, Place, batches
from tests.shipping.test_kills import listener

pytestmark = pytest.mark.slow

LINES = 500
CLAIMED_HOST = "decnet-master"  # what a message says of itself: the one name that would matter

senders = pytest.mark.parametrize("link", [Link.RSYSLOG_GNUTLS, Link.RSYSLOG_OPENSSL, Link.SYSLOG_NG])


@pytest.fixture
def enrolled(tmp_path: Path) -> Place:
    place = Place.make(tmp_path)
    (place.folder / "decnet.ini").write_text("[decnet]\n")
    place.enrol_in_database()
    name_address(place)
    return place


def name_address(place: Place) -> None:
    """Put the address into the master's certificate: syslog-ng holds the certificate to whatever it dialled."""
    now = datetime.now(UTC)
    store = KeyStore(place.master_data / "identities")
    csr = make_csr(store.create_key(MASTER.role), MASTER)
    address = IPv4Address("127.0.0.1")
    pem = place.authority.issue(csr, MASTER, ips=(address,), now=now, lifetime=timedelta(days=1))
    store.store(MASTER.role, pem, place.authority.certificate_pem, now)


def sender(place: Place, link: Link, port: int, log_path: Path) -> Daemon:
    try:
        return Peer(link, place.folder / "peer", place.shipper.files, port).sender(log_path, host=CLAIMED_HOST)
    except MissingPart as missing:
        pytest.skip(f"missing: {missing.message}. {missing.advice}")


def texts(number: int) -> str:
    """Word a line: lengths, quotes, brackets and other scripts all pass through somebody else's templates."""
    return f'{number} "quoted" ] \\ %msg% ${{MSG}} été 日本 {"x" * (number * 7 % 900)}'


def messages(found: list[Batch]) -> list[SyslogMessage]:
    return [decode(line) for batch in found for line in batch.lines]


@senders
def test_each_message_is_journaled_under_the_certificates_host(enrolled: Place, link: Link) -> None:
    place, port = enrolled, free_port()
    log_path = place.folder / "their.log"
    log_path.write_text("".join(texts(number) + "\n" for number in range(LINES)))
    with listener(place, port) as master, sender(place, link, port, log_path) as peer:
        master.wait_for_line("listener.started")
        peer.wait_until(lambda: len(messages(batches(place.journal))) >= LINES, "all messages", timeout_secs=60)
        with log_path.open("a") as log:
            log.write("the last one\n")
        peer.wait_until(lambda: len(messages(batches(place.journal))) > LINES, "one more", timeout_secs=60)
    found = batches(place.journal)
    assert {batch.identity for batch in found} == {SENDER}
    assert {message.host for message in messages(found)} == {CLAIMED_HOST}
    wanted = [*(texts(number) for number in range(LINES)), "the last one"]
    # syslog-ng ends each message with an LF inside its frame; the journal holds what came
    assert [message.message.removesuffix("\n") for message in messages(found)] == wanted


@senders
def test_a_sender_of_another_ca_stores_nothing(enrolled: Place, link: Link, tmp_path: Path) -> None:
    place, port = enrolled, free_port()
    other = CertificateAuthority.open_or_create(tmp_path / "other-ca", "Another CA", None, datetime.now(UTC))
    stranger = Place.make(tmp_path / "stranger", other).shipper.files
    stranger.ca.write_bytes(place.shipper.files.ca.read_bytes())  # it trusts us; we do not trust it
    log_path = place.folder / "their.log"
    log_path.write_text("let me in\n")
    with listener(place, port) as master:
        master.wait_for_line("listener.started")
        with sender(Place(place.folder, other, place.shipper._replace(files=stranger)), link, port, log_path):
            master.wait_for_line("handshake.refused")
        assert not re.search("sender.connected", master.log_text())
        assert batches(place.journal) == []
