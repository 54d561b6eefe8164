"""`decnet-logship status`: what the daemon last wrote, and what lies on the disk beyond it.

Exit codes: 0 everything is taken by the receiver, 75 a log is not connected and tried again, 77 the receiver refuses
this worker, 69 the daemon does not run, 4 it never ran here. The document is printed in all these cases but the last.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from decnet_core.errors import DecnetError, ExitCode
from decnet_core.shipping.control import Reason
from decnet_logship.app import rotations
from decnet_logship.generations import Register
from decnet_logship.rotation import Rotation
from decnet_logship.settings import LogshipSettings
from decnet_logship.state import HEARTBEAT_SECS, read

_SILENT_SECS = 3 * HEARTBEAT_SECS
_HOPELESS = frozenset({Reason.ROLE.value, Reason.HOST.value})
_READ_BYTES = 1 << 20


def print_status(settings: LogshipSettings, *, as_json: bool) -> int:
    """Print how shipping stands; return the exit code.

    Raises:
        NotFound: the daemon never ran here.
        Unavailable: what it wrote cannot be read.
    """
    document = survey(settings, datetime.now(UTC))
    if as_json:
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        sys.stdout.write(_words(document))
    return exit_code(document)


def survey(settings: LogshipSettings, now: datetime) -> dict[str, Any]:
    """Put together what is known.

    Raises:
        NotFound, Unavailable: as `print_status`.
    """
    state = read(settings.state_file)
    said = state.get("logs")
    logs = {one.get("path"): one for one in said if isinstance(one, dict)} if isinstance(said, list) else {}
    rows = []
    for rotation in rotations(settings, Register(settings.register_file), None):
        row = dict(logs.get(str(rotation.path), {"path": str(rotation.path)}))
        row["reconnects"] = max(0, _count(row, "connections") - 1)
        rows.append(row | _backlog(rotation))
    errors = [str(row["last_error"]) for row in rows if row.get("last_error")]
    return {
        "master": state.get("master"),
        "protocol": state.get("protocol"),
        "updated_at": state.get("updated_at"),
        "running": _is_fresh(state.get("updated_at"), now),
        "connected": any(row.get("connected") for row in rows),
        "backlog_bytes": sum(row["backlog_bytes"] for row in rows),
        "backlog_lines": sum(row["backlog_lines"] for row in rows),
        "last_error": errors[0] if errors else "",
        "logs": rows,
    }


def exit_code(document: dict[str, Any]) -> int:
    """Tell by a number how shipping stands."""
    rows = document["logs"]
    if not document["running"]:
        return ExitCode.UNAVAILABLE
    if any(row.get("refused") in _HOPELESS for row in rows):
        return ExitCode.TRUST
    waits = [row for row in rows if not row.get("connected") and (row["backlog_bytes"] or row.get("last_error"))]
    return ExitCode.RETRY_LATER if waits else ExitCode.OK


def _backlog(rotation: Rotation) -> dict[str, Any]:
    """Count what the files hold beyond what is known to be acknowledged: a second's worth may be there already."""
    size_bytes = lines = 0
    try:
        for path, acked_bytes in rotation.waiting():
            more_bytes, more_lines = _count_behind(path, acked_bytes)
            size_bytes += more_bytes
            lines += more_lines
    except (DecnetError, OSError) as error:
        return {"backlog_bytes": size_bytes, "backlog_lines": lines, "backlog_error": str(error)}
    return {"backlog_bytes": size_bytes, "backlog_lines": lines}


def _count_behind(path: Path, position: int) -> tuple[int, int]:
    size_bytes = lines = 0
    with path.open("rb", buffering=0) as file:
        file.seek(min(position, os.fstat(file.fileno()).st_size))
        while data := file.read(_READ_BYTES):
            size_bytes += len(data)
            lines += data.count(b"\n")
    return size_bytes, lines


def _is_fresh(updated_at: object, now: datetime) -> bool:
    try:
        return abs((now - datetime.fromisoformat(str(updated_at))).total_seconds()) < _SILENT_SECS
    except (TypeError, ValueError):
        return False


def _count(row: dict[str, Any], name: str) -> int:
    value = row.get(name)
    return value if isinstance(value, int) else 0


def _words(document: dict[str, Any]) -> str:
    running = "" if document["running"] else "; decnet-logship does not run"
    connected = "connected" if document["connected"] else "not connected"
    waiting = f"{document['backlog_lines']:,} lines, {document['backlog_bytes']:,} bytes"
    lines = [
        f"receiver       {document['master']} ({connected}{running})",
        f"not yet there  {waiting}",
        f"last word      {document['updated_at']}",
    ]
    for row in document["logs"]:
        lines += ["", str(row["path"])]
        since = row.get("connected_since") or ("refused: " + row["refused"] if row.get("refused") else "no connection")
        pairs = {
            "generation": row.get("generation") or "-",
            "since": since,
            "last line": row.get("last_line_at") or "-",
            "last word": row.get("last_ack_at") or "-",
            "not there": f"{row['backlog_lines']:,} lines, {row['backlog_bytes']:,} bytes",
            "reconnects": f"{row['reconnects']}, {_count(row, 'failures')} failures",
            "not whole": f"{_count(row, 'cut_lines')} lines cut, {_count(row, 'skipped_lines')} skipped, "
            f"{_count(row, 'gaps')} files lost with at least {_count(row, 'lost_bytes'):,} bytes",
        }
        lines += [f"  {name:<12} {value}" for name, value in pairs.items()]
        for name in ("last_error", "backlog_error"):
            if row.get(name):
                lines.append(f"  {'error':<12} {row[name]}")
    return "\n".join(lines) + "\n"
