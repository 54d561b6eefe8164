"""The targets, by their names."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from types import MappingProxyType

from tests.fuzz.target import Target
from tests.fuzz.targets import events, fleet_file, framing, joining, journal, shipping, syslog, worker

TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        target.name: target
        for target in chain(
            syslog.TARGETS,
            framing.TARGETS,
            shipping.TARGETS,
            events.TARGETS,
            journal.TARGETS,
            worker.TARGETS,
            joining.TARGETS,
            fleet_file.TARGETS,
        )
    }
)
