"""Alembic's environment: runs on the connection and in the transaction that `store.migration` hands over."""

from __future__ import annotations

from alembic import context

from decnet_master.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,  # SQLite too: our transactions begin explicitly, and its DDL takes part in them
)
with context.begin_transaction():
    context.run_migrations()
