"""The schema that this release needs; apart from `schema`, so that asking for it needs no SQLAlchemy."""

from __future__ import annotations

HEAD = "0011"
"""The newest migration; a test holds it to the migrations' own head, so that opening a store needs no alembic."""
