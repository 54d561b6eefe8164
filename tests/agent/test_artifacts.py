"""The quarantine as the master reads it: by hash, bounded, and nothing else of the disk."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest

from decnet_agent.evidence.artifacts import GIVEN_AT_ONCE, PIECE_BYTES, Artifacts
from decnet_core.errors import NotFound, RemoteProtocolError, RetryLater

CONTENT = bytes(range(256)) * 2048 + b"end"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / DIGEST[:2]).mkdir()
    (tmp_path / DIGEST[:2] / DIGEST).write_bytes(CONTENT)
    return tmp_path


async def _whole(artifacts: Artifacts, sha256: str) -> list[bytes]:
    return [piece async for piece in artifacts.open(sha256).pieces()]


def test_a_content_comes_whole_in_pieces(folder: Path) -> None:
    pieces = asyncio.run(_whole(Artifacts(folder), DIGEST))
    assert b"".join(pieces) == CONTENT
    assert max(map(len, pieces)) == PIECE_BYTES


@pytest.mark.parametrize(
    "name", ["", "x" * 64, DIGEST.upper(), DIGEST + "0", "../" * 20 + "etc/passwd", DIGEST + ".json"]
)
def test_only_a_hash_names_anything(folder: Path, name: str) -> None:
    with pytest.raises(RemoteProtocolError):
        Artifacts(folder).open(name)


def test_what_is_not_kept_is_said_to_be_so(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        Artifacts(folder).open("0" * 64)
    with pytest.raises(NotFound):
        Artifacts(tmp_path / "no quarantine").open(DIGEST)


def test_a_folder_or_a_link_in_a_contents_place_is_none(folder: Path) -> None:
    other = "ab" + DIGEST[2:]
    (folder / "ab" / other).mkdir(parents=True)
    with pytest.raises(NotFound):
        Artifacts(folder).open(other)


def test_so_many_at_once_and_no_more_until_one_is_closed(folder: Path) -> None:
    artifacts = Artifacts(folder)
    taken = [artifacts.open(DIGEST) for _ in range(GIVEN_AT_ONCE)]
    with pytest.raises(RetryLater):
        artifacts.open(DIGEST)
    taken[0].close()
    taken[0].close()
    again = artifacts.open(DIGEST)
    with pytest.raises(RetryLater):
        artifacts.open(DIGEST)
    for artifact in (*taken, again):
        artifact.close()
