"""Certificates: who writes them, who keeps them, and how a connection is made of them.

    certificates   builds them (pure; needs `cryptography`)
    verification   judges them outside a connection (pure; needs `cryptography`)
    authority      a CA on the master's disk
    rotation       the CAs of a master: one, or two while they are changed
    keystore       one program's identities on disk
    live           an identity that follows its renewals while it serves
    tls            TLS contexts that trust the private CA and nothing else
    pin            takes a CA because its fingerprint is known
    der            the two things that a daemon reads from a certificate without a certificate library
    durable        files that are either old or new after a crash, never half

Importing `cryptography.x509` costs a process 13 MB of resident memory, so only what makes keys or certificates
does it: a daemon starts through `keystore`, `live`, `tls`, `pin` and `decnet_core.peer`, which never do.
"""
