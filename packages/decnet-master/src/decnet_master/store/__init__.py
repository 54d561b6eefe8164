"""The master's database, the only room that knows SQL.

`Store.open(url)` gives one room per noun: `hosts`, `certificates`, `tokens`, `operators`, `fleet`, `events`, `users`,
`ingest`, `slices`, `shipping`, `silences`. Each method is one transaction. What comes out are frozen values, never
rows; what goes wrong is a `decnet_core.errors` error:

- `RetryLater`: the database is away, locked or full; nothing was written, come again.
- `Unavailable`: it cannot be used as it is configured.
- `ConfigError`: its schema is not this release's; `decnet-master init` migrates.

`migrate(url)` creates or updates the schema; it alone imports alembic, and only when it is called.

The names below are loaded when they are first used: the listener comes in by `store.doorbook` alone, which needs no
SQLAlchemy, a third of what that process may hold.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from decnet_master.store.certificates import Renewed, Standing
    from decnet_master.store.fleet import PlacedDecky, WorkerFleet
    from decnet_master.store.heartbeats import Beat, Heartbeat
    from decnet_master.store.hosts import Host
    from decnet_master.store.ingest import DeadLetter
    from decnet_master.store.joining import HostStatus, IssuedCertificate, Redemption
    from decnet_master.store.migration import migrate
    from decnet_master.store.operators import Granted, Operator
    from decnet_master.store.records import Load, NewEvent
    from decnet_master.store.repairs import Repair
    from decnet_master.store.store import Store
    from decnet_master.store.tokens import Token, TokenState
    from decnet_master.store.users import User, UserRole

__all__ = [
    "Beat",
    "DeadLetter",
    "Granted",
    "Heartbeat",
    "Host",
    "HostStatus",
    "IssuedCertificate",
    "Load",
    "NewEvent",
    "Operator",
    "PlacedDecky",
    "Redemption",
    "Renewed",
    "Repair",
    "Standing",
    "Store",
    "Token",
    "TokenState",
    "User",
    "UserRole",
    "WorkerFleet",
    "migrate",
]

_HOMES = {
    "Beat": "heartbeats",
    "DeadLetter": "ingest",
    "Granted": "operators",
    "Heartbeat": "heartbeats",
    "Host": "hosts",
    "HostStatus": "joining",
    "IssuedCertificate": "joining",
    "Load": "records",
    "NewEvent": "records",
    "Operator": "operators",
    "PlacedDecky": "fleet",
    "Redemption": "joining",
    "Renewed": "certificates",
    "Repair": "repairs",
    "Standing": "certificates",
    "Store": "store",
    "Token": "tokens",
    "TokenState": "tokens",
    "User": "users",
    "UserRole": "users",
    "WorkerFleet": "fleet",
    "migrate": "migration",
}


def __getattr__(name: str) -> Any:
    """Load a public name's module (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
