"""Names of the log lines that decnet-core itself writes, with their meaning."""

LOG_EVENTS: dict[str, str] = {
    "library.logged": "a library wrote a warning or an error through the standard library's logging",
    "child.started": "a supervised program was started",
    "child.start_failed": "a supervised program could not be started at all: it is missing or may not be executed",
    "child.exited": "a supervised program ended and is started again after a delay",
    "child.given_up": "an optional program cannot run as it is configured; the rest goes on without it",
}
