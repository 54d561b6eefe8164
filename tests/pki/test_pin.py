from __future__ import annotations

import ssl
from base64 import b64encode

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from decnet_core.errors import TrustError
from decnet_core.pki import certificates
from decnet_core.pki.pin import pinned_ca
from decnet_core.pki.tls import client_context
from tests.pki.world import Ca


def pin(ca: Ca) -> str:
    return certificates.fingerprint(ca.certificate)


def padded_ca() -> Ca:
    """Make a CA whose base64 ends in padding."""
    lengths = (Ca.make(name="n" * length) for length in range(1, 9))
    return next(ca for ca in lengths if b64encode(ca.certificate.public_bytes(Encoding.DER)).endswith(b"="))


def test_the_ca_that_the_pin_names(ca):
    assert pinned_ca(ca.pem, pin(ca)) == ca.pem


@pytest.mark.parametrize("pem", [b"", b"garbage", b"\xff\xfe", b"-----BEGIN CERTIFICATE-----\n", b"x" * 20_000])
def test_no_certificate(ca, pem):
    with pytest.raises(TrustError, match="sent no CA certificate"):
        pinned_ca(pem, pin(ca))


def test_another_certificate(ca, impostor):
    with pytest.raises(TrustError, match="another fingerprint"):
        pinned_ca(impostor.pem, pin(ca))


def test_a_root_behind_the_pinned_one_is_not_taken_along(impostor, tmp_path):
    genuine = padded_ca()
    smuggled = genuine.pem + impostor.pem
    assert ssl.PEM_cert_to_DER_cert(smuggled.decode()) == genuine.certificate.public_bytes(Encoding.DER)
    taken = tmp_path / "ca.pem"
    taken.write_bytes(pinned_ca(smuggled, pin(genuine)))
    roots = client_context(None, taken).get_ca_certs(binary_form=True)
    assert roots == [genuine.certificate.public_bytes(Encoding.DER)]
