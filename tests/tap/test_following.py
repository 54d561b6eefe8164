from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from decnet_agent.tap.following import TOO_DEEP, Following, path_of
from decnet_agent.tap.holdings import Holdings
from decnet_agent.tap.observer import Observer
from decnet_core.events import Event, EventType, Trust
from decnet_core.notify import Notices

STEP = "d" * 250


def test_a_file_deeper_than_any_path_is_told_of_without_its_path(tmp_path: Path) -> None:
    """Anybody makes one by relative steps; the kernel has no name for it (ENAMETOOLONG)."""
    folders = [os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)]
    for _ in range(20):
        os.mkdir(STEP, dir_fd=folders[-1])
        folders.append(os.open(STEP, os.O_RDONLY | os.O_DIRECTORY, dir_fd=folders[-1]))
    file = os.open("file", os.O_CREAT | os.O_RDWR, dir_fd=folders[-1])
    try:
        assert path_of(file) == TOO_DEEP
        os.rename("file", tmp_path / "near", src_dir_fd=folders[-1])
        assert path_of(file) == str(tmp_path / "near")
        (tmp_path / "near").unlink()
        assert path_of(file) is None
    finally:
        os.close(file)
        for folder in reversed(folders):
            if folder != folders[-1]:
                os.rmdir(STEP, dir_fd=folder)
        for folder in folders:
            os.close(folder)


class SystemdStore:
    """A unit's store as systemd keeps it: an open file that it has already is not kept again under another name."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, int]] = []

    def keep(self, name: str, fds: Sequence[int]) -> None:
        for fd in fds:
            if any(_same_open_file(fd, other) for _, other in self.kept):
                os.close(fd)
            else:
                self.kept.append((name, fd))

    def let_go(self, name: str) -> None:
        for item in [item for item in self.kept if item[0] == name]:
            self.kept.remove(item)
            os.close(item[1])


def _same_open_file(left: int, right: int) -> bool:
    """kcmp(2), KCMP_FILE: what systemd's same_fd() asks."""
    kcmp, itself = 312 if os.uname().machine == "x86_64" else 272, os.getpid()
    return ctypes.CDLL(None).syscall(kcmp, itself, itself, 0, left, right) == 0


async def test_a_followed_file_stays_held_when_it_is_done(tmp_path: Path, monkeypatch) -> None:
    """While it was in hand it was held under another name, which is let go then."""
    store, events = SystemdStore(), []
    path = tmp_path / "first"
    path.write_text("content")
    fd = os.open(path, os.O_RDONLY)
    draft = Event(
        datetime.now(UTC), "web-01", "ssh", EventType.FILE_CAPTURED, Trust.SENSOR, "", "0", fields={"path": str(path)}
    )
    with Notices() as notices:
        monkeypatch.setenv("NOTIFY_SOCKET", notices.address)
        holdings = Holdings(kept=True)
        following = Following(holdings, Observer(events.append), events.append)
        holdings.keep("file.1.7.abc", fd)
        following.follow(fd, draft, None)
        holdings.let_go("file.1.7.abc")
        os.close(fd)
        notices.hear(os.getpid(), lambda: None, store)
        rows = following.table.all_changed() or following.table.changes()
        following.close()
        path.rename(tmp_path / "second")
        successor = Following(Holdings(store.kept), Observer(events.append), events.append)
        successor.table.restore([(key, value) for key, value in rows if value is not None])
        successor.restored()
        successor.look()
        successor.close()
    assert [event.fields["path"] for event in events] == [str(tmp_path / "second")]
