"""The agent's own writer of the event log, shipped: both packages agree about the files, not each with itself alone."""

from datetime import UTC, datetime, timedelta

from decnet_agent.evidence.event_log import EventLog
from decnet_core.events import Event, EventType, Trust, from_syslog
from decnet_core.syslog.rfc5424 import decode
from tests.shipping.place import WORKER, Place, batches
from tests.shipping.receiving import reached, receiving
from tests.shipping.test_shipping import shipping

COUNT = 300


def event(number: int) -> Event:
    return Event(
        at=datetime(2026, 11, 23, tzinfo=UTC) + timedelta(seconds=number),
        decky="web-1",
        service="ssh",
        event_type=EventType.LOGIN_FAILED,
        trust=Trust.GUEST,
        source="container:1",
        cursor=str(number),
        fields={"user": f"root\n{number}"},
    )


async def test_events_that_the_agent_writes_arrive_as_events_through_rotations(place: Place) -> None:
    log = EventLog.open(
        place.log_path, place.worker_data / "agent", host=WORKER, max_bytes=20_000, now=lambda: datetime.now(UTC)
    )
    written = [event(number) for number in range(COUNT)]

    def arrived() -> list[Event]:
        lines = [line for batch in batches(place.journal) for line in batch.lines]
        read = [
            from_syslog(decode(line), fallback_source="", fallback_cursor="", received_at=datetime.now(UTC))
            for line in lines
        ]
        return [one for one in read if one.event_type != EventType.LOG_OPENED]

    async with receiving(place) as master, shipping(place, master.endpoint):
        for at in range(0, COUNT, 10):
            log.append(written[at : at + 10])
            log.sync()
        await reached(lambda: len(arrived()) >= COUNT, "all events")
        await reached(lambda: len(list(place.log_path.parent.glob("events.log*"))) == 1, "removal of rotated files")
    log.close()
    assert arrived() == written
    assert len({batch.stream for batch in batches(place.journal)}) > 3
