"""Stop every decky in its tracks, and let them go on: what is left to do when nothing contains them.

A paused decky's processes do not run; its kernel still acknowledges what is sent to it. A connection of its own, so
that a build that takes minutes does not keep it waiting.
"""

from __future__ import annotations

import contextlib

from decnet_agent.engine.labels import LABEL_DECKY
from decnet_core.errors import Unavailable

API_SECS = 20


class Pauser:
    """Pauses the deckies of one engine; its calls block."""

    def __init__(self, docker_host: str) -> None:
        self._docker_host = docker_host

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
        from docker import DockerClient  # noqa: PLC0415 - an agent without deckies does without its memory
        from docker.errors import APIError, DockerException  # noqa: PLC0415
        from requests.exceptions import RequestException  # noqa: PLC0415 - the library's own, it lets them through

        done = 0
        try:
            with contextlib.closing(DockerClient(base_url=self._docker_host, timeout=API_SECS)) as client:
                found = client.containers.list(
                    all=True, filters={"label": LABEL_DECKY, "status": status}, ignore_removed=True
                )
                for container in found:
                    try:
                        getattr(container, verb)()
                    except APIError:  # it ended meanwhile, or is told below
                        continue
                    done += 1
        except (DockerException, RequestException, OSError) as cause:
            raise Unavailable(f"Cannot {verb} deckies", "Start Docker (`systemctl start docker`).") from cause
        if done < len(found):
            raise Unavailable(f"{len(found) - done} deckies did not {verb}", "`docker ps -a` shows them.")
        return done
