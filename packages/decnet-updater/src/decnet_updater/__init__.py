"""Installs and rolls back DECNET releases on a worker."""

__version__ = "0.1.0"
