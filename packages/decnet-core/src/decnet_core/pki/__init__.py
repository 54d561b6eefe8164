"""Certificates: who writes them, who keeps them, and how a connection is made of them.

    certificates   builds and judges them (pure; needs `cryptography`)
    authority      the CA on the master's disk
    keystore       one program's identities on disk
    tls            TLS contexts that trust the private CA and nothing else
    der            the two things that a daemon reads from a certificate without a certificate library
    durable        files that are either old or new after a crash, never half

Importing `cryptography.x509` costs a process 13 MB of resident memory, so only what makes keys or certificates
does it: a daemon starts through `keystore`, `tls` and `decnet_core.peer`, which never do.
"""
