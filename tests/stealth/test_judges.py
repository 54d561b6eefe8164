"""Each judge against what was seen of a decky, and against that with a tell planted: one that cannot fail is none."""

from __future__ import annotations

import json

import pytest

from tests.stealth.tells import TELLS, Verdict, verdict

BY_NAME = {tell.name: tell for tell in TELLS}

WIRE = {
    "banner": "SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u7\r\n",
    "kex": "sntrup761x25519-sha512@openssh.com,curve25519-sha256",
    "host_keys": "rsa-sha2-512,ssh-ed25519",
    "ciphers_in": "aes256-ctr",
    "ciphers_out": "aes256-ctr",
    "macs_in": "hmac-sha2-512",
    "macs_out": "hmac-sha2-512",
    "compression_in": "none",
    "compression_out": "none",
    "hassh": "a65c3b91f743d3f246e72172e77288f1",
    "greetings": {"garbage": "Invalid SSH identification string.\r\n"},
    "ports": [22, 23],
    "closed": "refused",
    "closed_udp": "unreachable",
    "syn_ack": {"ttl": 64, "df": 1, "id": "0", "window": 65160, "options": ["2:05b4", "4:", "8", "1", "3:0a"]},
    "reset": {"ttl": 64, "df": 1, "id": "0", "window": 0, "flags": 20},
    "ping": "ttl 64, the same bytes",
    "telnet_options": "fffd18fffd20fffd23fffd27",
    "telnet_text": "\r\nLinux 6.1.0-40-amd64\n\ndb-2 login: ",
    "broadcasts": 1,
}
DECKY = {
    "wire": json.dumps(WIRE),
    "package-version": "1:9.2p1-2+deb12u7",
    "hostname": "db-2\ndb-2\ndb-2",
    "host-keys": "AAAAC3NzaC1lZDI1NTE5AAAAIA",
    "methods": "publickey,password",
    "guesses": "0 of 3 let in",
    "known-user-secs": "2.3 1.9 2.6",
    "unknown-user-secs": "2.0 2.2 1.8",
    "scan": "22/tcp open  ssh     syn-ack ttl 64 OpenSSH 9.2p1 Debian 2+deb12u7",
    "mac": "00:16:3e:41:7a:09",
    "address": "10.77.1.130",
    "neighbour": "10.77.1.130 dev eth0 lladdr 00:16:3e:41:7a:09 REACHABLE",
    "telnet-guess": "Password: \r\nLogin incorrect\r\n",
    "root-folder": "bin boot dev etc home lib root srv tmp usr var",
    "environment": "SHELL=/bin/bash\nUSER=root",
    "init-environment": "TERM=linux\ninit=/sbin/init",
    "init": "init\ninit [2] \n/usr/sbin/init",
    "init-descriptors": "total 0\nlrwx------ 1 root root 64 Nov 24 09:15 10 -> /run/initctl",
    "processes": "1 0 init [2]\n80 1 /usr/sbin/rsyslogd\n90 1 /usr/sbin/cron\n99 1 sshd: /usr/sbin/sshd",
    "services": "sshd is running.\ncron is running.\nrsyslogd is running.",
    "process-texts": "",
    "mounts": "30 20 0:44 / / rw - ext4 /dev/sda1 rw",
    "words-in-files": "",
    "words-in-names": "",
    "cgroup": "0::/",
    "limits": "files 1024 4096\ncore 0\nMax processes 7800 7800 processes",
    "no-new-privileges": "NoNewPrivs:\t0",
    "packages": "?????????   c /etc/shadow",
    "package-count": "214",
    "machine-id": "0123456789abcdef0123456789abcdef",
    "hosts": "127.0.0.1\tlocalhost\n127.0.1.1\tdb-2",
    "resolver": "nameserver 10.77.1.1",
    "people": "anna\nbernd",
    "su": "Password: uid=0(root) gid=0(root) groups=0(root)\ncode 0",
    "sudo": "sudo:x:27:deploy",
    "ping-inside": "1 packets transmitted, 1 received, 0% packet loss, time 0ms",
    "tools": "",
    "python": "42\n42\n42",
    "elf": "ran",
    "histories": "133",
    "logins": "9",
    "inotify": "",
    "preload": "",
    "probe-pages": "",
    "traced": "TracerPid:\t0",
    "named-pipes": "/dev/xconsole\n/run/initctl",
    "listeners": "tcp 0.0.0.0:22\ntcp 0.0.0.0:23\ntcp [::]:22",
    "egress": "1 packets transmitted, 0 received, 100% packet loss, time 0ms\n1",
    "route": "default via 10.77.1.1 dev eth0",
    "writable-mounts": "/etc/hosts",
    "log-route": "",
    "deleted-files": "0",
    "password-file": "$y$ *",
    "sshd-config": "usepam yes\nforcecommand none\nauthorizedkeyscommand none",
    "shells": "/bin/bash\n0123 /bin/bash",
}
OTHER = {**DECKY, "host-keys": "AAAAother", "mac": "00:16:3e:99:12:fe", "machine-id": "fedcba", "people": "carla\ndora"}
CONTROL = DECKY
DATES = "\n".join(f"      {count} 2023-0{count}-11" for count in range(9, 0, -1))

