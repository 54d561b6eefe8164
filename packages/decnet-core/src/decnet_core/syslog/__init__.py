"""Syslog on our wires and in our files: the RFC 5424 codec and octet-counted framing, both without IO."""
