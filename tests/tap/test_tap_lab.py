"""The tap beside a real decky: what an attacker types, runs and drops, and that nothing of the tap shows inside."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from decnet_core.events import EventType
from tests.lab import telnet
from tests.lab.engine import LabEngine
from tests.lab.image import BOTH_TAG
from tests.lab.lan import Lan
from tests.tap.lab_site import PASSWORD, Collector, Site, tapped

pytestmark = [pytest.mark.root, pytest.mark.docker]

HOST_NUMBER = 31


@pytest.fixture(scope="module")
def site(lab_engine: LabEngine, decky_image: str, lan: Lan, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    del decky_image  # what has telnet as well is prepared with it
    with tapped(lab_engine, BOTH_TAG, lan, tmp_path_factory.mktemp("site"), number=HOST_NUMBER) as site:
        yield site


def test_a_command_given_to_ssh_is_told_with_who_and_from_where(site: Site) -> None:
    assert site.ssh("id; uname -a").returncode == 0
    whole = site.command("bash -c 'id; uname -a'", interactive="false", user="bob", uid="1000")
    child = site.command("uname -a", exe="/usr/bin/uname", user="bob")
    assert whole.src_ip == child.src_ip == str(site.lan.attacker.address)
    assert (whole.dst_ip, whole.dst_port, whole.decky, whole.service) == (site.address, 22, "web-01", "ssh")
    assert whole.session is not None
    assert whole.session == child.session
    assert whole.src_port == child.src_port
    assert "startup" not in whole.fields


def test_the_password_is_told_as_pam_saw_it(site: Site) -> None:
    assert site.ssh("true", password="wrong one").returncode == 255
    tried = site.wait(lambda event: event.fields.get("password") == "wrong one")
    assert (tried.event_type, tried.fields["user"], tried.fields["by"]) == (EventType.CREDENTIAL_TRIED, "bob", "sshd")
    assert tried.src_ip == str(site.lan.attacker.address)


def test_typed_lines_and_what_they_run_are_both_told(site: Site) -> None:
    typed = b"echo typed-$((40+2)); /bin/true typed\ncat > /tmp/note <<EOF\nhello\nEOF\nexit\n"
    site.ssh(None, input=typed, tty=True)
    line = site.command("echo typed-$((40+2)); /bin/true typed", interactive="true", user="bob")
    run = site.command("/bin/true typed", interactive="false")
    assert line.session == run.session
    assert "startup" not in run.fields
    shell = site.command("-bash", startup="true")
    assert shell.session == line.session
    assert site.file("/tmp/note").fields["sha256"] == hashlib.sha256(b"hello\n").hexdigest()


def test_files_dropped_are_kept_with_their_writer(site: Site) -> None:
    content = bytes(range(256)) * 4096
    site.ssh("cat > /home/bob/dropped; chmod 755 /home/bob/dropped; echo m > /dev/shm/in-memory", input=content)
    event = site.file("/home/bob/dropped")
    digest = hashlib.sha256(content).hexdigest()
    assert (event.fields["sha256"], event.fields["size_bytes"]) == (digest, str(len(content)))
    assert event.fields["writer"].startswith("cat < bash < sshd")
    assert (site.data / "quarantine" / event.fields["stored_as"]).read_bytes() == content
    assert (event.src_ip, event.fields["user"]) == (str(site.lan.attacker.address), "bob")
    assert site.file("/dev/shm/in-memory").session == event.session


def test_a_file_that_comes_by_sftp_is_kept(site: Site, tmp_path: Path) -> None:
    local = tmp_path / "payload"
    local.write_bytes(b"#!/bin/sh\nid\n")
    argv = ["sshpass", "-e", "scp", "-q", "-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null", str(local)]
    done = site.lan.attacker.run([*argv, f"bob@{site.address}:/tmp/payload"], env={"SSHPASS": "s3cret"})
    assert done.returncode == 0, done.stderr
    assert site.file("/tmp/payload").fields["sha256"] == hashlib.sha256(b"#!/bin/sh\nid\n").hexdigest()


def test_a_renamed_file_is_told_under_its_new_name(site: Site) -> None:
    site.ssh("echo moved > /tmp/before; sleep 0.2; mv /tmp/before '/tmp/after it'")
    assert site.file("/tmp/after it").fields["sha256"] == hashlib.sha256(b"moved\n").hexdigest()


def test_a_thousand_quick_commands_and_files_are_all_told(site: Site) -> None:
    site.ssh("for i in {1..1000}; do /bin/true quick $i; done; for i in {1..200}; do echo $i > /tmp/many$i; done")
    site.file("/tmp/many200")
    quick = [
        event.fields["command"] for event in site.collector.events if "true quick" in event.fields.get("command", "")
    ]
    assert quick[-1000:] == [f"/bin/true quick {number}" for number in range(1, 1001)]
    paths = {event.fields.get("path") for event in site.collector.events}
    assert {f"/tmp/many{number}" for number in range(1, 201)} <= paths
    assert not [event for event in site.collector.events if event.event_type == EventType.EVIDENCE_DROPPED]


def test_the_deckys_own_machinery_makes_no_events(site: Site) -> None:
    before = len(site.collector.events)
    site.container.exec_run(["sh", "-c", "logger hello; echo x > /tmp/by-owner; service cron restart"])
    site.ssh("/bin/true marker-of-machinery")
    site.command("/bin/true marker-of-machinery")
    since = site.collector.events[before:]
    assert {event.src_ip for event in since} == {str(site.lan.attacker.address)}
    assert not [event for event in since if event.fields.get("path") in {"/tmp/by-owner", "/var/log/wtmp", "/run/utmp"}]


def test_a_visit_by_telnet_is_told_with_who_and_from_where(site: Site) -> None:
    """Passwords as PAM saw them, who was let in, and what he typed and ran: one session, of the service telnet."""
    done = telnet.log_in(
        site.lan.attacker,
        site.address,
        [("bob", "not his"), ("nobody-at-all", "zz"), ("bob", PASSWORD)],
        [("$ ", "echo by-telnet-$((40+2)); /bin/true over telnet"), ("$ ", "exit")],
    )
    assert b"by-telnet-42" in done.stdout, done
    line = site.command("echo by-telnet-$((40+2)); /bin/true over telnet", interactive="true", user="bob", uid="1000")
    run = site.command("/bin/true over telnet", interactive="false")
    let_in = site.wait(lambda event: event.event_type == EventType.LOGIN_SUCCEEDED)
    assert let_in.fields == {"user": "bob", "method": "password"}
    events = [event for event in site.collector.events if event.session == line.session]
    tried = [event.fields for event in events if event.event_type == EventType.CREDENTIAL_TRIED]
    assert [(each["user"], each["password"], each["by"]) for each in tried] == [
        ("bob", "not his", "login"),
        ("nobody-at-all", "zz", "login"),
        ("bob", PASSWORD, "login"),
    ]
    assert {run.session, let_in.session} == {line.session}
    assert {(event.service, event.dst_port) for event in events} == {("telnet", 23)}
    assert {event.src_ip for event in events} == {str(site.lan.attacker.address)}
    commands = [event.fields for event in events if event.event_type == EventType.COMMAND_RUN]
    assert not [each for each in commands if each["command"].startswith("/bin/login")]


def test_nothing_of_the_tap_shows_inside(site: Site) -> None:
    """Look from a shell whose readline and whose sshd's PAM have just been probed, as root, at all processes."""
    script = (
        b"ps -eo args > /tmp/seen\ncat /proc/[0-9]*/maps /proc/self/mountinfo >> /tmp/seen\nenv >> /tmp/seen\nexit\n"
    )
    site.ssh(None, user="root", password="toor", input=script, tty=True)
    site.command("env >> /tmp/seen", interactive="true")
    seen = site.ssh("cat /tmp/seen", user="root", password="toor").stdout.decode()
    assert "/usr/bin/bash" in seen
    assert "libpam.so" in seen
    assert not re.search(r"fanotify|quarantine|tracefs|uprobe|python.*tap", seen)


