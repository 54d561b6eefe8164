"""Names of the log lines that the listener writes, with their meaning."""

LOG_EVENTS: dict[str, str] = {
    "listener.started": "workers can ship their logs",
    "listener.waits": "the database or the disk is away and known to come back; it is tried again",
    "connections.limited": "fewer open files are allowed than the listener takes connections; it takes so many fewer",
    "handshake.refused": "connections were given up before or in the TLS handshake; the count says how many",
    "sender.refused": "a peer with a certificate of ours may not ship, or there is no room for it",
    "sender.connected": "a worker ships a stream; the offset says from where",
    "sender.disconnected": "a worker's connection ended",
    "sender.broke_protocol": "a worker's connection was ended because its bytes break the specification",
    "sender.superseded": "an older connection of a stream was ended because the worker opened a newer one",
    "journal.append_failed": "the journal is full or its disk fails; nothing is acknowledged, nothing is lost",
    "journal.append_recovered": "the journal takes lines again",
    "journal.tail_cut": "the end of the journal was half written when the last listener ended; it was not acknowledged",
    "shipping.report_failed": "the database does not take what workers did; it is kept and written later",
    "shipping.report_recovered": "the database takes it again",
    "block.rejected": "the journal refused a block that does not fit its stream: our bug; the connection was ended",
    "owner.failed": "a connection could not be told what became of its block: our bug; the connection was ended",
}
