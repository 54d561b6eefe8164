"""Find out whether the master reaches this worker's agent: `decnet-agent seen`.

Only the master can tell: a firewall, a wrong address or another machine's answer are all between the two. So it is
asked to call back, and asked again until it got through or the time is over.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

from decnet_agent import master_client
from decnet_agent.joining import read_enrolment
from decnet_agent.settings import AgentSettings
from decnet_core.endpoints import Endpoint
from decnet_core.errors import TrustError, Unavailable
from decnet_core.identity import Role
from decnet_core.pki.keystore import KeyStore
from decnet_core.pki.tls import client_context

PAUSE_SECS = 2.0


def be_seen(settings: AgentSettings, wait_secs: float) -> str:
    """Ask the master to call this agent until it gets through; return the worker's name.

    Args:
        settings: of the agent.
        wait_secs: for how long it is asked again.

    Raises:
        TrustError: this host has not joined, or the master refuses it; asking again would not help.
        Unavailable: the master does not answer, or does not reach the agent; the message holds what it met.
    """
    enrolment = read_enrolment(settings.data_directory)
    if enrolment is None:
        raise TrustError(
            "This host has not joined a master",
            "Run `decnet-agent join` with the token that `decnet-master swarm enroll` prints.",
        )
    master = Endpoint(enrolment.master, enrolment.enrolment_port)
    agent = KeyStore(settings.identities_directory).load(Role.AGENT, datetime.now(UTC))
    tls = client_context(agent.files, agent.files.ca)
    deadline = time.monotonic() + wait_secs
    while True:
        try:
            reply = master_client.ask_to_be_seen(master, tls)
            if reply.ok:
                return enrolment.host
            failure = Unavailable(f"The master does not see this agent: {reply.error}", reply.advice)
        except Unavailable as error:
            failure = error
        if time.monotonic() >= deadline:
            raise failure
        time.sleep(PAUSE_SECS)
