"""Accounts are put into a decky as Debian's own tools would: nobody is there twice, and all asked for can log in."""

from __future__ import annotations

from decnet_agent.furnishing.accounts import Image, furnish
from decnet_core.fleet import Account

IMAGE = Image(
    accounts={
        "passwd": b"root:x:0:0:root:/root:/bin/bash\n"
        b"backup:x:34:34:backup:/var/backups:/usr/sbin/nologin\n"
        b"sync:x:4:65534:sync:/bin:/bin/sync\n",
        "shadow": b"root:*:19000:0:99999:7:::\nbackup:*:19000:0:99999:7:::\nsync:*:19000:0:99999:7:::\n",
        "group": b"root:x:0:\nbackup:x:34:\noperator:x:37:\n",
        "gshadow": b"root:*::\nbackup:*::\noperator:*::\n",
    },
    skeleton={".bashrc": b"# bashrc\n"},
)


def _files(*users: str) -> dict[str, list[str]]:
    accounts = [Account(user=user, password="pw") for user in users]
    entries = furnish(IMAGE, accounts, {user: f"$y${user}" for user in users}, {}, 86400 * 20000)
    return {entry.path: (entry.content or b"").decode().splitlines() for entry in entries}


def test_a_new_user_gets_a_group_and_a_home():
    files = _files("deploy")
    assert "deploy:x:1000:1000:,,,:/home/deploy:/bin/bash" in files["etc/passwd"]
    assert "deploy:x:1000:" in files["etc/group"]
    assert "deploy:$y$deploy:20000:0:99999:7:::" in files["etc/shadow"]
    assert files["home/deploy/.bashrc"] == ["# bashrc"]


def test_a_system_user_gets_a_shell_and_keeps_the_rest():
    files = _files("backup")
    assert "backup:x:34:34:backup:/var/backups:/bin/bash" in files["etc/passwd"]
    assert [line for line in files["etc/shadow"] if line.startswith("backup:")] == [
        "backup:$y$backup:20000:0:99999:7:::"
    ]
    assert len(files["etc/passwd"]) == 3


def test_sync_is_no_shell():
    assert "sync:x:4:65534:sync:/bin:/bin/bash" in _files("sync")["etc/passwd"]


def test_a_user_named_like_a_group_of_debian_joins_it():
    files = _files("operator")
    assert "operator:x:1000:37:,,,:/home/operator:/bin/bash" in files["etc/passwd"]
    assert [line for line in files["etc/group"] if line.startswith("operator:")] == ["operator:x:37:"]
