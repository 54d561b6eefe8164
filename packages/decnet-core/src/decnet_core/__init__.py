"""Contracts that DECNET's programs share: events, syslog, shipping, PKI, configuration."""

__version__ = "0.1.0"
