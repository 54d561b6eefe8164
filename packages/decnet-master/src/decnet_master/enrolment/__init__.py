"""Joining and renewing, the master's side: make tokens, trade them for certificates, and those for their successors.

    tokens     make one, and hash its secret
    issuer     the CAs, in the one process that has them open
    registrar  check a request, issue, record: one transaction
    routes     the endpoint workers join and renew at

It is the only port of the master that answers a stranger, so everything about it is bounded: bodies, time,
connections and tries. `decnet_core.enrolment` describes the order on the wire.
"""
