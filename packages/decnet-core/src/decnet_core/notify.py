"""Tell systemd how we are: sd_notify(3) in its datagram form, a no-op where no manager listens.

Source: the protocol of sd_notify(3): newline-separated assignments sent to the socket that NOTIFY_SOCKET names; a
leading `@` means the abstract namespace.
"""

from __future__ import annotations

import os
import socket


def notify(state: str) -> bool:
    """Send one state, such as `READY=1` or `WATCHDOG=1`; False when nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address or address[0] not in "/@":
        return False
    if address[0] == "@":
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.connect(address)
            channel.sendall(state.encode())
    except OSError:
        return False
    return True


def watchdog_interval_secs() -> float | None:
    """Half of what the unit's WatchdogSec allows, or None where no watchdog is set for this process."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    usec = os.environ.get("WATCHDOG_USEC", "")
    return int(usec) / 2_000_000 if usec.isdecimal() and int(usec) > 0 else None
