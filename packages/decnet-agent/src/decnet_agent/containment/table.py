"""Put a ruleset into the kernel, all or nothing, and tell whether it is still there as it was put.

The table belongs to our netlink socket where the kernel can do that and keep it after our end (flags owner and persist,
Linux 6.9): nobody else can change it, and `nft flush ruleset` passes it by. A successor takes it over. An older kernel
gets a table that belongs to nobody, which outlives us, and which others can remove; `Changes` says at once that
somebody has changed something.

The kernel counts every change of its rules (`generation`); as long as it stands where we left it, nothing has changed.
Else handles of table, chains and rules and the keys of the sets are compared with what was there after our own change.

Source: include/uapi/linux/netfilter/nf_tables.h, nfnetlink.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

import structlog

from decnet_agent.containment.netlink import (
    ACK,
    APPEND,
    CREATE,
    REQUEST,
    ROOT_AND_MATCH,
    KernelRefused,
    Message,
    Netlink,
    attribute,
    attributes,
    be32,
    be64,
    listed,
    nested,
    text,
)
from decnet_agent.containment.ruleset import PRIORITY, Chain, KernelSet, Ruleset

KEYS_AT_ONCE = 1000
"""An attribute's length has 16 bits; a key takes 28 bytes."""

RATE_TIMEOUT_MS = 60_000
"""How long a rate is remembered of a decky that says nothing; any burst has come back by then."""
MOST_RATED = 4096

NFT_CHANGES = 7
"""NFNLGRP_NFTABLES of linux/nfnetlink.h."""

_NETFILTER = 12
_NF_TABLES = 10 << 8
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NEW_TABLE, _GET_TABLE, _DEL_TABLE, _NEW_CHAIN, _GET_CHAIN = 0, 1, 2, 3, 4
_NEW_RULE, _GET_RULE, _NEW_SET, _NEW_ELEMENTS, _GET_ELEMENTS, _GET_GENERATION = 6, 7, 9, 12, 13, 16
_NETDEV = 5
_OWNER, _PERSIST = 0x2, 0x4
_SET_TIMEOUT, _SET_EVAL, _SET_CONCAT = 0x10, 0x20, 0x80

log = structlog.get_logger()


