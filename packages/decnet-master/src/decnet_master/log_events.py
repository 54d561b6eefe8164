"""Names of the log lines that the master writes, with their meaning; each room declares its own."""

from __future__ import annotations

LOG_EVENTS: dict[str, str] = {
    "host.enrolled": "a worker joined with its token and was given its certificates",
    "join.refused": "somebody asked to join and was refused",
    "api.started": "the API listens",
    "controller.started": "the controller and the enrolment endpoint listen",
    "token.issued": "the operator asked for a join token",
    "shard.sent": "a worker took its part of the fleet and answered with a report",
    "shard.failed": "a worker did not take its part of the fleet; the desired state stays",
    "login.accepted": "a user logged in at the API",
    "login.refused": "a login at the API was refused",
    "stream.client_cut": "a client of the live stream read too slowly and was cut; it can resume",
    "stream.paused": "the live stream cannot read the database; it tries again",
}
"""Of the rooms api, enrolment and swarmctl; see `merged` for those of the rooms that keep their own table."""
