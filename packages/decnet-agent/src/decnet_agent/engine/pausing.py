"""Stop every decky in its tracks, and let them go on: what is left to do when nothing contains them.

A paused decky's processes do not run; its kernel still acknowledges what is sent to it. Three calls of the engine's API
are spoken over a connection of its own, so that a build that takes minutes does not keep it waiting, and an agent
without deckies does without the library's memory.
Source: Docker Engine API 1.41, ContainerList, ContainerPause, ContainerUnpause.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from typing import Any
from urllib.parse import quote

from decnet_agent.engine.labels import LABEL_DECKY
from decnet_core.errors import Unavailable

API_SECS = 20.0
_MAX_BODY_BYTES = 16 << 20
_DONE = 204


class Pauser:
    """Pauses the deckies of one engine; its calls block.

    Args:
        docker_host: `unix://` and the socket's path.
    """

    def __init__(self, docker_host: str) -> None:
        self._path = docker_host.removeprefix("unix://")

    def pause_all(self) -> int:
        """Pause what runs; return how many were.

        Raises:
            Unavailable: the engine does not answer, or did not pause all.
        """
        return self._each("running", "pause")

    def resume_all(self) -> int:
        """Let what is paused go on; return how many were.

        Raises:
            Unavailable: the engine does not answer, or did not resume all.
        """
        return self._each("paused", "unpause")

    def _each(self, status: str, verb: str) -> int:
        filters = quote(json.dumps({"label": [LABEL_DECKY], "status": [status]}))
        try:
            code, listed = self._call("GET", f"/containers/json?filters={filters}")
            if code != http.client.OK or not isinstance(listed, list):
                raise Unavailable(f"The engine does not list its containers: {code}", "See its journal.")
            codes = [self._call("POST", f"/containers/{item['Id']}/{verb}")[0] for item in listed]
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as cause:
            raise Unavailable(f"Cannot {verb} deckies: {cause}", "Start Docker (`systemctl start docker`).") from cause
        if failed := [code for code in codes if code != _DONE]:
            raise Unavailable(f"{len(failed)} deckies did not {verb}: {failed[0]}", "`docker ps -a` shows them.")
        return len(codes)

    def _call(self, method: str, target: str) -> tuple[int, Any]:
        with contextlib.closing(_Connection(self._path)) as connection:
            connection.request(method, target)
            answer = connection.getresponse()
            body = answer.read(_MAX_BODY_BYTES)
            return answer.status, json.loads(body) if body else None


class _Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("docker", timeout=API_SECS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(API_SECS)
        self.sock.connect(self._path)