PLANTED = [
    ("banner against package", "wire", json.dumps({**WIRE, "banner": "SSH-2.0-OpenSSH_8.4p1 Debian-5\r\n"})),
    ("key exchange methods", "wire", json.dumps({**WIRE, "kex": "curve25519-sha256"})),
    ("host key algorithms", "wire", json.dumps({**WIRE, "host_keys": "ssh-rsa"})),
    ("ciphers", "wire", json.dumps({**WIRE, "ciphers_out": "aes128-cbc"})),
    ("MACs and compression", "wire", json.dumps({**WIRE, "compression_in": "zlib"})),
    ("HASSH of the server", "wire", json.dumps({**WIRE, "hassh": "0"})),
    ("answers to malformed greetings", "wire", json.dumps({**WIRE, "greetings": {"garbage": "bad packet length\n"}})),
    ("host keys shared", "host-keys", OTHER["host-keys"]),
    ("login methods offered", "methods", "publickey,password,keyboard-interactive"),
    ("any password by SSH", "guesses", "1 of 3 let in"),
    ("refusal without PAM's delay", "known-user-secs", "2.1 0.4 2.0"),
    ("unknown users refused sooner", "unknown-user-secs", "0.3 0.3 0.3"),
    ("unknown users refused sooner", "unknown-user-secs", ""),
    ("open ports", "wire", json.dumps({**WIRE, "ports": [22, 23, 2375]})),
    ("closed TCP port", "wire", json.dumps({**WIRE, "closed": "silent"})),
    ("closed UDP port", "wire", json.dumps({**WIRE, "closed_udp": "silent"})),
    ("version scan", "scan", "22/tcp open  ssh     syn-ack ttl 64 (protocol 2.0)"),
    ("SYN-ACK: options, window, TTL, DF", "wire", json.dumps({**WIRE, "syn_ack": {"ttl": 128}})),
    ("reset of a closed port", "wire", json.dumps({**WIRE, "reset": "none"})),
    ("ping", "wire", json.dumps({**WIRE, "ping": "silent"})),
    ("ARP", "neighbour", "10.77.1.130 dev eth0 lladdr 02:42:0a:4d:01:82 REACHABLE"),
    ("telnet options", "wire", json.dumps({**WIRE, "telnet_options": "fffb01"})),
    ("telnet prompt", "wire", json.dumps({**WIRE, "telnet_text": "login: "})),
    ("any password by telnet", "telnet-guess", "root@db-2:~# "),
    ("MAC of no maker or of the address", "mac", "02:42:0a:4d:01:82"),
    ("MAC of no maker or of the address", "mac", "00:16:3e:4d:01:82"),
    ("silent on the LAN", "wire", json.dumps({**WIRE, "broadcasts": 0})),
    ("host name", "hostname", "3f2a9c01b7de"),
    ("/.dockerenv", "root-folder", ".dockerenv bin boot"),
    ("environment", "environment", "container=docker"),
    ("init's environment", "init-environment", "DECNET_SEED=1"),
    ("PID 1", "init", "sshd\n/usr/sbin/sshd -D \n/usr/sbin/sshd"),
    ("PID 1 holds a pipe", "init-descriptors", "l-wx------ 1 root root 64 Nov 24 09:15 1 -> pipe:[18918480]"),
    ("syslog and servers run", "processes", "1 0 /usr/sbin/sshd -D"),
    ("cron runs", "processes", "1 0 /usr/sbin/sshd -D"),
    ("services by their scripts", "services", "sshd is running.\ncron is not running ... failed!"),
    ("processes without a parent", "processes", "1 0 init [2]\n80 0 /usr/bin/watcher"),
    ("product words in processes", "process-texts", "/opt/decnet/tap"),
    ("product words in mounts", "mounts", "31 30 8:1 /var/lib/decnet/x /x rw - ext4 /dev/sda1 rw"),
    ("product words in files", "words-in-files", "/etc/boot.d/site"),
    ("product words in names", "words-in-names", "/var/lib/decnet"),
    ("cgroup names the engine", "cgroup", "0::/docker/3f2a"),
    ("resource limits", "limits", "files 1048576 1048576\ncore unlimited\n"),
    ("no new privileges", "no-new-privileges", "NoNewPrivs:\t1"),
    ("changed package files", "packages", "??5??????   /usr/sbin/sshd"),
    ("few packages", "package-count", "104"),
    ("machine-id", "machine-id", OTHER["machine-id"]),
    ("hosts file", "hosts", "10.77.1.130\tdb-2"),
    ("resolver", "resolver", "nameserver 127.0.0.11\noptions ndots:0"),
    ("resolver", "resolver", ""),
    ("su", "su", "Password: su: Authentication failure\ncode 1"),
    ("sudo", "sudo", "sudo:x:27:"),
    ("ping by users", "ping-inside", "ping: socket: Operation not permitted"),
    ("missing tools", "tools", "sudo"),
    ("python, perl and arithmetic", "python", "42\n42\n$((7*6))"),
    ("programs run from /tmp", "elf", "bash: /tmp/.e: Permission denied"),
    ("empty histories", "histories", "0"),
    ("no people", "people", "anna"),
    ("the same people", "people", OTHER["people"]),
    ("files all of one date", "etc-dates", "    900 2024-01-01\n" + DATES),
    ("nobody logged in before", "logins", "0"),
    ("init younger than the machine", "age-of-init", "12 90000"),
    ("watchers of files", "inotify", "watcher"),
    ("preloaded libraries", "preload", "/etc/ld.so.preload"),
    ("pages of probes in a process", "probe-pages", "7ffffffff000-8000 --xp 00000000 00:00 0 [uprobes]"),
    ("processes that are traced", "traced", "TracerPid:\t0\nTracerPid:\t7"),
    ("named pipes", "named-pipes", "/run/initctl\n/var/tmp/.log"),
    ("listeners", "listeners", "tcp 0.0.0.0:8765"),
    ("errors on the way out", "egress", "PermissionError: [Errno 1] Operation not permitted"),
    ("errors on the way out", "egress", ""),
    ("no default route", "route", "10.77.1.0/24 dev eth0"),
    ("host's folders mounted", "writable-mounts", "/var/log/capture"),
    ("logs sent elsewhere", "log-route", "*.* @@10.0.0.1:514"),
    ("deleted programs running", "deleted-files", "1"),
    ("hashes of a kind that Debian does not make", "password-file", "$6$ *"),
    ("server configured to record", "sshd-config", "usepam yes\nforcecommand /usr/bin/record"),
    ("server without PAM", "sshd-config", "usepam no"),
    ("shell and servers of the package", "shells", "/usr/bin/record\n0123 /bin/bash"),
]


def judged(name: str, seen: dict[str, str]) -> Verdict:
    return verdict(BY_NAME[name], seen, OTHER, CONTROL)


@pytest.mark.parametrize(("name", "probe", "shown"), PLANTED)
def test_a_planted_tell_is_seen(name: str, probe: str, shown: str) -> None:
    if probe in DECKY:
        assert judged(name, DECKY) == Verdict("pass", "")
    found = judged(name, {**DECKY, probe: shown})
    assert found.word == BY_NAME[name].weight, name
    assert found.why


def test_most_judges_are_tried() -> None:
    assert len({name for name, _, _ in PLANTED}) >= 65
