"""Joining, the master's side: make tokens, trade them for certificates, over TLS without a client certificate.

    tokens     make one, and hash its secret
    registrar  check a request, issue, record: one transaction
    routes     the endpoint workers join at: GET /ca and POST /join

It is the only port of the master that answers a stranger, so everything about it is bounded: bodies, time,
connections and tries. `decnet_core.enrolment` describes the order on the wire.
"""
