"""Secrets that the master makes for itself and keeps in files of mode 0600: 256 random bits as text.

Whoever may read such a file may do what it stands for, so one that others can read is refused rather than used.
"""

from __future__ import annotations

import secrets
import stat
from pathlib import Path

from decnet_core.errors import ConfigError, TrustError
from decnet_core.pki.durable import SECRET_MODE, create_file

SECRET_BYTES = 32


def create(path: Path) -> bool:
    """Make the secret if there is none; return whether it was made now.

    Raises:
        ConfigError: the file cannot be written.
    """
    if path.exists():
        return False
    try:
        return create_file(path, secrets.token_urlsafe(SECRET_BYTES).encode() + b"\n", SECRET_MODE)
    except OSError as cause:
        raise ConfigError(
            f"Cannot write {path}: {cause.strerror}", "Give its folder to the user who runs decnet-master."
        ) from cause


def read(path: Path) -> str:
    """Return the secret.

    Raises:
        ConfigError: there is none, or it cannot be read.
        TrustError: others may read it.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise TrustError(f"{path} may be read by others (mode {mode:04o})", f"Run `chmod 600 {path}`.")
        text = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist", "Run `decnet-master init`.") from None
    except (OSError, UnicodeDecodeError) as cause:
        raise ConfigError(
            f"Cannot read {path}: {getattr(cause, 'strerror', 'not ASCII')}",
            "Run as the user who runs decnet-master, or as root.",
        ) from cause
    if len(text) < SECRET_BYTES:
        raise ConfigError(f"{path} holds no secret", "Remove it and run `decnet-master init`.")
    return text
