"""The listener: workers' logs over TLS on port 6514 into the journal.

    app          puts it together
    server       accepts, shakes hands, bounds, fences, lets time pass
    books        what its connections share: who may ship, who ships which stream
    connection   one logship: `decnet-log/1` between a transport and the committer
    plain        one third-party sender: RFC 5425 without acknowledgements
    committer    group commit: all blocks that wait, one append, then everybody's acknowledgements

Provenance comes from the client certificate alone: which host it names, and that the master's books hold it active.
What a line says of itself is data, and is not looked at here.
"""
