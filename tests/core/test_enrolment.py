from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from decnet_core.enrolment import MAX_TOKEN_CHARS, TOKEN_PREFIX, Enrolment, JoinReply, JoinRequest, JoinToken
from decnet_core.errors import TrustError
from decnet_core.identity import MAX_HOST_LENGTH, Role

DATA = Path(__file__).parent / "data"
SECRET = "s" * 43
FIELDS = {
    "address": "10.0.0.1:8771",
    "pin": "ab" * 32,
    "id": "0123456789abcdef",
    "secret": SECRET,
    "host": "web-1",
    "expires_at": "2026-11-23T17:00:00Z",
}


def written(document) -> str:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    return TOKEN_PREFIX + base64.urlsafe_b64encode(text).decode().rstrip("=")


tokens = st.builds(
    JoinToken,
    address=st.text(max_size=260),
    pin=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    id=st.from_regex(r"[0-9a-f]{16}", fullmatch=True),
    secret=st.from_regex(r"[A-Za-z0-9_-]{43}", fullmatch=True),
    host=st.from_regex(r"[a-z0-9]([a-z0-9-]{0,54}[a-z0-9])?", fullmatch=True),
    expires_at=st.datetimes(timezones=st.just(UTC)),
)


@given(tokens)
def test_a_token_reads_back(token):
    text = token.encode()
    assert JoinToken.parse(text) == token
    assert JoinToken.parse(f"  {text}\n") == token
    assert text.isascii()
    assert not set(text) & set(" +/=\"'$`\\")  # one word for every shell


documents = st.recursive(
    st.none() | st.integers() | st.text(), lambda below: st.lists(below) | st.dictionaries(st.text(), below)
)


@given(st.text() | st.text().map(TOKEN_PREFIX.__add__) | (st.binary() | documents).map(written))
def test_any_text_is_a_token_or_a_trust_error(text):
    with pytest.raises(TrustError):
        JoinToken.parse(text)


@given(tokens, st.data())
def test_a_token_cut_or_changed_is_damaged_or_the_same(token, data):
    text = token.encode()
    at = data.draw(st.integers(0, len(text) - 1))
    changed = text[:at] + data.draw(st.sampled_from(["", "A", "é", "\0", "="])) + text[at + 1 :]
    told = ""
    try:
        JoinToken.parse(changed)
    except TrustError as error:
        told = f"{error} {error.__cause__}"
    assert token.secret not in told


@pytest.mark.parametrize(
    "document",
    [
        FIELDS | {"host": "h" * (MAX_HOST_LENGTH + 1)},
        FIELDS | {"host": "Web"},
        FIELDS | {"expires_at": "2026-11-23T17:00:00"},  # a time that says of no zone
        FIELDS | {"pin": "AB" * 32},
        FIELDS | {"secret": SECRET + "="},
        FIELDS | {"more": 1},
        {name: value for name, value in FIELDS.items() if name != "pin"},
        b"[" * 1500,
    ],
)
def test_a_document_that_does_not_fit_is_damaged(document):
    with pytest.raises(TrustError, match="damaged"):
        JoinToken.parse(written(document))


def test_a_token_of_the_longest_fields_is_short_enough():
    longest = FIELDS | {"address": "a" * 260, "host": "h" * MAX_HOST_LENGTH}
    token = JoinToken.model_validate(longest)
    assert len(token.encode()) <= MAX_TOKEN_CHARS
    assert JoinToken.parse(token.encode()) == token


def test_secrets_do_not_show():
    token = JoinToken.model_validate(FIELDS)
    request = JoinRequest(token_id=token.id, secret=SECRET, version="0.1.0", csrs={})
    assert SECRET not in f"{token!r} {token} {request!r} {request}"


@pytest.mark.parametrize("model", [JoinReply, Enrolment])
def test_a_name_that_no_certificate_can_hold_is_refused(model):
    rest = {JoinReply: {"ca_pem": "", "certificates": {}}, Enrolment: {"master": "m", "enrolment_port": 1}}[model]
    assert model(host="h" * MAX_HOST_LENGTH, listener_port=1, **rest)
    with pytest.raises(ValidationError):
        model(host="h" * (MAX_HOST_LENGTH + 1), listener_port=1, **rest)


def test_what_earlier_releases_wrote_still_loads():
    token = JoinToken.parse((DATA / "join-token-0.1.0.txt").read_text())
    assert (token.host, token.expires_at) == ("web-1", datetime(2026, 11, 23, 17, tzinfo=UTC))
    enrolment = Enrolment.model_validate_json((DATA / "enrolment-0.1.0.json").read_text())
    assert (enrolment.host, enrolment.master, enrolment.listener_port) == ("web-1", "10.0.0.1", 6514)
    request = JoinRequest.model_validate_json((DATA / "join-request-0.1.0.json").read_text())
    assert set(request.csrs) == {Role.AGENT, Role.LOGSHIP, Role.UPDATER}
    reply = JoinReply.model_validate_json((DATA / "join-reply-0.1.0.json").read_text())
    assert set(reply.certificates) == set(request.csrs)
