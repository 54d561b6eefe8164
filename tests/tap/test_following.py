from __future__ import annotations

import os
from pathlib import Path

from decnet_agent.tap.following import TOO_DEEP, path_of

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
