"""Names of the log lines that logship writes, with their meaning."""

LOG_EVENTS: dict[str, str] = {
    "logship.started": "it watches the event log and ships to the master named",
    "stream.resumed": "the master said from which offset a file of the log goes on",
    "stream.finished": "the master has the whole of a rotated file",
    "stream.went_back": "the master has less than it acknowledged before: it lost data, and gets what is still here",
    "file.removed": "a rotated file that the master has whole was removed",
    "file.half_line": "a rotated file ends inside a line, which is not shipped; the file is kept",
    "file.kept": "such a file cannot be removed; it is kept and looked at again by the next start",
    "file.ignored": "a file beside the log has no generation of ours in its first line and is not shipped",
    "line.skipped": "a line is empty or too long to be shipped; the master was told how many bytes are missing",
    "connection.failed": "there is no connection to the master, or it ended; it is tried again after a delay",
    "state.unwritable": "the hint file for `status` cannot be written; shipping goes on",
}
