"""Names of the log lines that the store writes, with their meaning."""

LOG_EVENTS: dict[str, str] = {
    "database.migrated": "the database's schema was brought to what this release needs",
    "derived.rebuilt": "attackers, sessions and credentials were made anew from the events",
}
