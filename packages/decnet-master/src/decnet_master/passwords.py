"""Passwords of the API's users: made, hashed with argon2id, verified.

Hashing is slow on purpose (tens of milliseconds and 64 MiB of memory a time): callers on an event loop run it in a
thread, and few at once.
"""

from __future__ import annotations

import secrets

import argon2

MAX_PASSWORD_CHARS = 1024
"""More than any person types; the hash takes any length, the wire should not."""

_hasher = argon2.PasswordHasher()
# RFC 9106, section 4, second recommended option, is the library's default: argon2id, 64 MiB, three passes.


def generate() -> str:
    """Make a password of 128 random bits for a first login."""
    return secrets.token_urlsafe(16)


def hash_password(password: str) -> str:
    """Return the argon2id hash with its parameters and salt, as one word."""
    return _hasher.hash(password)


def matches(password_hash: str, password: str) -> bool:
    """Tell whether the hash is of this password; takes as long whatever the answer is."""
    try:
        return _hasher.verify(password_hash, password)
    except argon2.exceptions.VerificationError:
        return False
