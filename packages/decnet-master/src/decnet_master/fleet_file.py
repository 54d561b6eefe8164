"""The fleet file: a whole fleet declared in TOML, or in INI where its name ends so, for `decnet-master apply`.

    [[decky]]                          # one decky
    name = "vault-01"
    services = ["ssh"]                 # this is also the default
    sometimes = ["telnet"]             # `decnet-master mutate` may give it this, and take it again; none by default
    host = "w1"                        # on this worker

    [[group]]                          # files-01 to files-12
    prefix = "files"
    count = 12
    labels = { site = "hq" }           # on workers with all of these; or hosts = ["w1", "w2"]

What INI looks like is told in `fleet_ini`; both say the same. Whatever does not fit is told with its line, all of it at
once: an unknown key, a type that is not the one wanted (TOML has types, so a number in quotes is none), a name twice. A
file without a decky is refused: pruning by it would remove the whole fleet, and `teardown` says that more clearly.

This module does no IO.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Protocol

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from decnet_core.errors import ConfigError
from decnet_core.fleet import Contract, HostName, ServiceName
from decnet_master.fleet_ini import IniFleet
from decnet_master.labels import Labels
from decnet_master.planning import MAX_FLEET, DeckyGroup
from decnet_master.toml_lines import TomlLines

MAX_FILE_BYTES = 1 << 20
"""Ten thousand deckies, each a table of its own with all its keys."""

INI_SUFFIX = ".ini"
"""Of a file's name; whatever else it is called, it is TOML."""

MAX_FAULTS = 20
"""That many are told; a file with more has one reason for most of them."""

MAX_FAULT_CHARS = 300
"""Of one; a key may be as long as the file."""

