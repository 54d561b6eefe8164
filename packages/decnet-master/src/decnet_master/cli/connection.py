"""A connection to the controller: the CLI's one adapter for HTTP.

The controller's problems become our errors again, so that a verb ends with the same exit code as if it had met the
error itself. There are two ways to it:

    http    the secret goes with every request and is not encrypted, so only this machine's loopback is dialled; another
            machine's is reached through a tunnel (`ssh -L 8770:127.0.0.1:8770 master`)
    https   an operator's certificate, TLS 1.3; the server must be `decnet-master` of a CA that came with it, whatever
            address is dialled, and is asked under that name

In TLS 1.3 a client learns that its certificate was refused from its first read; both ends of the handshake are told
apart from a controller that is away.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Mapping
from hashlib import sha256 as sha256_of
from ipaddress import ip_address
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from pydantic import ValidationError

from decnet_core.errors import ConfigError, DecnetError, RemoteProtocolError, TrustError, Unavailable
from decnet_core.fleet import Contract
from decnet_core.identity import MASTER_HOST
from decnet_core.pki.keystore import StoredIdentity
from decnet_core.pki.tls import client_context
from decnet_master import secret_files
from decnet_master.cli.operator_identity import load
from decnet_master.problems import error_of
from decnet_master.settings import MasterSettings
from decnet_master.swarmctl.fleet_messages import FleetProgress
from decnet_master.swarmctl.messages import FleetReply

CONNECT_SECS = 3.0
HANDSHAKE_SECS = 15.0
"""To connect to a master elsewhere: over a bad mobile link TLS takes seconds, and the server gives it ten."""
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
        """Read the secret, or the operator's identity; nothing is dialled yet.

        Raises:
            ConfigError, TrustError: the controller's URL is none that is dialled; the secret or the identity is
                missing, unreadable or open to others, or the identity has ended.
        """
        self._url = controller_url(settings)
        self.operator: StoredIdentity | None = None
        if self._url.startswith("https:"):
            headers = {"host": MASTER_HOST}
            self.operator = load(settings)
            tls = client_context(self.operator.files, self.operator.files.ca)
        else:
            headers = {"authorization": f"Bearer {secret_files.read(settings.controller_secret_file)}"}
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # never used; the default reads all of the system's roots
        self._http = httpx.Client(base_url=self._url, headers=headers, trust_env=False, verify=tls)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.close()

    def ask(  # noqa: PLR0917 -- a request has that many parts
        self,
        method: str,
        path: str,
        answer: type[Answer],
        body: Contract | None = None,
        query: Query | None = None,
        total_secs: float = ASK_SECS,
    ) -> Answer:
        """Ask, and hold the answer to its contract."""
        request = self._request(method, path, body, query=query, total_secs=total_secs)
        try:
            response = self._http.send(request)
        except httpx.HTTPError as cause:
            raise self._away(cause) from cause
        return self._read(response, answer)

    def download(self, path: str, sha256: str, size_bytes: int) -> bytes:
        """Ask for bytes whose hash and size are known.

        Raises:
            RemoteProtocolError: what came is something else.
        """
        content = bytearray()
        try:
            response = self._http.send(self._request("GET", path, None), stream=True)
            if response.is_error:
                response.read()
                raise error_of(response.status_code, _document(response))
            for piece in response.iter_bytes():
                content += piece
                if len(content) > size_bytes:
                    break
        except httpx.HTTPError as cause:
            raise self._away(cause) from cause
        if len(content) != size_bytes or sha256_of(content).hexdigest() != sha256:
            raise RemoteProtocolError("What the controller sent is not what its hash says", "Try again.")
        return bytes(content)

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
            raise self._away(cause) from cause
        except httpx.HTTPError as cause:
            raise self._broken(cause) from cause
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
            timeout=httpx.Timeout(total_secs, connect=CONNECT_SECS if self.operator is None else HANDSHAKE_SECS),
            extensions={"sni_hostname": MASTER_HOST},
        )

    def _read(self, response: httpx.Response, answer: type[Answer]) -> Answer:
        if response.is_error:
            raise error_of(response.status_code, _document(response))
        try:
            return answer.model_validate_json(response.content)
        except ValidationError as cause:
            raise self._stranger() from cause

    def _away(self, cause: Exception) -> DecnetError:
        if (mistrust := self._mistrust(cause)) is not None:
            return mistrust
        advice = "Is `decnet-master serve` running?"
        if self.operator is not None:
            advice += (
                " Does operator-address of its master name this address and port? If it does, its log says whether it "
                "refuses this certificate (handshake.failed)."
            )
        return Unavailable(f"The controller does not answer on {self._url}", advice)

    def _mistrust(self, cause: Exception) -> TrustError | None:
        """Tell when one end of the handshake refused the other."""
        error: BaseException | None = cause
        while error is not None and not isinstance(error, ssl.SSLError):
            error = error.__cause__ or error.__context__
        if isinstance(error, ssl.SSLCertVerificationError):
            return TrustError(
                f"What answers on {self._url} is not the master of this operator's CA: {error.verify_message}",
                "Check the address. If the master has another CA, begin anew with `decnet-master operator request`.",
            )
        if error is None or self.operator is None:
            return None
        why = (error.reason or "no TLS").lower().replace("_", " ")
        return TrustError(
            f"The controller on {self._url} refuses the certificate of {self.operator.identity}: {why}",
            "If the address is right, make a new request and have it signed: `decnet-master operator request`.",
        )

    def _broken(self, cause: Exception | None = None) -> DecnetError:
        if cause is not None and (mistrust := self._mistrust(cause)) is not None:
            return mistrust
        return Unavailable(
            "The controller stopped answering while workers were at it",
            "`decnet-master deckies` shows what became of it; `deploy --count 0` sends again what is missing.",
        )

    def _stranger(self) -> RemoteProtocolError:
        return RemoteProtocolError(
            f"What listens on {self._url} is not this release's controller",
            "Restart `decnet-master serve` after an update; an operator elsewhere needs the master's release.",
        )


def controller_url(settings: MasterSettings) -> str:
    """Return where the controller is asked, without the URL's end.

    Raises:
        ConfigError: the URL is none, or would carry the secret over a network.
    """
    text = settings.swarmctl_url or f"http://{settings.controller_address}"
    advice = (
        "Write http://127.0.0.1:8770 on the master, https://MASTER:8772 elsewhere (`decnet-master operator request` "
        "begins with that), or go through `ssh -L 8770:127.0.0.1:8770 MASTER`."
    )
    try:
        url = httpx.URL(text)
        is_bare = bool(url.host) and url.path in ("", "/") and not (url.userinfo or url.query or url.fragment)
        fits = is_bare and (url.scheme == "https" or (url.scheme == "http" and _is_here(url.host)))
    except httpx.InvalidURL:
        fits = False
    if not fits:
        # Not quoted: it may hold a password.
        raise ConfigError("The controller's URL is neither http on this machine's loopback nor https", advice)
    return text.rstrip("/")


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _document(response: httpx.Response) -> dict[str, Any]:
    try:
        document = json.loads(response.content)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
