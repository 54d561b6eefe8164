"""Recordings of terminals: what the client saw and typed, byte for byte, whoever floods, dies or restarts meanwhile."""

from __future__ import annotations

import pytest

from tests.evidence.casts import Recorded, recorded
from tests.tap.lab_site import Site

pytestmark = [pytest.mark.root, pytest.mark.docker]


def _recording(site: Site, marker: bytes) -> Recorded:
    """Wait for the recording in which a marker was shown."""
    found: list[Recorded] = []

    def seen(event) -> bool:
        if event.event_type == "session.recorded" and "stored_as" in event.fields:
            cast = recorded(site.data / "quarantine", event)
            if marker in cast.shown:
                found.append(cast)
        return bool(found)

    site.wait(seen)
    return found[0]


def test_a_session_is_recorded_as_the_client_saw_it(site: Site) -> None:
    typed = b"echo marker-$((6*7))\nls -la --color=always /\nexit\n"
    done = site.ssh(None, input=typed, tty=True)
    cast = _recording(site, b"marker-42")
    assert cast.shown == done.stdout
    assert cast.typed == typed
