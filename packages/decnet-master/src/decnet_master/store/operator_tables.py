"""The tables of those who steer from elsewhere; `store.schema` says how values look.

What was revoked is never forgotten: neither that it was, when and by whom, nor which keys are not to be let in again.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKey, Table, Text

from decnet_master.store.schema import metadata

operators = Table(
    "operators",
    metadata,
    Column("name", Text, primary_key=True),
    Column("created_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
    Column("revoked_by", Text),
)

operator_certificates = Table(
    "operator_certificates",
    metadata,
    Column("fingerprint", Text, primary_key=True),
    Column("operator", Text, ForeignKey("operators.name"), nullable=False, index=True),
    Column("issued_at", BigInteger, nullable=False),
    Column("not_after", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
    Column("seen_at", BigInteger),
    Column("serial", Text, nullable=False),
    Column("key_digest", Text, nullable=False, index=True),
    Column("issuer", Text, nullable=False),
    Column("pem", Text, nullable=False),
)
