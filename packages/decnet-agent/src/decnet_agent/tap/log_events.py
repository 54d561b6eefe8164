"""Names of the log lines that the tap and the evidence channel write, with their meaning."""

LOG_EVENTS: dict[str, str] = {
    "evidence.collector_connected": "the sensor reached the collector and learned where to continue",
    "evidence.collector_missing": "the collector does not answer; events wait in a bounded buffer",
    "evidence.dropped": "evidence was given up for lack of room or time; the count says how much",
    "evidence.kept": "a tap that ends wrote down what the collector had not acknowledged, for the next tap",
    "evidence.leftover_delivered": "what an earlier tap had kept is with the collector now",
    "evidence.leftover_unreadable": "what an earlier tap had kept is damaged; the file was put aside as .unreadable",
    "evidence.sensor_lost": "a sensor's connection ended other than by hanging up, or it broke the protocol",
    "evidence.sensor_refused": "a process that is neither root's nor ours, or one too many, wanted to be a sensor",
    "tap.started": "the tap's programs are in the kernel",
    "tap.decky_watched": "a decky is being watched",
    "tap.decky_forgotten": "a decky is no longer watched, because it stopped or was taken away",
    "tap.decky_unwatchable": "a decky cannot be watched, or not wholly",
    "tap.list_unreadable": "the agent's list of deckies cannot be read; the last one stands",
    "tap.record_unreadable": "a record of the kernel does not have the form that our programs write",
    "tap.probe_failed": "a function of a decky's program cannot be probed; commands typed or passwords may be missing",
    "tap.probed_file_changed": "a program that is probed was replaced in a decky and is probed anew",
    "tap.quarantine_failed": "a file could not be copied into the quarantine",
}
