"""Hash a decky's passwords as Debian does: yescrypt, by the host's own libcrypt.

libcrypt is called through ctypes: Python's `crypt` module is gone from 3.13 on, and a password given to a program
would stand in its arguments or need a terminal. Every Linux that can run PAM has the library (Debian: libcrypt1).

The hash goes into the decky's /etc/shadow; an attacker who is root there reads what an administrator's `passwd` would
have written.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache

from decnet_core.errors import Unavailable

_LIBRARIES = ("libcrypt.so.1", "libcrypt.so.2")
_PREFIX = b"$y$"
"""yescrypt: what Debian has used since 11; with cost 0 the library takes its default, as `passwd` does."""

# crypt(3) of libxcrypt: CRYPT_GENSALT_OUTPUT_SIZE, and sizeof(struct crypt_data).
_SETTING_BYTES = 192
_WORK_BYTES = 32768


def hash_password(password: str) -> str:
    """Return the password's crypt(5) string with a new salt.

    Raises:
        Unavailable: this host has no libcrypt, or one without yescrypt.
    """
    library = _library()
    # No random bytes of ours: the library then takes as many as `passwd` does, so the salt has the usual length.
    setting = ctypes.create_string_buffer(_SETTING_BYTES)
    work = ctypes.create_string_buffer(_WORK_BYTES)
    made = library.crypt_gensalt_rn(_PREFIX, ctypes.c_ulong(0), None, 0, setting, _SETTING_BYTES)
    hashed = library.crypt_rn(password.encode(), setting.value, work, _WORK_BYTES) if made else None
    if not hashed or not hashed.startswith(_PREFIX):
        raise Unavailable(
            f"This host's libcrypt cannot make a yescrypt hash: {os.strerror(ctypes.get_errno())}",
            "Install libxcrypt (Debian: libcrypt1).",
        )
    return bytes(hashed).decode("ascii")


@cache
def _library() -> ctypes.CDLL:
    for name in _LIBRARIES:
        try:
            library = ctypes.CDLL(name, use_errno=True)
            library.crypt_gensalt_rn.restype = ctypes.c_char_p
            library.crypt_rn.restype = ctypes.c_char_p
        except (OSError, AttributeError):  # not there; glibc's own old libcrypt, without these functions
            continue
        return library
    raise Unavailable("This host has no libcrypt to hash a decky's passwords", "Install libxcrypt (Debian: libcrypt1).")
