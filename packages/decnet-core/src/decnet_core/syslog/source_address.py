"""The attacker's address in the text of a message that brings no parameters.

Programs that know nothing of us say who it was in their own words: `rhost=192.0.2.7`, `SRC=192.0.2.7`, `from 192.0.2.7
port 4711 ssh2`. What is found here is a hint out of guest text, of use where nothing better is known; an address
that a sensor saw always wins. User names and the like are the attacker's own words in the very same text, so the order
below prefers the places that he cannot reach:

1. OpenSSH's sentences, which put the address before his words (`Connection from … port …`) or after them
   (`Failed password for … from … port … ssh2`);
2. the first `key=address` of the known keys;
3. the last `from … port …`, then the first `from …`.

Every candidate must be an address by the `ipaddress` module; an IPv4 address mapped into IPv6 is given as IPv4, the
zone of a link-local one is dropped, and `0.0.0.0` and `::` are nobody's. Work is linear in the text and looks at
`MAX_CANDIDATES` candidates a rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv6Address, ip_address
from itertools import islice

MAX_CANDIDATES = 32
"""A true line has one or two; more is somebody's game with our time."""

_ADDRESS = r"[0-9A-Fa-f:.]{2,60}(?:%[\w.-]{1,16})?"
_HEAD = re.compile(rf" ?(?:Received disconnect|Connection) from ({_ADDRESS}) port [0-9]{{1,5}}\b")
_TAIL = re.compile(
    rf"(?<! on) ({_ADDRESS}) port [0-9]{{1,5}}(?: ssh2(?:: [\w-]+ (?:SHA256:|MD5:)\S+)?)?(?: \[preauth\])?\s*\Z"
)
_KEYED = re.compile(
    r"(?<![\w.-])(?:src|src_?ip|src_?addr|saddr|source|source_?ip|source_?address|rhost|rip|remote|remote_?ip|"
    r"remote_?addr|remote_?host|client|client_?ip|client_?addr|peer|peer_?ip|attacker|attacker_?ip)"
    rf"""[=:]\ ?["'\[]{{0,2}}({_ADDRESS})""",
    re.IGNORECASE,
)
_FROM_PORT = re.compile(rf"\bfrom ({_ADDRESS}) port\b", re.IGNORECASE)
_FROM = re.compile(rf"""\bfrom:? ["'\[]{{0,2}}({_ADDRESS})""", re.IGNORECASE)

_TAIL_CHARS = 256
"""What OpenSSH writes after a user name is far shorter."""


def source_address_of(text: str) -> str | None:
    """Find the attacker's address in free text.

    Returns:
        the address in its canonical form, or None when the text names none.
    """
    for candidates in (_of_openssh(text), _found(_KEYED, text), _last_from(text), _found(_FROM, text)):
        for candidate in candidates:
            address = _address(candidate)
            if address is not None:
                return address
    return None


def _of_openssh(text: str) -> Iterator[str]:
    head = _HEAD.match(text)
    if head is not None:
        yield head[1]
    tail = _TAIL.search(text[-_TAIL_CHARS:])
    if tail is not None:
        yield tail[1]


def _found(rule: re.Pattern[str], text: str) -> Iterator[str]:
    return islice((match[1] for match in rule.finditer(text)), MAX_CANDIDATES)


def _last_from(text: str) -> list[str]:
    return [match[1] for match in _FROM_PORT.finditer(text)][: -MAX_CANDIDATES - 1 : -1]


def _address(candidate: str) -> str | None:
    # As written; without the full stop or colon of a sentence; without a port.
    for spelling in (candidate, candidate.rstrip(".:"), candidate.partition(":")[0]):
        try:
            address = ip_address(spelling.partition("%")[0])
        except ValueError:
            continue
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return None if address.is_unspecified else str(address)
    return None
