"""The one tree of errors, and what each means to a shell.

    DecnetError(message, advice)        exit 1   something failed; the message says what, the advice what to do
    ├── ConfigError                     exit 78  the configuration cannot be read or does not make sense
    ├── ProtocolError                   exit 1   bytes on a wire or in a file break a specification
    │   ├── LocalProtocolError                   our own bug: we were about to send or write them
    │   └── RemoteProtocolError                  the peer's: it sent them, or the file holds them
    ├── TrustError                      exit 77  an identity is missing, expired, foreign or not allowed
    │   ├── IdentityEnded               exit 77  our own certificate's time is over
    │   └── IdentityNotBegun            exit 69  … has not come yet: a clock is wrong, and will be set
    ├── Unavailable                     exit 69  something we need does not answer now
    │   └── RetryLater                  exit 75  … and is known to come back by itself (a full disk, a busy peer)
    ├── Conflict                        exit 5   the state of the world forbids it (name taken, older generation)
    ├── NotFound                        exit 4   the thing named does not exist
    └── PartialFailure                  exit 3   some of many parts failed

Exit 2 is a usage error and is raised by the argument parsers, and for a fleet file with faults. The numbers above 63
are those of sysexits(3), so that a unit file can tell "will never work" from "try again".

A message is one sentence without a trailing full stop; the advice is an imperative sentence. Neither ever holds
a secret, a key or raw bytes of an attacker.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of every DECNET program."""

    OK = 0
    FAILED = 1
    USAGE = 2
    PARTIAL = 3
    NOT_FOUND = 4
    CONFLICT = 5
    UNAVAILABLE = 69
    RETRY_LATER = 75
    TRUST = 77
    CONFIG = 78


class DecnetError(Exception):
    """What an operator can be told: what happened, and what to do about it."""

    exit_code: ExitCode = ExitCode.FAILED

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice


class ConfigError(DecnetError):
    """The configuration cannot be read, or says something that cannot be done."""

    exit_code = ExitCode.CONFIG


class ProtocolError(DecnetError):
    """Bytes break the specification of a wire or a file."""


class LocalProtocolError(ProtocolError):
    """We were about to produce such bytes: a bug of ours."""


class RemoteProtocolError(ProtocolError):
    """Somebody else produced them."""


class TrustError(DecnetError):
    """An identity is missing, unreadable, expired, signed by a stranger or not allowed to do this."""

    exit_code = ExitCode.TRUST


class IdentityEnded(TrustError):
    """The certificate of an identity of ours is not valid any more: it was not renewed in time."""


class IdentityNotBegun(TrustError):
    """The certificate of an identity of ours is not valid yet: this host's clock is behind, as after a cold start.

    Time mends it, so it is to be tried again: unlike all other lack of trust it does not end a daemon for good.
    """

    exit_code = ExitCode.UNAVAILABLE


class Unavailable(DecnetError):
    """Something that we need does not answer now; trying again may help."""

    exit_code = ExitCode.UNAVAILABLE


class RetryLater(Unavailable):
    """Unavailable, and known to come back without anyone's help."""

    exit_code = ExitCode.RETRY_LATER


class Conflict(DecnetError):
    """The present state forbids the request."""

    exit_code = ExitCode.CONFLICT


class NotFound(DecnetError):
    """The thing that was named does not exist."""

    exit_code = ExitCode.NOT_FOUND


class PartialFailure(DecnetError):
    """Some of many parts failed; the message names them."""

    exit_code = ExitCode.PARTIAL
