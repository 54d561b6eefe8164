"""One engine, one decky and one tap for all of the tier."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.lab.engine import LabEngine
from tests.lab.lan import Lan
from tests.tap.lab_site import Site, tapped

HOST_NUMBER = 41
PROGRAM = """
import asyncio, sys
from pathlib import Path
from decnet_agent.tap.app import serve
from decnet_core import daemon, logs
daemon.die_with_parent()
logs.configure("tap", level="debug")
asyncio.run(serve(Path(sys.argv[1]), Path(sys.argv[2]), recording_bytes=1 << 20))
"""
"""A tap like any other, but for the bound of a recording."""
SUPERVISED = """
import asyncio, sys
from functools import partial
from decnet_core import daemon, logs, supervise
supervise.FIRST_DELAY_SECS = supervise.LONGEST_DELAY_SECS = 0.2
logs.configure("agent", level="debug")
tap = supervise.Child("tap", (sys.executable, "-c", *sys.argv[1:]), kept_descriptors=400)
asyncio.run(daemon.run({"tap": partial(supervise.keep_running, tap)}))
"""


@pytest.fixture(scope="package")
def site(lab_engine: LabEngine, decky_image: str, lan: Lan, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder, argv = tmp_path_factory.mktemp("site"), (sys.executable, "-c", SUPERVISED, PROGRAM)
    with tapped(lab_engine, decky_image, lan, folder, number=HOST_NUMBER, argv=argv) as site:
        yield site