class Changes:
    """Hears that somebody changed the kernel's rules; `fileno` is for an event loop."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, _NETFILTER
        )
        self._socket.bind((0, 1 << (NFT_CHANGES - 1)))

    def fileno(self) -> int:
        """Return its descriptor."""
        return self._socket.fileno()

    def drain(self) -> None:
        """Read what there is; what it says is looked up, not believed. Too much at once is as good as one word."""
        while True:
            try:
                self._socket.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError as cause:
                if cause.errno != errno.ENOBUFS:
                    raise

    def close(self) -> None:
        """Let go of it."""
        self._socket.close()


class Table:
    """The table of one interface: `load` puts it into the kernel, `intact` looks whether it is there.

    Args:
        kernel: whose the table is.
        own: False is a table that belongs to nobody, as on a kernel before 6.9.
    """

    def __init__(self, kernel: Netlink, *, own: bool = True) -> None:
        self._kernel = kernel
        self._own = own
        self._name = ""
        self._generation = -1
        self._seen: object = None
        """What was there after our own change; None before the first and after one that may have failed half-way."""
        self.owned = True
        """Whether nobody else can change it."""

    def load(self, ruleset: Ruleset) -> None:
        """Put it there in place of what was.

        Raises:
            KernelRefused: the kernel does not take it; what was there is there still.
        """
        doing = f"load the rules of {ruleset.table}"
        self._name, self._seen = ruleset.table, None
        old = [_delete(ruleset.table)] if self._kernel.ask(_get_table(ruleset.table), doing) else []
        rest = list(_contents(ruleset))
        self.owned = self._own
        try:
            flags = _OWNER | _PERSIST if self._own else 0
            self._kernel.commit([*old, _new_table(ruleset.table, flags), *rest], doing, _BATCH)
        except KernelRefused as refused:
            if not self._own or refused.number not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
            self.owned = False
            self._kernel.commit([*old, _new_table(ruleset.table, 0), *rest], doing, _BATCH)
        self._generation = self._kernel_generation()
        self._seen = self._look()

    def intact(self) -> bool:
        """Tell whether all of it is as it was put.

        Raises:
            KernelRefused: the kernel does not say.
        """
        if self._seen is None:
            return False
        generation = self._kernel_generation()
        if generation != self._generation:
            if self._look() != self._seen:
                return False
            self._generation = generation
        return True

    def remove(self) -> None:
        """Take it away; one that is not there is no error."""
        remove_table(self._kernel, self._name)

    def _kernel_generation(self) -> int:
        answers = self._kernel.ask(_message(_GET_GENERATION, REQUEST | ACK, b""), "ask for the rules' generation")
        return int.from_bytes(attributes(answers[0].body[4:]).get(1, b""), "big") if answers else -1

    def _look(self) -> object:
        """Return what tells this table from any other that could stand in its place."""
        doing = f"look at the rules of {self._name}"
        table = [attributes(answer.body[4:]) for answer in self._kernel.ask(_get_table(self._name), doing)]
        if not table:
            return None
        chains = [
            (found.get(3), found.get(2), found.get(4), found.get(5))
            for found in self._dump(_GET_CHAIN, text(1, self._name), doing)
            if found.get(1) == self._name.encode() + b"\0"
        ]
        rules = [
            (found.get(2), found.get(3))
            for found in self._dump(_GET_RULE, text(1, self._name), doing)
            if found.get(1) == self._name.encode() + b"\0"
        ]
        keys = {name: self._keys(name, doing) for name in ("deckies", "own", "pairs", "services")}
        return table[0].get(4), sorted(map(repr, chains)), rules, keys

    def _keys(self, name: str, doing: str) -> frozenset[bytes]:
        return frozenset(
            attributes(attributes(element).get(1, b"")).get(1, b"")
            for found in self._dump(_GET_ELEMENTS, text(1, self._name) + text(2, name), doing)
            for _, element in listed(found.get(3, b""))
        )

    def _dump(self, kind: int, about: bytes, doing: str) -> Iterator[dict[int, bytes]]:
        for answer in self._kernel.ask(_message(kind, REQUEST | ROOT_AND_MATCH, about), doing):
            yield attributes(answer.body[4:])


def forsaken(kernel: Netlink, present: frozenset[str]) -> list[str]:
    """Remove the tables of ours whose interface is gone, and return their names.

    Args:
        kernel: to ask.
        present: names of the tables whose interfaces exist.
    """
    doing = "list the tables"
    removed: list[str] = []
    for answer in kernel.ask(_message(_GET_TABLE, REQUEST | ROOT_AND_MATCH, b""), doing):
        found = attributes(answer.body[4:])
        name = found.get(1, b"").rstrip(b"\0").decode("ascii", "replace")
        if name.startswith("decnet-") and name not in present and not found.get(7):
            remove_table(kernel, name)
            removed.append(name)
    return removed


def remove_table(kernel: Netlink, name: str) -> None:
    """Take a table away; one that is not there is no error.

    Raises:
        KernelRefused: it is somebody's, who lives.
    """
    try:
        kernel.commit([_delete(name)], f"remove the rules of {name}", _BATCH)
    except KernelRefused as refused:
        if refused.number != errno.ENOENT:
            raise


def _contents(ruleset: Ruleset) -> Iterator[Message]:
    for each in ruleset.sets:
        yield _new_set(ruleset.table, each)
        keys = sorted(each.keys)
        for at in range(0, len(keys), KEYS_AT_ONCE):
            yield _new_elements(ruleset.table, each.name, keys[at : at + KEYS_AT_ONCE])
    for chain in ruleset.chains:
        yield _new_chain(ruleset.table, chain)
        for rule in chain.rules:
            expressions = nested(4, *(expression.packed() for expression in rule))
            yield _message(
                _NEW_RULE, REQUEST | ACK | CREATE | APPEND, text(1, ruleset.table) + text(2, chain.name) + expressions
            )


def _new_table(name: str, flags: int) -> Message:
    return _message(_NEW_TABLE, REQUEST | ACK | CREATE, text(1, name) + (be32(2, flags) if flags else b""))


def _get_table(name: str) -> Message:
    return _message(_GET_TABLE, REQUEST | ACK, text(1, name))


def _delete(name: str) -> Message:
    return _message(_DEL_TABLE, REQUEST | ACK, text(1, name))


def _new_set(table: str, each: KernelSet) -> Message:
    flags = _SET_TIMEOUT | _SET_EVAL if each.rated else 0
    kind = 0
    for field in each.fields:
        kind = kind << 6 | field
    body = text(1, table) + text(2, each.name) + be32(4, kind) + be32(5, each.key_bytes) + be32(10, 1)
    if len(each.fields) > 1:
        flags |= _SET_CONCAT
        lengths = (be32(1, size) for size in _field_bytes(each))
        body += nested(9, nested(2, *(nested(1, length) for length in lengths)))
    if each.rated:
        body += be64(11, RATE_TIMEOUT_MS) + nested(9, be32(1, MOST_RATED))
    return _message(_NEW_SET, REQUEST | ACK | CREATE, body + be32(3, flags))


def _field_bytes(each: KernelSet) -> list[int]:
    return [{9: 6, 7: 4, 13: 2}[field] for field in each.fields]


def _new_elements(table: str, name: str, keys: list[bytes]) -> Message:
    elements = (nested(1, nested(1, attribute(1, key))) for key in keys)
    return _message(_NEW_ELEMENTS, REQUEST | ACK | CREATE, text(1, table) + text(2, name) + nested(3, *elements))


def _new_chain(table: str, chain: Chain) -> Message:
    body = text(1, table) + text(3, chain.name)
    if chain.hook is not None:
        hook = (be32(1, chain.hook), be32(2, PRIORITY), text(3, chain.device))
        body += nested(4, *hook) + be32(5, 1) + text(7, "filter")
    return _message(_NEW_CHAIN, REQUEST | ACK | CREATE, body)


def _message(kind: int, flags: int, body: bytes) -> Message:
    return Message(_NF_TABLES | kind, flags, struct.pack("=BBH", _NETDEV, 0, 0) + body)


_BATCH = {
    begins: Message(
        _BATCH_BEGIN if begins else _BATCH_END, REQUEST, struct.pack("=BB", 0, 0) + struct.pack(">H", _NF_TABLES >> 8)
    )
    for begins in (True, False)
}


def netfilter() -> Netlink:
    """Open a socket to the kernel's rules; a table that it loads belongs to it."""
    return Netlink(_NETFILTER)
