"""Names of the log lines that the master writes, with their meaning.

Rooms that are a daemon or a database of their own keep their table beside their code; this is all of them together.
"""

from __future__ import annotations

from decnet_master.ingester.log_events import LOG_EVENTS as INGESTER
from decnet_master.listener.log_events import LOG_EVENTS as LISTENER
from decnet_master.store.log_events import LOG_EVENTS as STORE

CONTROL: dict[str, str] = {
    "host.enrolled": "a worker joined with its token and was given its certificates",
    "host.decommissioned": "the operator decommissioned a worker: it and its certificates are refused from now on",
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

LOG_EVENTS: dict[str, str] = {**STORE, **INGESTER, **LISTENER, **CONTROL}
