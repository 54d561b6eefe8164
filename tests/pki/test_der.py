from __future__ import annotations

import contextlib

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from decnet_core.errors import RemoteProtocolError
from decnet_core.pki import certificates
from decnet_core.pki.der import Usage, usages
from tests.pki.world import CLIENT, SERVER, Ca

CA = Ca.make()
KEY = certificates.generate_key()


def encoded(*purposes) -> bytes:
    return CA.forge(KEY, usage=purposes).public_bytes(serialization.Encoding.DER)


GOOD = encoded(SERVER, CLIENT)


@pytest.mark.parametrize(
    ("purposes", "expected"),
    [
        ([], set()),
        ([SERVER], {Usage.SERVER}),
        ([CLIENT], {Usage.CLIENT}),
        ([SERVER, CLIENT], {Usage.SERVER, Usage.CLIENT}),
    ],
)
def test_usages_are_those_that_the_certificate_states(purposes, expected):
    assert usages(encoded(*purposes)) == expected


@given(st.binary(max_size=300))
def test_total_over_any_bytes(data):
    with pytest.raises(RemoteProtocolError):
        usages(data)


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255), st.integers(0, len(GOOD)))
def test_total_over_damaged_certificates(at, value, end):
    damaged = bytearray(GOOD)
    damaged[at] = value
    with contextlib.suppress(RemoteProtocolError):
        assert usages(bytes(damaged[:end])) <= set(Usage)
