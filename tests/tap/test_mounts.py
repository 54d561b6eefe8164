"""Which of a decky's mounts are its own and may be watched whole."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decnet_agent.tap.fanotify import Mount, own_mounts
from decnet_core.errors import NotFound

MOUNTINFO = """\
700 500 0:60 / / rw,relatime master:1 - overlay overlay rw,lowerdir=/l,upperdir=/u
701 700 0:61 / /proc rw,nosuid - proc proc rw
702 700 0:62 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k
703 702 0:63 / /dev/shm rw,nosuid - tmpfs shm rw,size=65536k
704 700 0:64 / /sys ro,nosuid - sysfs sysfs ro
705 700 8:1 /var/lib/docker/containers/x/hosts /etc/hosts rw - ext4 /dev/sda1 rw
706 701 0:65 / /proc/acpi ro - tmpfs tmpfs ro
707 701 0:62 /null /proc/kcore rw,nosuid - tmpfs tmpfs rw
708 700 0:66 / /with\\040space rw - tmpfs tmpfs rw
"""


def test_overlay_root_and_writable_tmpfs_are_its_own_and_host_files_are_not() -> None:
    assert own_mounts(MOUNTINFO) == [
        Mount("/", os.makedev(0, 60)),
        Mount("/dev", os.makedev(0, 62)),
        Mount("/dev/shm", os.makedev(0, 63)),
        Mount("/with space", os.makedev(0, 66)),
    ]


def test_a_root_that_may_be_the_hosts_is_refused() -> None:
    with pytest.raises(NotFound):
        own_mounts("700 500 8:1 / / rw - ext4 /dev/sda1 rw\n")


@given(st.text(max_size=300))
def test_any_text_gives_mounts_or_a_named_error(text: str) -> None:
    try:
        own_mounts(text)
    except NotFound:
        return
