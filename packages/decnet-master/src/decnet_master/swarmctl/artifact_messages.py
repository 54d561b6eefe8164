"""What the operator's CLI and the controller say to each other about artifacts; see `messages`."""

from __future__ import annotations

from typing import Literal

from decnet_core.fleet import Contract


class ArtifactView(Contract):
    """A content that a worker keeps, as its event tells of it: all texts are an attacker's words.

    `name` is a file's path in the decky, or a recording's terminal. `fetched` says whether the master has it.
    """

    sha256: str
    kind: Literal["file", "recording"]
    size_bytes: int
    name: str
    at: str
    host: str
    decky: str
    src_ip: str | None = None
    session: str | None = None
    user: str | None = None
    fetched: bool


class ArtifactList(Contract):
    """Artifacts, the newest first; a content that was met twice is there twice."""

    artifacts: tuple[ArtifactView, ...]


class ArtifactKept(Contract):
    """The master has it now; `host` gave it, None when it was here already."""

    sha256: str
    size_bytes: int
    host: str | None
