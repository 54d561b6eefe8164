"""Take away what keeps deckies of the lab from attacking: it outlives the process that put it there, and the deckies.

Whatever hangs on the same parent interface next would be silenced by it. An interface that lies in a worker's own
namespace needs none of this: the kernel's rules go with the namespace.
"""

from __future__ import annotations

import errno
import os
import socket
import time

from decnet_agent.containment.netlink import KernelRefused
from decnet_agent.containment.ruleset import table_name
from decnet_agent.containment.sink import links, remove_sink
from decnet_agent.containment.table import netfilter, remove_table

_ENDING_SECS = 20.0


def uncontain(parent: str) -> None:
    """Remove rules and sink of a parent interface of our namespace; harmless where there are none."""
    if os.geteuid() != 0:  # nobody can have put any there
        return
    try:
        index = socket.if_nametoindex(parent)
    except OSError:
        return
    deadline = time.monotonic() + _ENDING_SECS
    with netfilter() as rules:
        while True:
            try:
                remove_table(rules, table_name(parent))
                break
            except KernelRefused as refused:  # they are those of a process that was killed and is just ending
                if refused.number != errno.EPERM:
                    raise
                if time.monotonic() > deadline:  # somebody else's, who lives
                    return
            time.sleep(0.05)
    with links() as devices:
        remove_sink(devices, index)
