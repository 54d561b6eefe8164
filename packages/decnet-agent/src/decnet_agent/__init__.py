"""Runs and watches the decoy hosts of a DECNET deception network on a worker."""

__version__ = "0.1.0"
