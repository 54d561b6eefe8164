"""Names of the log lines that logship writes, with their meaning."""

LOG_EVENTS: dict[str, str] = {
    "logship.started": "it watches the event log and ships to the master named",
    "stream.resumed": "the master said from which offset a file of the log goes on",
    "stream.finished": "the master has the whole of a rotated file",
    "stream.went_back": "the master has less than it acknowledged before: it lost data, and gets what is still here",
    "stream.differed": "a rotated file has other bytes before this offset than the master; that is where it goes on",
    "file.removed": "a rotated file that the master has whole was removed",
    "file.kept": "a rotated file is not removed: it cannot be, or the master has not every byte of it as it is",
    "file.ignored": "a file beside a log is a copy, older than what is followed, or no log of ours: it is not shipped",
    "file.unreadable": "a file beside a log cannot be looked at; the others are shipped, and it is looked at again",
    "file.set_aside": "a rotated file cannot be read to its end; the others go on, and it is tried again after a while",
    "file.truncated": "a log was truncated or written anew in place; what the master lacks is looked for in a copy",
    "file.lost": "a file is gone before the master had all of it; at least so many bytes are lost",
    "generations.unreadable": "what was remembered of the files is damaged; those of other programs are shipped again",
    "line.cut": "a line above the bound was shipped without its end, and marked; so many bytes are missing",
    "line.skipped": "a line is empty or too long to be shipped; the master was told how many bytes are missing",
    "connection.failed": "there is no connection to the master, or it ended; it is tried again after a delay",
    "state.unwritable": "the hint file for `status` cannot be written; shipping goes on",
}
