"""The quarantine: each content once, bounded, complete or absent, never through a symbolic link."""

from __future__ import annotations

import json
import os
import stat
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decnet_agent.tap.quarantine import Quarantine
from decnet_core.errors import Unavailable

BLOCK = 4096


def _keep(quarantine: Quarantine, path: Path, content: bytes):
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    try:
        return quarantine.keep(fd, {"path": "/tmp/x"})
    finally:
        os.close(fd)


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_content_is_kept_once_under_its_hash_with_a_note_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "quarantine"
    quarantine = Quarantine(folder)
    first = _keep(quarantine, tmp_path / "a", b"evil")
    again = _keep(quarantine, tmp_path / "b", b"evil")
    digest = sha256(b"evil").hexdigest()
    assert first == again
    assert (first.sha256, first.size_bytes, first.truncated) == (digest, 4, False)
    assert first.stored_as == f"{digest[:2]}/{digest}"
    assert _files(folder) == {first.stored_as, f"{first.stored_as}.json"}
    assert (folder / first.stored_as).read_bytes() == b"evil"
    assert stat.S_IMODE((folder / first.stored_as).stat().st_mode) == 0o640
    assert json.loads((folder / f"{first.stored_as}.json").read_text())["path"] == "/tmp/x"


def test_a_large_file_is_cut_and_says_so(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "quarantine", file_bytes=10)
    kept = _keep(quarantine, tmp_path / "a", b"x" * 25)
    assert (kept.size_bytes, kept.truncated, kept.sha256) == (25, True, sha256(b"x" * 10).hexdigest())


def test_beyond_the_quota_a_content_is_told_of_but_not_kept(tmp_path: Path) -> None:
    folder = tmp_path / "quarantine"
    quarantine = Quarantine(folder, total_bytes=3 * BLOCK)
    assert _keep(quarantine, tmp_path / "a", b"a" * 200).stored_as is not None
    kept = _keep(quarantine, tmp_path / "b", b"b" * 400)
    assert kept.stored_as is None
    assert kept.sha256 == sha256(b"b" * 400).hexdigest()
    assert len(_files(folder)) == 2


def test_many_tiny_files_fill_it_by_what_they_take_on_the_disk(tmp_path: Path) -> None:
    folder = tmp_path / "quarantine"
    quarantine = Quarantine(folder, total_bytes=20 * BLOCK)
    kept = [_keep(quarantine, tmp_path / "a", b"%d" % number) for number in range(50)]
    assert sum(each.stored_as is not None for each in kept) == 10
    assert sum((folder / name).stat().st_blocks * 512 for name in _files(folder)) <= 20 * BLOCK


def test_what_is_used_is_counted_again_at_start_and_the_unfinished_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "quarantine"
    before = Quarantine(folder)
    _keep(before, tmp_path / "a", b"evil")
    (folder / "partial" / "torn").write_bytes(b"half")
    after = Quarantine(folder)
    assert after.used_bytes == before.used_bytes
    assert not list((folder / "partial").iterdir())


def test_a_folder_that_is_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "quarantine").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Unavailable):
        Quarantine(tmp_path / "quarantine")


@settings(deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=8))
def test_the_quota_holds_and_every_kept_content_is_its_hash(
    tmp_path_factory: pytest.TempPathFactory, contents: list[bytes]
) -> None:
    base = tmp_path_factory.mktemp("kept")
    quarantine = Quarantine(base / "quarantine", file_bytes=40, total_bytes=9 * BLOCK)
    for content in contents:
        _keep(quarantine, base / "file", content)
    for path in (base / "quarantine").glob("??/*"):
        if path.suffix != ".json":
            assert sha256(path.read_bytes()).hexdigest() == path.name
    assert quarantine.used_bytes <= 9 * BLOCK
