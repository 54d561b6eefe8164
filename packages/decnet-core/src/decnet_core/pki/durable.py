"""Write files that are whole or absent after a crash.

A write goes to a new file beside the target, is fsynced, takes the target's name in one step, and the folder is
fsynced: the name never shows half a file. What a crash can leave is a stray `.<name>.<hex>.tmp` of the same mode,
which nobody reads.

It does not lock: `create_file` lets the first of two writers win, `replace_file` the last.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

SECRET_MODE = 0o600
PUBLIC_MODE = 0o644


def create_file(path: Path, content: bytes, mode: int) -> bool:
    """Write a file that must not exist yet; return whether it was ours (False: somebody else's stands there).

    Raises:
        OSError: the folder cannot be written.
    """
    temporary = _written_beside(path, content, mode)
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
        sync_folder(path.parent)
    return True


def replace_file(path: Path, content: bytes, mode: int) -> None:
    """Write a file over whatever stands there.

    Raises:
        OSError: the folder cannot be written.
    """
    temporary = _written_beside(path, content, mode)
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the folder's names durable: a rename is not, until its folder is fsynced."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _written_beside(path: Path, content: bytes, mode: int) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)  # whatever the umask took away or left
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink()
        raise
    return temporary