NamePrefix = Annotated[str, Field(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?$")]
_Services = Annotated[list[ServiceName], Field(min_length=1, max_length=32)]
_Sometimes = Annotated[list[ServiceName], Field(max_length=31)]
_Hosts = Annotated[list[HostName], Field(max_length=1000)]


class DeckyTable(Contract):
    """`[[decky]]`."""

    name: HostName
    services: _Services = Field(default_factory=lambda: ["ssh"])
    sometimes: _Sometimes = Field(default_factory=list)
    host: HostName | None = None
    labels: Labels = Field(default_factory=dict)


class GroupTable(Contract):
    """`[[group]]`."""

    prefix: NamePrefix
    count: Annotated[int, Field(ge=0, le=MAX_FLEET)]
    services: _Services = Field(default_factory=lambda: ["ssh"])
    sometimes: _Sometimes = Field(default_factory=list)
    hosts: _Hosts = Field(default_factory=list)
    labels: Labels = Field(default_factory=dict)


class _Document(Contract):
    decky: list[DeckyTable] = Field(default_factory=list)
    group: list[GroupTable] = Field(default_factory=list)


class FleetFileError(ConfigError):
    """The file is no fleet file.

    Attributes:
        faults: what is wrong, each with its file and line.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(map(_printable, faults))
        more = f" (and {len(faults) - 1} more faults)" if len(faults) > 1 else ""
        super().__init__(f"{self.faults[0]}{more}", "Correct the file.")


def group_names(prefix: str, count: int) -> tuple[str, ...]:
    """Name the deckies of a group."""
    return tuple(f"{prefix}-{number:02d}" for number in range(1, count + 1))


def parse_fleet(raw: bytes, name: str) -> tuple[DeckyGroup, ...]:
    """Read a fleet file.

    Args:
        raw: its content.
        name: how faults name it.

    Raises:
        FleetFileError: it is too large, neither TOML nor, under a name that ends in `.ini`, INI, or declares no fleet.
    """
    if len(raw) > MAX_FILE_BYTES:
        raise FleetFileError([f"{name}: it is larger than {MAX_FILE_BYTES} bytes"])
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        line = raw.count(b"\n", 0, cause.start) + 1
        raise FleetFileError([f"{name}:{line}: this is not UTF-8 text"]) from None
    tables, lines_of = _tables(text, name)
    try:
        document = _Document.model_validate(tables, strict=True)
    except ValidationError as cause:
        lines = lines_of()
        faults = sorted((lines.of(fault["loc"]), *_told(fault)) for fault in cause.errors(include_input=False))
        raise FleetFileError([f"{name}:{line}: {key}{what}" for line, key, what in faults[:MAX_FAULTS]]) from None
    groups = tuple(_groups(document))
    faults_found = list(_faults(document, lines_of())) if _looks_wrong(groups) else []
    if faults_found:
        raise FleetFileError([f"{name}:{line}: {what}" for line, what in faults_found[:MAX_FAULTS]])
    if not any(group.names for group in groups):
        raise FleetFileError([f"{name}: it declares no decky; `decnet-master teardown` removes a whole fleet"])
    return groups


class _Lines(Protocol):
    def of(self, path: Sequence[str | int]) -> int: ...


def _tables(text: str, name: str) -> tuple[Mapping[str, object], Callable[[], _Lines]]:
    """Parse a text; return what it holds, and what finds out where each value stands."""
    if name.lower().endswith(INI_SUFFIX):
        fleet = IniFleet(text)
        if fleet.faults:
            raise FleetFileError([f"{name}:{line}: {what}" for line, what in sorted(fleet.faults)[:MAX_FAULTS]])
        return fleet.tables, lambda: fleet
    try:
        return tomllib.loads(text), lambda: TomlLines(text)
    except (tomllib.TOMLDecodeError, RecursionError) as cause:
        raise FleetFileError([_syntax(name, text, cause)]) from None


def _printable(fault: str) -> str:
    """Bound a fault, and show what would act on a terminal as its code: a key may be anything."""
    more = "…" if len(fault) > MAX_FAULT_CHARS else ""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in fault[:MAX_FAULT_CHARS]) + more


def _syntax(name: str, text: str, cause: Exception) -> str:
    if isinstance(cause, RecursionError):
        return f"{name}: it is nested too deeply"
    found = re.search(
        r"^(?P<what>.*) \(at (?:line (?P<line>\d+), column \d+|end of document)\)$", str(cause), re.DOTALL
    )
    if found is None:
        return f"{name}: this is not TOML: {cause}"
    line = found["line"] or text.rstrip("\n").count("\n") + 1
    return f"{name}:{line}: this is not TOML: {found['what']}"


def _groups(document: _Document) -> Iterator[DeckyGroup]:
    for decky in document.decky:
        hosts = () if decky.host is None else (decky.host,)
        yield DeckyGroup((decky.name,), tuple(decky.services), hosts, decky.labels, tuple(decky.sometimes))
    for group in document.group:
        names = group_names(group.prefix, group.count)
        services, sometimes = tuple(group.services), tuple(group.sometimes)
        yield DeckyGroup(names, services, tuple(group.hosts), group.labels, sometimes)


def _looks_wrong(groups: Sequence[DeckyGroup]) -> bool:
    names = [name for group in groups for name in group.names]
    return len(set(names)) < len(names) or len(names) > MAX_FLEET or any(_repeats(group) for group in groups)


def _repeats(group: DeckyGroup) -> bool:
    services = (*group.services, *group.sometimes)
    return len(set(services)) < len(services) or len(set(group.hosts)) < len(group.hosts)


def _faults(document: _Document, lines: _Lines) -> Iterator[tuple[int, str]]:
    """Tell what no single value shows."""
    seen: dict[str, int] = {}
    tables = [("decky", index, "name") for index in range(len(document.decky))]
    tables += [("group", index, "prefix") for index in range(len(document.group))]
    for (kind, index, key), group in zip(tables, _groups(document), strict=True):
        line = lines.of((kind, index, key))
        if _repeats(group):
            yield lines.of((kind, index)), f"{kind}: a service or a host is named twice"
        for name in group.names:
            if name in seen:
                yield line, f"{key}: {name} is declared already, in line {seen[name]}"
                break
            seen[name] = line
            if len(seen) > MAX_FLEET:
                yield line, f"{kind}: these are more than {MAX_FLEET} deckies"
                return


_TABLES: Mapping[str, type[Contract]] = {"decky": DeckyTable, "group": GroupTable}


def _told(fault: ErrorDetails) -> tuple[str, str]:
    """Return the key that is meant and what is wrong with it."""
    path = [str(part) for part in fault["loc"] if isinstance(part, str)]
    key = path[-1]
    if fault["type"] == "extra_forbidden":
        known = _TABLES[path[0]].model_fields if len(path) > 1 else _TABLES
        close = difflib.get_close_matches(key, known, n=1)
        return "", f"unknown key {key!r}" + (
            f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"
        )
    if fault["type"] == "missing":
        return "", f"[[{path[0]}]] needs the key {key!r}"
    what = fault["msg"].removeprefix("Value error, ")
    return f"{'.'.join(path[1:]) or key}: ", what[:1].lower() + what[1:]
