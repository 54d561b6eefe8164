"""Labels and capacity of hosts."""

from __future__ import annotations

import asyncio

import pytest

from decnet_core.errors import ConfigError, Conflict, NotFound
from decnet_master.labels import MAX_LABELS, label_words, parse_labels
from decnet_master.store import Store
from tests.store.samples import LATER, NOW, enrol


async def test_labels_are_given_changed_and_taken_away(store: Store) -> None:
    await enrol(store, "w1")
    assert (await store.hosts.get("w1")).labels == {}
    assert (await store.traits.label("w1", {"site": "hq", "rack": "A.1"})).labels == {"site": "hq", "rack": "A.1"}
    assert (await store.traits.label("w1", {"site": "lab"}, ["rack", "none"])).labels == {"site": "lab"}
    assert (await store.hosts.list())[0].labels == {"site": "lab"}
    with pytest.raises(NotFound):
        await store.traits.label("w9", {"site": "hq"})


async def test_labels_have_an_end(store: Store) -> None:
    await enrol(store, "w1")
    await store.traits.label("w1", {f"k{number}": "v" for number in range(MAX_LABELS)})
    with pytest.raises(Conflict, match=str(MAX_LABELS + 1)):
        await store.traits.label("w1", {"more": "v"})
    assert (await store.traits.label("w1", {"more": "v"}, ["k0"])).labels["more"] == "v"


async def test_labels_given_at_the_same_moment_are_all_kept(store: Store, url: str) -> None:
    await enrol(store, "w1")
    async with await Store.open(url) as other:
        rooms = [store.traits, other.traits] * 4
        await asyncio.gather(*(room.label("w1", {f"k{number}": "v"}) for number, room in enumerate(rooms)))
    assert len((await store.hosts.get("w1")).labels) == len(rooms)


async def test_enrolling_gives_labels_and_a_name_keeps_its_own(store: Store) -> None:
    created = await store.hosts.create("w1", "a" * 16, "hash", LATER, NOW, labels={"site": "hq"})
    assert created.labels == {"site": "hq"}
    await store.traits.label("w1", {"rack": "1"})
    await store.traits.limit("w1", 7)
    await store.hosts.decommission("w1", NOW)
    again = await store.hosts.create("w1", "b" * 16, "hash", LATER, NOW, labels={"site": "lab"})
    assert (again.labels, again.capacity) == ({"site": "lab", "rack": "1"}, 7)
    await store.hosts.decommission("w1", NOW)
    assert (await store.hosts.create("w1", "c" * 16, "hash", LATER, NOW)).labels == again.labels


async def test_capacity_is_set_and_taken_back(store: Store) -> None:
    await enrol(store, "w1")
    assert (await store.hosts.get("w1")).capacity is None
    assert (await store.traits.limit("w1", 0)).capacity == 0
    assert (await store.traits.limit("w1", 40)).capacity == 40
    assert (await store.traits.limit("w1", None)).capacity is None
    with pytest.raises(NotFound):
        await store.traits.limit("w9", 1)


def test_labels_are_read_as_an_operator_writes_them() -> None:
    labels = parse_labels(["site=hq", "rack=A-1.2_x"])
    assert labels == {"site": "hq", "rack": "A-1.2_x"}
    assert label_words(labels) == "rack=A-1.2_x site=hq"


@pytest.mark.parametrize(
    "words",
    [
        ["site"],
        ["=hq"],
        ["site="],
        ["Site=hq"],
        ["site=-hq"],
        ["site=h q"],
        ["site=\x1b[2J"],
        ["site=hq", "site=lab"],
        [f"k{number}=v" for number in range(MAX_LABELS + 1)],
        ["k" * 33 + "=v"],
        ["k=" + "v" * 64],
    ],
)
def test_what_is_no_label_is_refused(words: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_labels(words)
    assert refused.value.message.isprintable()
    assert refused.value.advice
