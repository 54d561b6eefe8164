"""Alembic's environment: runs on the connection and in the transaction that `store.migration` hands over.

Alembic executes this file under the name `env_py`; imported as a module of the package it does nothing.
"""

from __future__ import annotations

from alembic import context

from decnet_master.store.schema import metadata


def run() -> None:
    """Run the migrations that were asked for."""
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=metadata,
        transactional_ddl=True,  # SQLite too: our transactions begin explicitly, and its DDL takes part in them
    )
    with context.begin_transaction():
        context.run_migrations()


if __name__ == "env_py":
    run()
