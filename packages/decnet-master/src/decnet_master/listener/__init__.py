"""The listener: workers' logs over TLS on port 6514 into the journal.

    app          puts it together
    reporter     writes down every few seconds what the listener and its workers did
    server       accepts, shakes hands, bounds, fences, lets time pass
    books        what its connections share: who may ship, who ships which stream
    connection   one logship: `decnet-log/1` between a transport and the committer
    plain        one third-party sender: RFC 5425 without acknowledgements
    roll         who may ship, asked in few questions
    ledger       what each worker did
    read_buffer  how much of a connection is read at a time
    committer    group commit: all blocks that wait, one append, then everybody's acknowledgements

Provenance comes from the client certificate alone: which host it names, and that the master's books hold it active.
What a line says of itself is data, and is not looked at here.
"""
