"""What the script on a bare host asks its master: the first half of what `decnet_master.bootstrap.line.script` joins.

Nothing but two questions that anybody may ask is sent before the master's CA has the fingerprint that stands in the
token. After that TLS trusts that CA alone, and every wheel is held against the SHA-256 of a list that came that way.

The standard library alone, and syntax that an older Python can read, to be told that it is too old.
"""

from __future__ import annotations

import base64
import getpass
import hashlib
import http.client
import json
import os
import platform
import re
import socket
import ssl
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

MASTER_NAME = "decnet-master"
ANSWER_SECS = 30.0
WHEEL_SECS = 900.0
MAX_ANSWER_BYTES = 1 << 20
MAX_WHEEL_BYTES = 256 << 20
MAX_TOKEN_CHARS = 2048
PIECE_BYTES = 1 << 16
FRUITLESS_TRIES = 5
"""Connections in a row that bring nothing, after which a download is given up."""

FAILED, NOT_FOUND, CONFLICT, UNAVAILABLE, LATER, TRUST, CONFIG = 1, 4, 5, 69, 75, 77, 78
_BY_STATUS = {401: TRUST, 403: TRUST, 404: NOT_FOUND, 409: CONFLICT, 429: LATER, 503: LATER}
_REACH = "Check that the master runs and that its enrolment port is open to this host; then run the same line again."
NEW_LINE = "Ask for a new line: `decnet-master swarm enroll NAME --bootstrap`."


