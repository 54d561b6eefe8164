"""Ships the evidence log of a DECNET worker to its master, exactly once."""

__version__ = "0.1.0"
