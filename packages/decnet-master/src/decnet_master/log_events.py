"""Names of the log lines that the master writes, with their meaning.

Rooms that are a daemon or a database of their own keep their table beside their code; this is all of them together.
"""

from __future__ import annotations

from decnet_master.ingester.log_events import LOG_EVENTS as INGESTER
from decnet_master.listener.log_events import LOG_EVENTS as LISTENER
from decnet_master.store.log_events import LOG_EVENTS as STORE

CONTROL: dict[str, str] = {
    "artifact.failed": "a worker did not give an artifact that it keeps; another that keeps it is asked",
    "artifact.fetched": "an artifact came from a worker and is what its hash says",
    "host.enrolled": "a worker joined with its token and was given its certificates",
    "host.decommissioned": "the operator decommissioned a worker: it and its certificates are refused from now on",
    "host.labelled": "the operator gave a worker labels, or took some away",
    "host.limited": "the operator said how many deckies a worker takes",
    "ca.changing": "the operator began to change the CA: both are trusted until the old one is retired",
    "ca.retired": "the operator retired the old CA: what it issued is refused from now on",
    "certificates.renewed": "a worker was given certificates for new keys; those of a repeated request are not new",
    "identity.unrenewed": "the master's own certificate cannot be renewed now; it is tried again",
    "peer.refused": "a peer's certificate is of our CA and names no identity that may call",
    "renewal.refused": "somebody asked for new certificates and was refused",
    "request.overreached": "a request asked for another name or rights: refused to a worker, ignored for an operator",
    "controller.refused": "somebody on this machine asked the controller without its secret; `untold` others before",
    "token.revoked": "the operator revoked a join token",
    "operator.let_in": "somebody on the master let an operator in: it may steer from elsewhere with its certificate",
    "operator.revoked": "an operator is refused from now on, and `by` says who did that",
    "operator.renewed": "an operator was given a certificate for a new key",
    "operator.asked": "an operator elsewhere asked for something, and `status` is the answer's, 0 where there was none",
    "operator.refused": "somebody with a certificate of our CA is no operator, or none that is let in",
    "operator.cut": "an operator that was connected was revoked, or its certificate ended, and is cut off",
    "operators.unchecked": "the database is away, so that nobody knows who was revoked; nothing new is answered either",
    "bundle.offered": "a host without anything showed an open join token and was told which wheels it is sent",
    "bundle.refused": "a host asked for wheels and was refused, for its token or for lack of wheels that fit it",
    "join.refused": "somebody asked to join and was refused",
    "api.started": "the API listens",
    "controller.started": "the controller and the enrolment endpoint listen",
    "token.issued": "the operator asked for a join token",
    "shard.sent": "a worker took its part of the fleet and answered with a report",
    "decky.mutated": "a decky gains or loses a service, for an operator or by itself; its worker is sent that next",
    "decky.reset": "a decky is made what it was when it was new, for an operator or because its visitors have gone",
    "lifecycle.postponed": "deckies could not be reset or mutate by themselves now; it is tried again in ten minutes",
    "shard.failed": "a worker did not take its part of the fleet; the desired state stays",
    "worker.went_away": "an agent did not answer several heartbeats in a row; it is an event too",
    "worker.answered_again": "an agent that was away answers again; it is an event too",
    "worker.differed": "a worker is not as it shall be, and is sent its part of the fleet once more",
    "worker.mended": "a worker that could not be mended before is as it shall be",
    "repair.failed": "a worker that differs could not be mended; it is tried again, ever more rarely",
    "repair.given_up": "mending a worker failed several times for one reason; it is tried on, about once an hour",
    "repair.unrecorded": "the database is away, so that an attempt to mend a worker is not remembered",
    "heartbeat.unrecorded": "the database is away, so that what workers say is not written down; it is tried again",
    "request.unanswered": "the database does not answer, so a request was not either; who asked is not told more",
    "login.accepted": "a user logged in at the API",
    "login.refused": "a login at the API was refused",
    "stream.client_cut": "a client of the live stream read too slowly and was cut; it can resume",
    "worker.fell_silent": "nothing comes any more from a worker that should ship; it is an event too",
    "worker.came_back": "a worker that was silent is heard again; it is an event too",
    "silence.unwatched": "the database is away, so that nobody looks for silent workers; it is tried again",
    "stream.paused": "the live stream cannot read the database; it tries again",
}

LOG_EVENTS: dict[str, str] = {**STORE, **INGESTER, **LISTENER, **CONTROL}
