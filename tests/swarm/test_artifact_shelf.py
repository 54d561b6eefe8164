"""Where the master keeps artifacts: whole and true, or not at all; bounded."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest

from decnet_core.errors import NotFound, RemoteProtocolError, Unavailable
from decnet_master.artifact_shelf import ArtifactShelf

CONTENT = b"an attacker's file"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_what_comes_in_pieces_is_kept_under_its_hash(tmp_path: Path) -> None:
    shelf = ArtifactShelf(tmp_path / "artifacts")
    with shelf.incoming(SHA256) as incoming:
        for byte in CONTENT:
            incoming.write(bytes([byte]))
        assert not shelf.has(SHA256)
    assert shelf.find(SHA256).read_bytes() == CONTENT
    assert stat.S_IMODE(shelf.find(SHA256).stat().st_mode) == 0o600
    assert shelf.used_bytes == len(CONTENT)


@pytest.mark.parametrize("sent", [b"", CONTENT[:-1], CONTENT + b"!", b"something else"])
def test_another_content_leaves_nothing(tmp_path: Path, sent: bytes) -> None:
    shelf = ArtifactShelf(tmp_path / "artifacts")
    with pytest.raises(RemoteProtocolError), shelf.incoming(SHA256) as incoming:
        incoming.write(sent)
    assert _files(tmp_path) == []
    with pytest.raises(NotFound):
        shelf.find(SHA256)


def _break_off(shelf: ArtifactShelf) -> None:
    with shelf.incoming(SHA256) as incoming:
        incoming.write(CONTENT)
        raise Unavailable("The connection broke", "")


def test_what_breaks_off_leaves_nothing_and_is_no_content(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="broke"):
        _break_off(ArtifactShelf(tmp_path / "artifacts"))
    assert _files(tmp_path) == []


def test_a_content_is_bounded_and_so_are_all_together(tmp_path: Path) -> None:
    small = ArtifactShelf(tmp_path / "small", max_bytes=4)
    with pytest.raises(RemoteProtocolError), small.incoming(SHA256) as incoming:
        incoming.write(CONTENT)
    full = ArtifactShelf(tmp_path / "full", total_bytes=4)
    with pytest.raises(Unavailable), full.incoming(SHA256) as incoming:
        incoming.write(CONTENT)
    assert _files(tmp_path) == []


def test_what_a_killed_master_left_is_removed_and_what_it_has_is_counted(tmp_path: Path) -> None:
    shelf = ArtifactShelf(tmp_path)
    with shelf.incoming(SHA256) as incoming:
        incoming.write(CONTENT)
    (tmp_path / "partial" / "half").write_bytes(b"half")
    again = ArtifactShelf(tmp_path)
    assert not (tmp_path / "partial" / "half").exists()
    assert again.used_bytes == len(CONTENT)
    with again.incoming(SHA256) as incoming:
        incoming.write(CONTENT)
    assert again.used_bytes == len(CONTENT)


@pytest.mark.parametrize("name", ["", "../x", "A" * 64, SHA256 + "0"])
def test_only_a_hash_names_anything(tmp_path: Path, name: str) -> None:
    with pytest.raises(RemoteProtocolError):
        ArtifactShelf(tmp_path).has(name)
