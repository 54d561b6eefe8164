"""Ships the evidence log of a DECNET worker to its master, exactly once, and other logs beside it.

    cli          argv and exit codes
    app          puts it together
    shipper      keeps one log shipped: connects, again and again, and says how it went
    connection   one connection: the protocol's machine between the master and the log's files
    plain        one connection to a syslog receiver that acknowledges nothing
    dialling     opens a connection, says why there is none, counts what has not arrived
    rotation     what of a log's files comes next, and what becomes of each
    survey       which files of a log there are, and which generation each is
    generations  what a restart must know again of files that do not say it themselves
    tail         one open file as a stream of whole lines
    label        the header before each line of another program's log
    wakeup       tells that a log's folder changed
    state        what the daemon tells of itself
    status       shows it, with what lies on the disk beyond it

A log itself is the queue, and the master's answer is where to go on: for our own, nothing here must survive for that.
"""

__version__ = "0.1.0"
