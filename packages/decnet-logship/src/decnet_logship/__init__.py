"""Ships the evidence log of a DECNET worker to its master, exactly once.

    cli          argv and exit codes
    app          puts it together
    shipper      connects, again and again, and says how it went
    connection   one connection: the protocol's machine between the master and the log's files
    tail         the log's files, oldest first: their generations, whole lines, their end
    wakeup       tells that the log's folder changed
    state        what `status` shows; a hint, never the truth

The log itself is the queue, and the master's answer is where to go on: nothing here must survive for that.
"""

__version__ = "0.1.0"
