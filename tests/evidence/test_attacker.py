"""Somebody who is root in the decky and knows that he may be watched: what he does stays evidence."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from decnet_core.events import Event, EventType
from tests.evidence.test_recordings import Found
from tests.lab.lan import SSH_OPTIONS
from tests.tap.lab_site import Site

pytestmark = [pytest.mark.root, pytest.mark.docker]


def _root(site: Site, lines: bytes) -> tuple[bytes, Found]:
    done = site.ssh(None, user="root", password="toor", input=lines, tty=True)
    return done.stdout, Found(site, lines.split(b"\n", 1)[0])


def _captured(site: Site, path: str, content: bytes) -> Event:
    """Wait until a content was captured under a path, and read it back."""
    digest = hashlib.sha256(content).hexdigest()
    event = site.wait(
        lambda event: (
            event.event_type == EventType.FILE_CAPTURED
            and (event.fields["path"], event.fields["sha256"]) == (path, digest)
        )
    )
    assert (site.data / "quarantine" / event.fields["stored_as"]).read_bytes() == content
    return event


def test_files_come_in_every_way_and_are_kept(site: Site, tmp_path: Path) -> None:
    binary = bytes(range(256)) * 300
    local = tmp_path / "payload"
    local.write_bytes(binary)
    for old, name in (([], "by-sftp"), (["-O"], "by-scp")):
        argv = ["sshpass", "-e", "scp", "-q", *old, *SSH_OPTIONS, str(local), f"bob@{site.address}:/tmp/{name}"]
        done = site.lan.attacker.run(argv, env={"SSHPASS": "s3cret"})
        assert done.returncode == 0, done.stderr
    site.ssh("cat > /tmp/by-cat", input=binary)
    script = (
        "cat > /tmp/by-here <<'EOF'\n#!/bin/sh\nid\nEOF\n"
        "echo aGVsbG8K | base64 -d > /dev/shm/by-base64; mv /dev/shm/by-base64 /tmp/from-memory\n"
        "cp /tmp/by-here /tmp/over; mv /tmp/over /tmp/by-base64\n"
    )
    site.ssh(script)
    for path, content in (
        ("/tmp/by-sftp", binary),
        ("/tmp/by-scp", binary),
        ("/tmp/by-cat", binary),
        ("/tmp/by-here", b"#!/bin/sh\nid\n"),
        ("/dev/shm/by-base64", b"hello\n"),
        ("/tmp/from-memory", b"hello\n"),
        ("/tmp/by-base64", b"#!/bin/sh\nid\n"),
    ):
        event = _captured(site, path, content)
        assert (event.src_ip, event.fields["user"]) == (str(site.lan.attacker.address), "bob")
        assert "login_at" in event.fields or path == "/tmp/by-sftp"


def test_another_shell_and_a_replaced_one_hide_nothing_from_the_recording(site: Site) -> None:
    got, found = _root(
        site,
        b"echo disguised; cp /usr/bin/bash /tmp/b; mv /tmp/b /usr/bin/bash; unset HISTFILE\n"
        b"exec dash -i\n"
        b"echo in-another-shell-$((40+2))\n"
        b"exit\n",
    )
    assert b"in-another-shell-42" in got
    assert found.cast.shown == got
    assert b"echo in-another-shell-$((40+2))\n" in found.cast.typed
    assert found.event.fields["user"] == "root"
    site.tap.wait_until(lambda: site.tap.log_text().count("tap.probed_file_changed") == 2, "a probe of the new shell")
    _root(site, b"echo typed-at-the-new-shell\nexit\n")
    assert site.command("echo typed-at-the-new-shell", interactive="true").fields["user"] == "root"


def test_a_fork_bomb_and_forged_lines_take_nothing_from_the_record(site: Site) -> None:
    before = len(site.collector.events)
    bomb = b"for i in {1..400}; do sleep 0.5 & done 2>/dev/null; wait"
    got, found = _root(
        site,
        b"echo bomb; logger -t sshd 'Accepted password for eve from 203.0.113.9 port 1 ssh2'; " + bomb + b"\n"
        b"/bin/true after-the-bomb\nexit\n",
    )
    assert found.cast.shown == got
    told = site.command("/bin/true after-the-bomb", interactive="false")
    assert told.session == found.event.session
    since = site.collector.events[before:]
    assert {event.src_ip for event in since if event.src_ip} == {str(site.lan.attacker.address)}
    assert not [event for event in since if event.event_type == EventType.EVIDENCE_DROPPED]


def test_what_is_removed_overwritten_or_moved_away_at_once_is_kept(site: Site) -> None:
    """Each content is what its file held when it was closed, whatever became of the name a moment later."""
    contents = {f"/srv/gone-{number}": b"gone %d\n" % number for number in range(200)}
    script = "".join(f"echo gone {number} > /srv/gone-{number}; rm /srv/gone-{number}\n" for number in range(200))
    script += "mv /srv /srv-moved; mkdir /srv; echo after > /srv/after; mv /srv-moved/../srv /srv-away\n"
    script += (
        "mkdir -p /srv; ln -sf /etc/passwd /srv/link; echo linked > /srv/real; ln /srv/real /srv/hard; rm /srv/real\n"
    )
    site.ssh(None, user="root", password="toor", input=script.encode())
    contents |= {"/srv/after": b"after\n", "/srv/real": b"linked\n"}
    wanted = {hashlib.sha256(content).hexdigest() for content in contents.values()}

    def kept() -> bool:
        events = [event for event in site.collector.events if event.event_type == EventType.FILE_CAPTURED]
        return wanted <= {event.fields["sha256"] for event in events}

    site.tap.wait_until(kept, "all contents", timeout_secs=60)


def test_a_file_written_over_and_over_ends_as_its_last_content(site: Site) -> None:
    script = "for i in {1..300}; do echo again $i > /tmp/again; done\n"
    site.ssh(None, user="root", password="toor", input=script.encode())
    _captured(site, "/tmp/again", b"again 300\n")


def test_passwords_given_to_su_and_sudo_are_the_visitors(site: Site) -> None:
    site.ssh("echo not-roots | su -c id root; echo toor | su -c '/bin/true as-root' root; echo his-own | sudo -S id")
    told = site.command("su -c id root")
    for user, password, by in (("root", "not-roots", "su"), ("root", "toor", "su"), ("bob", "his-own", "sudo")):
        tried = site.wait(
            lambda event, password=password: event.fields.get("password") == password and event.session == told.session
        )
        assert (tried.event_type, tried.fields["user"], tried.fields["by"]) == (EventType.CREDENTIAL_TRIED, user, by)
        assert (tried.src_ip, tried.src_port) == (told.src_ip, told.src_port)
    assert site.command("/bin/true as-root", uid="0").session == told.session
