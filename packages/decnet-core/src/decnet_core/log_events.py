"""Names of the log lines that decnet-core itself writes, with their meaning."""

LOG_EVENTS: dict[str, str] = {
    "library.logged": "a library wrote a warning or an error through the standard library's logging",
    "handshake.failed": "a peer failed the TLS handshake, and why: its certificate ended, is none of ours or missing",
    "handshakes.cut": "more TLS handshakes were under way than are allowed, so the oldest were ended: a flood",
    "connections.cut": "there were more connections than places, so the oldest of the fullest address were ended",
    "identity.awaited": "this program's certificate has ended; it waits for the process that renews it",
    "identity.changed": "a renewed certificate, or other trusted CAs, are used from the next connection on",
    "identity.ended": "this program's certificate has ended and no other has come; its peers refuse it",
    "identity.refused": "a new identity on the disk cannot be used; the one before it stays in use",
    "child.started": "a supervised program was started",
    "child.start_failed": "a supervised program could not be started at all: it is missing or may not be executed",
    "child.exited": "a supervised program ended and is started again after a delay",
    "child.given_up": "an optional program cannot run as it is configured; the rest goes on without it",
    "descriptor.refused": "a supervised program wanted more open files kept than it may, or under no proper name",
}
