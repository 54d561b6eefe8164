"""Names of the log lines that the updater writes, with their meaning."""

from __future__ import annotations

LOG_EVENTS: dict[str, str] = {
    "updater.started": "the updater is about to serve; it names its identity, its address and when the identity ends",
    "peer.refused": "a peer with a certificate of our CA is not one that may speak to this server",
    "request.refused": "somebody other than the master asked for something",
}
