"""A connection to the controller: the CLI's one adapter for HTTP.

The controller's problems become our errors again, so that a verb ends with the same exit code as if it had met the
error itself. The secret goes with every request and is not encrypted, so only this machine's loopback is dialled; a
controller elsewhere is reached through a tunnel (`ssh -L 8770:127.0.0.1:8770 master`).
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from pydantic import ValidationError

from decnet_core.errors import ConfigError, RemoteProtocolError, Unavailable
from decnet_core.fleet import Contract
from decnet_master import secret_files
from decnet_master.problems import error_of
from decnet_master.settings import MasterSettings
from decnet_master.swarmctl.fleet_messages import FleetProgress
from decnet_master.swarmctl.messages import FleetReply

CONNECT_SECS = 3.0
ASK_SECS = 60.0
"""A check of a thousand workers that do not answer, 128 at a time with 5 s each, is over within 40 s."""

APPLY_SECS = 3600.0
"""The controller gives each worker a quarter of an hour and speaks to 64 at once."""

LINES = "application/x-ndjson"

Answer = TypeVar("Answer", bound=Contract)
Query = Mapping[str, list[str]]
Progress = Callable[[FleetProgress], object]


class Connection:
    """Asks the controller; use it in a `with` block.

    What asks raises Unavailable when the controller does not answer, and what it answered instead of a result.
    """

    def __init__(self, settings: MasterSettings) -> None:
        """Read the secret; nothing is dialled yet.

        Raises:
            ConfigError, TrustError: the controller's URL is none that is dialled; the secret is missing, unreadable or
                open to others.
        """
        self._url = _loopback_url(settings.swarmctl_url or f"http://{settings.controller_address}")
        self._http = httpx.Client(
            base_url=self._url,
            headers={"authorization": f"Bearer {secret_files.read(settings.controller_secret_file)}"},
            trust_env=False,
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),  # never used; the default reads all of the system's roots
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.close()

    def ask(
        self, method: str, path: str, answer: type[Answer], body: Contract | None = None, query: Query | None = None
    ) -> Answer:
        """Ask, and hold the answer to its contract."""
        request = self._request(method, path, body, query=query)
        try:
            response = self._http.send(request)
        except httpx.HTTPError as cause:
            raise self._away() from cause
        return self._read(response, answer)

    def change(self, path: str, body: Contract, told: Progress | None = None) -> FleetReply:
        """Change the fleet, and wait until every worker that it concerns has answered.

        Args:
            path: of the change.
            body: the request.
            told: is called as workers answer; None when nobody watches.
        """
        request = self._request("POST", path, body, accept=LINES, total_secs=APPLY_SECS)
        reply = None
        try:
            response = self._http.send(request, stream=True)
            if response.is_error:
                response.read()
                return self._read(response, FleetReply)
            for line in response.iter_lines():
                progress = FleetProgress.model_validate_json(line)
                if told is not None:
                    told(progress)
                reply = progress.reply
        except ValidationError as cause:
            raise self._stranger() from cause
        except httpx.ConnectError as cause:
            raise self._away() from cause
        except httpx.HTTPError as cause:
            raise self._broken() from cause
        if reply is None:
            raise self._broken()
        return reply

    def _request(
        self,
        method: str,
        path: str,
        body: Contract | None,
        *,
        query: Query | None = None,
        accept: str = "application/json",
        total_secs: float = ASK_SECS,
    ) -> httpx.Request:
        headers = {"accept": accept}
        return self._http.build_request(
            method,
            path,
            params=query,
            content=None if body is None else body.model_dump_json(),
            headers=headers if body is None else {**headers, "content-type": "application/json"},
            timeout=httpx.Timeout(total_secs, connect=CONNECT_SECS),
        )

    def _read(self, response: httpx.Response, answer: type[Answer]) -> Answer:
        if response.is_error:
            raise error_of(response.status_code, _document(response))
        try:
            return answer.model_validate_json(response.content)
        except ValidationError as cause:
            raise self._stranger() from cause

    def _away(self) -> Unavailable:
        return Unavailable(f"The controller does not answer on {self._url}", "Is `decnet-master serve` running?")

    def _broken(self) -> Unavailable:
        return Unavailable(
            "The controller stopped answering while workers were at it",
            "`decnet-master deckies` shows what became of it; `deploy --count 0` sends again what is missing.",
        )

    def _stranger(self) -> RemoteProtocolError:
        return RemoteProtocolError(
            f"What listens on {self._url} is not this release's controller",
            "Restart `decnet-master serve` after an update.",
        )


def _loopback_url(text: str) -> str:
    """Return the URL without its end, or refuse one that would carry the secret over a network."""
    advice = "Write http://127.0.0.1:8770; reach another machine's through `ssh -L 8770:127.0.0.1:8770 MACHINE`."
    try:
        url = httpx.URL(text)
        is_plain = url.scheme == "http" and url.path in ("", "/") and not (url.userinfo or url.query or url.fragment)
        is_here = url.host == "localhost" or ip_address(url.host).is_loopback
    except (httpx.InvalidURL, ValueError):
        is_plain = is_here = False
    if not (is_plain and is_here):
        # Not quoted: it may hold a password.
        raise ConfigError("The controller's URL is none of this machine's loopback", advice)
    return text.rstrip("/")


def _document(response: httpx.Response) -> dict[str, Any]:
    try:
        document = json.loads(response.content)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