def test_a_session_keeps_its_id_when_the_tap_is_killed_and_comes_back(site: Site) -> None:
    argv = [
        "sshpass",
        "-e",
        "ssh",
        "-oStrictHostKeyChecking=no",
        "-oUserKnownHostsFile=/dev/null",
        f"bob@{site.address}",
    ]
    shell = site.lan.attacker.popen([*argv, "bash"], env={"SSHPASS": "s3cret"})
    assert shell.stdin is not None
    shell.stdin.write(b"/bin/true before-kill\n")
    shell.stdin.flush()
    before = site.command("/bin/true before-kill")
    site.tap.kill()
    site.start_tap()
    shell.stdin.write(b"/bin/true after-kill; echo late > /tmp/after-kill\n")
    shell.communicate(timeout=30)
    after = site.command("/bin/true after-kill", user="bob")
    assert (after.session, after.src_port, after.src_ip) == (before.session, before.src_port, before.src_ip)
    assert after.source == before.source
    assert site.file("/tmp/after-kill").session == before.session


def test_events_wait_while_the_collector_is_away(site: Site) -> None:
    site.collector.stop()
    events = site.collector.events
    site.ssh("/bin/true while-away")
    site.collector = Collector(site.run / "events.sock")
    site.collector.events = events
    site.collector.start()
    site.command("/bin/true while-away")
    cursors = [event.id for event in site.collector.events]
    assert len(cursors) == len(set(cursors))


def test_a_server_that_takes_files_itself_hides_none(site: Site, tmp_path: Path) -> None:
    """Root may have sshd write the files that come by SFTP within its own process."""
    configure = "sed -i 's/^Subsystem.*/Subsystem sftp internal-sftp/' /etc/ssh/sshd_config; service ssh reload"
    assert site.ssh(configure, user="root", password="toor").returncode == 0
    local = tmp_path / "payload"
    local.write_bytes(b"#!/bin/sh\nid internal\n")
    argv = ["sshpass", "-e", "scp", "-q", "-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null", str(local)]
    argv.append(f"bob@{site.address}:/tmp/internal")
    site.tap.wait_until(
        lambda: site.lan.attacker.run(argv, env={"SSHPASS": "s3cret"}).returncode == 0, "the server again"
    )
    event = site.file("/tmp/internal")
    assert event.fields["writer"].startswith("sshd")
    assert event.src_ip == str(site.lan.attacker.address)


def test_a_restarted_decky_is_watched_again(site: Site) -> None:
    site.container.restart(timeout=0)
    site.set_up()
    site.list_decky()
    deadline = time.monotonic() + 20
    while site.tap.log_text().count("tap.decky_watched") < 2:
        assert time.monotonic() < deadline
        site.tap.wait_for_line("tap.decky_forgotten")
    site.ssh("/bin/true second-life")
    site.command("/bin/true second-life")


def test_the_idle_tap_is_small(site: Site) -> None:
    status = Path(f"/proc/{site.tap.pid}/status").read_text()
    (rss_kib,) = re.findall(r"VmRSS:\s+(\d+) kB", status)
    assert int(rss_kib) < 60 * 1024


def test_the_tap_ends_when_it_is_asked_to(site: Site) -> None:
    assert site.tap.stop(timeout_secs=5) == 0
