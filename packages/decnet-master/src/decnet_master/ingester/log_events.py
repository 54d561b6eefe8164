"""Names of the log lines that the ingester writes, with their meaning."""

LOG_EVENTS: dict[str, str] = {
    "ingester.started": "the ingester reads the journal from the position that the database holds",
    "ingester.stopped": "the ingester was asked to end; everything that it counted as stored is stored",
    "database.awaited": "the database does not answer; the journal keeps what is not stored, and it is tried again",
    "database.returned": "the database answers again",
    "journal.awaited": "the journal cannot be read or cleaned now; it is tried again",
    "journal.segments_deleted": "segments of the journal whose lines are all in the database were deleted",
    "journal.loss_passed": "a piece of the journal was damaged and set aside; the event `evidence.dropped` says which",
    "journal.hole_passed": "a sender declared that a piece of its log is not sent; a dead letter says how much",
    "events.expired": "days that are older than retention-days were let go, with so many events",
    "line.refused": "lines were no events and were stored as dead letters, with the reason of the first",
    "row.refused": "the database refused an event, which was stored as a dead letter: a bug of ours",
    "position.moved_elsewhere": "the position in the database was not the one that was read from; it is read again",
}