class Stop(Exception):
    """It cannot go on: what happened, what to do, and the exit code."""

    def __init__(self, code: int, message: str, advice: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.advice = advice


class Token:
    """A join token, taken apart; a text that is none raises Stop."""

    def __init__(self, text: str) -> None:
        self.text = text.strip()
        try:
            prefix, _, body = self.text.partition(".")
            raw = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
            held = json.loads(raw.decode())
            self.id, self.secret, self.pin = str(held["id"]), str(held["secret"]), str(held["pin"])
            self.host = str(held["host"])
            address, _, port = str(held["address"]).rpartition(":")
            self.master, self.port = address.strip("[]"), int(port)
        except (ValueError, KeyError, TypeError):
            # From None: the text of the cause would quote the secret.
            raise Stop(TRUST, "That is not a whole join token", NEW_LINE) from None
        shapes = ((self.id, r"[0-9a-f]{16}"), (self.pin, r"[0-9a-f]{64}"), (self.secret, r"[A-Za-z0-9_-]{43}"))
        if prefix != "decnet-join" or not all(re.fullmatch(shape, value) for value, shape in shapes):
            raise Stop(TRUST, "That is not a whole join token", NEW_LINE)

    @classmethod
    def read(cls) -> Token:
        """Read it from standard input; on a terminal it is asked for, and not shown."""
        if sys.stdin.isatty():
            return cls(getpass.getpass("Join token: "))
        return cls(sys.stdin.readline(MAX_TOKEN_CHARS))


class Master:
    """The master of a token: nothing but a question is sent before its CA has the fingerprint in the token."""

    def __init__(self, token: Token) -> None:
        self._token = token
        self._where = f"{token.master}:{token.port}"
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._tls.check_hostname = False
        self._tls.verify_mode = ssl.CERT_NONE
        status, pem = self._ask("/ca", {})
        self._judge(status, pem)
        try:
            # The very bytes that the pin covers are what is trusted: no two readers of PEM have a say.
            der = ssl.PEM_cert_to_DER_cert(pem.decode("ascii"))
        except ValueError:
            raise Stop(TRUST, f"What answers at {self._where} sent no CA certificate", NEW_LINE) from None
        if hashlib.sha256(der).hexdigest() != token.pin:
            raise Stop(
                TRUST,
                f"What answers at {self._where} is not the master of this token: its CA has another fingerprint",
                "Find out whether somebody intercepts the connection; if the master is a new one, ask for a new line.",
            )
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_3
        self._tls.load_verify_locations(cadata=der)
        self._secret = {"authorization": f"Bearer {token.id}.{token.secret}"}

    def index(self, parts: Sequence[str]) -> dict[str, Any]:
        """Ask which wheels a host of this kind is sent."""
        query = [f"python={sys.version_info[1]}", f"machine={platform.machine()}", f"glibc={glibc()}"]
        status, body = self._ask("/bundle?" + "&".join(query + [f"part={part}" for part in parts]), self._secret)
        self._judge(status, body)
        try:
            return _checked_index(json.loads(body.decode()))
        except (ValueError, KeyError, TypeError):
            raise Stop(FAILED, "The master's answer cannot be read", NEW_LINE) from None

    def fetch(self, wheel: dict[str, Any], folder: Path) -> None:
        """Bring one wheel into a folder, from where an earlier attempt ended, and hash it."""
        target, part = folder / wheel["file"], folder / (wheel["sha256"] + ".part")
        if target.exists() and sha256_of(target) == wheel["sha256"]:
            return
        deadline, fruitless = time.monotonic() + WHEEL_SECS, 0
        while (have := part.stat().st_size if part.exists() else 0) != wheel["bytes"]:
            if have > wheel["bytes"]:
                part.unlink()
                continue
            if time.monotonic() > deadline or fruitless == FRUITLESS_TRIES:
                raise Stop(UNAVAILABLE, f"{wheel['file']} does not come through from {self._where}", _REACH)
            fruitless = 0 if self._fetch_some(wheel, part, have) else fruitless + 1
        if sha256_of(part) != wheel["sha256"]:
            part.unlink()
            raise Stop(
                TRUST,
                f"{wheel['file']} is not what the master's list says: another SHA-256. Nothing of it was installed",
                "Build the bundle anew on the master (`decnet-master bundle build`), and find out who changed it.",
            )
        part.replace(target)

    def _fetch_some(self, wheel: dict[str, Any], part: Path, have: int) -> bool:
        """Read on from a byte until all is there or the connection ends; tell whether anything came."""
        headers = dict(self._secret, range=f"bytes={have}-")
        came = 0
        connection = self._connection()
        try:
            connection.request("GET", "/wheels/" + wheel["sha256"], headers=headers)
            answer = connection.getresponse()
            if answer.status not in (200, 206):
                self._judge(answer.status, answer.read(MAX_ANSWER_BYTES))
            with part.open("ab" if answer.status == 206 else "wb") as file:
                while piece := answer.read(PIECE_BYTES):
                    came += len(piece)
                    if came > wheel["bytes"]:
                        return False
                    file.write(piece)
        except ssl.SSLCertVerificationError as error:
            raise self._distrust(error) from None
        except (OSError, http.client.HTTPException):
            pass  # the master ends long connections, and a network breaks: the next one reads on
        finally:
            connection.close()
        return came > 0

    def _ask(self, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
        connection = self._connection()
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read(MAX_ANSWER_BYTES)
        except ssl.SSLCertVerificationError as error:
            raise self._distrust(error) from None
        except (OSError, http.client.HTTPException) as error:
            raise Stop(UNAVAILABLE, f"The master does not answer at {self._where}: {error}", _REACH) from None
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPSConnection:
        return _Named(self._token.master, self._token.port, timeout=ANSWER_SECS, context=self._tls)

    def _distrust(self, error: ssl.SSLCertVerificationError) -> Stop:
        if error.verify_code in (9, 10):  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
            return Stop(
                TRUST,
                f"The master's certificate is not valid at this host's time: {error.verify_message}",
                "Set this host's clock (`timedatectl`); if it is right, look at the master.",
            )
        return Stop(TRUST, f"Who answers at {self._where} is not the master: {error.verify_message}", NEW_LINE)

    def _judge(self, status: int, body: bytes) -> None:
        if status == 200:
            return
        try:
            held = json.loads(body.decode())
            detail, advice = str(held["detail"]), str(held.get("advice") or NEW_LINE)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            detail, advice = f"it answered {status}", NEW_LINE
        raise Stop(_BY_STATUS.get(status, FAILED), f"The master refuses: {plain(detail)}", plain(advice))


def glibc() -> str:
    """Return the version of this host's C library, `2.36`; Stop where it is another one."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (ValueError, OSError):
        name, version = "", ""
    if name != "glibc" or not re.fullmatch(r"\d+\.\d+", version) or sys.maxsize < 1 << 32:
        raise Stop(CONFIG, "This host is no 64-bit Linux with glibc", "Use Debian 12, Ubuntu 24.04 or later.")
    return version


def sha256_of(path: Path) -> str:
    """Return what a file hashes to."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def plain(text: str) -> str:
    """Make what somebody else said fit for a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:400]


class _Named(http.client.HTTPSConnection):
    """A connection that checks the master's name, whatever address was dialled."""

    def connect(self) -> None:
        plain = socket.create_connection((self.host, self.port), self.timeout)
        context = cast("ssl.SSLContext", self._context)  # type: ignore[attr-defined]  # ours, from the constructor
        self.sock = context.wrap_socket(plain, server_hostname=MASTER_NAME)


def _checked_index(held: dict[str, Any]) -> dict[str, Any]:
    """Refuse a list whose words could reach beyond a folder or a line; raises ValueError, KeyError or TypeError."""
    wheels: list[dict[str, Any]] = held["wheels"]
    fine = re.fullmatch(r"[0-9][0-9A-Za-z.+!]{0,63}", held["version"]) is not None and 0 < len(wheels) <= 512
    for wheel in wheels:
        fine = (
            fine
            and re.fullmatch(r"[A-Za-z0-9_.+!-]{1,250}\.whl", wheel["file"]) is not None
            and re.fullmatch(r"[a-z0-9-]{1,100}", wheel["project"]) is not None
            and re.fullmatch(r"[A-Za-z0-9_.+!]{1,100}", wheel["version"]) is not None
            and re.fullmatch(r"[0-9a-f]{64}", wheel["sha256"]) is not None
            and isinstance(wheel["bytes"], int)
            and 0 < wheel["bytes"] <= MAX_WHEEL_BYTES
        )
    if not fine:
        raise ValueError
    return held
