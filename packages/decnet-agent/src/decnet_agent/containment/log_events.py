"""Names of the log lines that the containment process writes, with their meaning."""

LOG_EVENTS: dict[str, str] = {
    "containment.started": "the containment process answers; what was asked for last is enforced",
    "containment.loaded": "rules for the deckies of an interface are in the kernel",
    "containment.removed": "an interface has no deckies any more, and its rules were taken away",
    "containment.tampered": "the rules were not as they were put: somebody changed or removed them; they are put back",
    "containment.failed": "the deckies of an interface are not contained; the agent pauses them. It is tried again",
    "containment.restored": "the deckies of an interface are contained again",
    "containment.caller_refused": "a process that is neither root's nor ours wanted to change what is enforced",
    "containment.caller_lost": "a caller broke the protocol or hung up",
    "containment.cleared": "rules and devices of an interface that is gone were removed",
}
