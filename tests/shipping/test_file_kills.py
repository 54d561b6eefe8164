"""Another program's log while logship is killed the hard way and the log is rotated in both ways."""

import os
import random
import shutil

import pytest

from decnet_logship.label import label_of
from tests.lab.processes import free_port
from tests.shipping.place import WORKER, Log, Place, batches
from tests.shipping.test_kills import enrolled, listener, logship

__all__ = ["enrolled"]

LINES = 6_000
ROUNDS = 12


@pytest.mark.slow
def test_each_line_arrives_once_through_kills_and_rotations(enrolled: Place) -> None:
    place, port, draw = enrolled, free_port(), random.Random(11)
    Log(place.log_path)
    their = place.folder / "their.log"
    label, written = label_of(their, WORKER), list[bytes]()

    def arrived() -> list[bytes]:
        lines = [line for batch in batches(place.journal) for line in batch.lines]
        return [line.removeprefix(label) for line in lines if line.startswith(label)]

    with listener(place, port) as master, logship(place, port, {"DECNET_FILES": str(their)}) as worker:
        master.wait_for_line("listener.started")
        for turn in range(ROUNDS):
            lines = [b"%d.%d %s" % (turn, number, b"x" * draw.randrange(300)) for number in range(LINES // ROUNDS)]
            with their.open("ab") as file:
                file.write(b"".join(line + b"\n" for line in lines))
            written += lines
            if turn == 0:
                worker.wait_until(lambda: bool(arrived()), "the first line: from now on it is followed")
            worker.kill()
            if turn % 3 == 1:
                for number in range(turn, 0, -1):
                    old = their.with_name(f"their.log.{number}")
                    if old.exists():
                        old.rename(their.with_name(f"their.log.{number + 1}"))
                if draw.random() < 0.5:
                    their.rename(their.with_name("their.log.1"))
                else:
                    shutil.copyfile(their, their.with_name("their.log.1"))
                    os.truncate(their, 0)
            worker.start()
        worker.wait_until(lambda: len(arrived()) >= len(written), "everything", timeout_secs=60)
        assert arrived() == written
        assert worker.stop() == 0
