"""The programs that `serve` brings up beside itself: the log shipper, the tap, and what contains the deckies.

A worker may run each as a unit of its own; then it is left alone. Where there is no systemd, or the unit is not active,
the agent supervises it, so that one command is enough. None is needed for the agent to work: all are optional
children. Without containment it starts no decky, and says so.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import structlog

from decnet_agent.tap.holdings import MAX_DESCRIPTORS
from decnet_core.supervise import Child

_SYSTEMD = Path("/run/systemd/system")
"""sd_booted(3): it exists where systemd is the init."""

_ASK_SECS = 5.0

log = structlog.get_logger()


def shipper(*, wanted: bool, master_known: bool) -> Child | None:
    """Return the log shipper to supervise, or None with a log line that says why not."""
    program = Path(sys.executable).parent / "decnet-logship"
    if not wanted:
        why = "--no-forwarder was given"
    elif not program.exists():
        why = f"{program} is not installed"
    elif not master_known:
        why = "this worker knows no master"
    elif unit_is_active("decnet-logship"):
        why = "its unit runs"
    else:
        return Child("logship", [str(program), "serve"], optional=True)
    log.info("neighbour.skipped", program="decnet-logship", reason=why)
    return None


def tap(*, wanted: bool) -> Child | None:
    """Return the tap to supervise, or None with a log line that says why not."""
    if not wanted:
        why = "--no-tap was given"
    elif os.geteuid() != 0:
        why = "only root may watch the kernel: run its unit decnet-tap"
    elif unit_is_active("decnet-tap"):
        why = "its unit runs"
    else:
        argv = [sys.executable, "-m", "decnet_agent", "tap"]
        return Child("tap", argv, optional=True, kept_descriptors=MAX_DESCRIPTORS)
    log.info("neighbour.skipped", program="decnet-agent tap", reason=why)
    return None


def containment(*, wanted: bool) -> Child | None:
    """Return the containment process to supervise, or None with a log line that says why not."""
    if not wanted:
        why = "--no-containment was given"
    elif os.geteuid() != 0:
        why = "it takes capabilities that the agent does not have: run its unit decnet-containment"
    elif unit_is_active("decnet-containment"):
        why = "its unit runs"
    else:
        return Child("containment", [sys.executable, "-m", "decnet_agent", "containment"], optional=True)
    log.info("neighbour.skipped", program="decnet-agent containment", reason=why)
    return None


def unit_is_active(unit: str) -> bool:
    """Ask systemd, where it runs, whether a unit does."""
    if not _SYSTEMD.is_dir():
        return False
    try:
        asked = subprocess.run(
            ["systemctl", "is-active", "--quiet", unit],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_ASK_SECS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.returncode == 0
