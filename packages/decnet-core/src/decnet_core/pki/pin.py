"""Take a CA from a stranger because its fingerprint is the one that the operator carried over.

What comes back is written anew from the very bytes that the pin covers. The text that arrived is not used any
further: readers of PEM differ in what they skip, so a text whose one certificate matches the pin for one reader may
hold a second root for the next (Python's decoder stops at the padding, OpenSSL reads on).
"""

from __future__ import annotations

import binascii
import hmac
import re
import ssl

from decnet_core.errors import TrustError
from decnet_core.pki.der import fingerprint

MAX_CA_PEM_BYTES = 16 * 1024
"""An RSA-4096 root is 2 KiB."""

_BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]+-----END CERTIFICATE-----")


def pins_in(ca_pem: str) -> frozenset[str]:
    """Return the pins of the CAs in a file that we wrote: one, or two while the CA is changed."""
    return frozenset(fingerprint(ssl.PEM_cert_to_DER_cert(block)) for block in _BLOCK.findall(ca_pem))


def pinned_ca(pem: bytes, pin: str) -> bytes:
    """Return the PEM of the CA certificate that the pin names.

    Args:
        pem: what the stranger answered; nothing may have been sent to it yet but the question.
        pin: SHA-256 of the CA certificate's DER, 64 lower-case hex digits.

    Raises:
        TrustError: it is another certificate, or none.
    """
    try:
        # A longer text is cut, so its end is missing and it is no certificate.
        der = ssl.PEM_cert_to_DER_cert(pem[:MAX_CA_PEM_BYTES].decode("ascii"))
    except (ValueError, binascii.Error) as error:
        raise TrustError("What answered sent no CA certificate", "Check the address in the join token.") from error
    if not hmac.compare_digest(fingerprint(der), pin):
        raise TrustError(
            "What answered is not the master of this join token: its CA has another fingerprint",
            "Check the address in the token, and whether somebody intercepts the connection.",
        )
    return ssl.DER_cert_to_PEM_cert(der).encode()
