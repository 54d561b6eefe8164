from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decnet_core.errors import LocalProtocolError
from decnet_master.store.values import iso, json_object, json_text, micros, moment, original, storable

any_text = st.text(st.characters(exclude_categories=[])) | st.text("\0\x1a\ud800\udfff0a1", max_size=12)


@given(any_text)
def test_any_text_comes_back_exactly(text: str) -> None:
    stored = storable(text)
    stored.encode("utf-8")
    assert "\0" not in stored
    assert original(stored) == text


@given(any_text, any_text)
def test_storing_keeps_texts_apart(one: str, other: str) -> None:
    assert (storable(one) == storable(other)) == (one == other)


@given(st.dictionaries(any_text, any_text | st.integers() | st.lists(any_text), max_size=4))
def test_any_json_object_comes_back_exactly(document: dict[str, object]) -> None:
    stored = json_text(document)
    stored.encode("utf-8")
    assert json_object(stored) == document


@given(st.datetimes(timezones=st.just(UTC)), st.datetimes(timezones=st.just(UTC)))
def test_times_come_back_and_sort(one: datetime, other: datetime) -> None:
    assert moment(micros(one)) == one
    assert (micros(one) < micros(other)) == (one < other) == (iso(micros(one)) < iso(micros(other)))


def test_a_time_of_another_zone_is_stored_as_utc() -> None:
    at = datetime(2026, 1, 1, 1, 30, tzinfo=timezone(timedelta(hours=1)))
    assert iso(micros(at)) == "2026-01-01T00:30:00.000000Z"


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(LocalProtocolError):
        micros(datetime(2026, 1, 1))  # noqa: DTZ001 -- that is what is refused


def test_json_of_rows_is_ascii_safe() -> None:
    assert json.dumps({"text": "\udc80"}) == '{"text": "\\udc80"}'
