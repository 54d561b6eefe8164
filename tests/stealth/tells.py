"""What gives a decoy away: each tell with how it is looked for and what is judged.

A judge gets what was seen of the machine, and answers `None` where nothing tells, else what does. Its `weight` says
what that is worth: a `fail` is proof of a decoy or a container, a `soft` tell is one that ordinary machines have, too.
`kept` names a tell that the engine or the kernel forces on every container: it stays, and docs/threat-model.md says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.stealth.probes import PRODUCT_WORDS

Seen = Mapping[str, str]
Judge = Callable[[Seen, Seen, Seen], str | None]
"""What was seen of this decky, of another one, and of the control."""


@dataclass(frozen=True)
class Tell:
    """One tell.

    Attributes:
        kept: it is not ours to avoid; the word by which the threat model names it.
    """

    name: str
    judge: Judge
    weight: str = "fail"
    kept: str = ""


@dataclass(frozen=True)
class Verdict:
    """What a tell is worth on a machine: pass, soft or fail, and why it does not pass."""

    word: str
    why: str


def _none(name: str) -> Judge:
    def judge(seen: Seen, _other: Seen, _control: Seen) -> str | None:
        return seen[name][:80] or None

    return judge


def _without(name: str, pattern: str, *, may_be_empty: bool = False) -> Judge:
    def judge(seen: Seen, _other: Seen, _control: Seen) -> str | None:
        if not seen[name] and not may_be_empty:
            return "nothing was seen"
        found = re.search(pattern, seen[name], re.IGNORECASE | re.MULTILINE)
        return None if found is None else found.group(0)[:80]

    return judge


def _with(name: str, pattern: str) -> Judge:
    def judge(seen: Seen, _other: Seen, _control: Seen) -> str | None:
        return None if re.search(pattern, seen[name], re.MULTILINE) else f"no {pattern}: {seen[name][:60]!r}"

    return judge


def _at_least(name: str, least: int) -> Judge:
    def judge(seen: Seen, _other: Seen, _control: Seen) -> str | None:
        return None if seen[name].isdigit() and int(seen[name]) >= least else f"{seen[name][:20]!r}, less than {least}"

    return judge


def _as_control(name: str) -> Judge:
    def judge(seen: Seen, _other: Seen, control: Seen) -> str | None:
        return None if seen[name] == control[name] else f"{seen[name][:40]!r}, control {control[name][:40]!r}"

    return judge


def _named_pipes(seen: Seen, _other: Seen, _control: Seen) -> str | None:
    # sysvinit's own, and what Debian's script for rsyslog makes
    strange = [path for path in seen["named-pipes"].splitlines() if path not in {"/run/initctl", "/dev/xconsole"}]
    return strange[0] if strange else None


def _listeners(seen: Seen, _other: Seen, _control: Seen) -> str | None:
    expected = r"tcp (0\.0\.0\.0|\[::\]|\*):2[23]|(tcp|udp) 127\.0\.0\.11:\d+"
    strange = [line for line in seen["listeners"].splitlines() if not re.fullmatch(expected, line)]
    return strange[0] if strange else None


def _own(name: str) -> Judge:
    def judge(seen: Seen, other: Seen, _control: Seen) -> str | None:
        return None if seen[name] and seen[name] != other[name] else f"shared: {seen[name][:40]!r}"

    return judge


def _wire(key: str, seen: Seen) -> str:
    return json.dumps(json.loads(seen["wire"])[key], sort_keys=True)


def _wire_as_control(*keys: str) -> Judge:
    def judge(seen: Seen, _other: Seen, control: Seen) -> str | None:
        wrong = [key for key in keys if _wire(key, seen) != _wire(key, control)]
        return None if not wrong else f"{wrong[0]}: {_wire(wrong[0], seen)[:60]}"

    return judge


def _banner(seen: Seen, _other: Seen, _control: Seen) -> str | None:
    banner, version = json.loads(seen["wire"])["banner"].strip(), seen["package-version"]
    upstream, _, revision = version.removeprefix("1:").rpartition("-")
    return None if banner == f"SSH-2.0-OpenSSH_{upstream} Debian-{revision}" else f"{banner} for {version}"


def _ports(seen: Seen, _other: Seen, _control: Seen) -> str | None:
    ports = json.loads(seen["wire"])["ports"]
    return None if ports == [22, 23] else f"open: {ports}"


def _prompt(seen: Seen, _other: Seen, _control: Seen) -> str | None:
    text, host = json.loads(seen["wire"])["telnet_text"], seen["hostname"].split()[0]
    return None if text.endswith(f"\n{host} login: ") else text[-40:]


def _mac(seen: Seen, other: Seen, _control: Seen) -> str | None:
    if int(seen["mac"][:2], 16) & 2:
        return f"{seen['mac']} belongs to no maker"
    octets = "".join(f"{int(part):02x}" for part in seen["address"].split("."))
    if octets[-6:] in seen["mac"].replace(":", "") or seen["mac"] == other["mac"]:
        return f"{seen['mac']} follows from the address"
    return None


def _arp(seen: Seen, _other: Seen, _control: Seen) -> str | None:
    told = re.findall(r"lladdr ([0-9a-f:]{17})", seen["neighbour"])
    return None if told == [seen["mac"]] else f"{told} for {seen['mac']}"


def _silent(seen: Seen, _other: Seen, _control: Seen) -> str | None:
    return None if json.loads(seen["wire"])["broadcasts"] else "no frame of its own accord"


def _pam_delay(*names: str) -> Judge:
    """Hold each refusal against pam_unix: it waits two seconds, give or take half of one, whoever asks."""

    def judge(seen: Seen, _other: Seen, _control: Seen) -> str | None:
        secs = [float(word) for name in names for word in seen[name].split()]
        return None if len(secs) == len(names) * 3 and min(secs) > 1.2 else f"seconds: {secs}"

    return judge


def _orphans(seen: Seen, _other: Seen, _control: Seen) -> str | None:
    rows = [line.split(None, 2) for line in seen["processes"].splitlines()]
    pids = {row[0] for row in rows}
    strays = [row[2] for row in rows if row[1] not in pids and row[0] != "1"]
    return strays[0] if strays else None


def _etc_dates(seen: Seen, _other: Seen, _control: Seen) -> str | None:
    counts = [int(line.split()[0]) for line in seen["etc-dates"].splitlines()]
    if len(counts) < 20:
        return f"{len(counts)} days"
    return None if counts[0] < 0.8 * sum(counts) else "most of it is of one day"


def _young_init(seen: Seen, _other: Seen, _control: Seen) -> str | None:
    init, machine = map(int, seen["age-of-init"].split())
    return None if machine - init < 120 else "init is younger than the machine"


def _people(seen: Seen, _other: Seen, _control: Seen) -> str | None:
    return None if len(seen["people"].split()) >= 2 else seen["people"] or "nobody"


def _python(seen: Seen, _other: Seen, _control: Seen) -> str | None:
    return None if seen["python"].split() == ["42"] * 3 else seen["python"][:60]


OUTSIDE: tuple[Tell, ...] = (
    Tell("banner against package", _banner),
    Tell("key exchange methods", _wire_as_control("kex")),
    Tell("host key algorithms", _wire_as_control("host_keys")),
    Tell("ciphers", _wire_as_control("ciphers_in", "ciphers_out")),
    Tell("MACs and compression", _wire_as_control("macs_in", "macs_out", "compression_in", "compression_out")),
    Tell("HASSH of the server", _wire_as_control("hassh")),
    Tell("answers to malformed greetings", _wire_as_control("greetings")),
    Tell("host keys shared", _own("host-keys")),
    Tell("login methods offered", _with("methods", r"^publickey,password$")),
    Tell("any password by SSH", _with("guesses", r"^0 of 3 let in$")),
    Tell("refusal without PAM's delay", _pam_delay("known-user-secs")),
    Tell("unknown users refused sooner", _pam_delay("unknown-user-secs")),
    Tell("open ports", _ports),
    Tell("closed TCP port", _wire_as_control("closed")),
    Tell("closed UDP port", _wire_as_control("closed_udp")),
    Tell("version scan", _with("scan", r"22/tcp open +ssh +syn-ack ttl \d+ OpenSSH 9\.2p1 Debian")),
    Tell("SYN-ACK: options, window, TTL, DF", _wire_as_control("syn_ack")),
    Tell("reset of a closed port", _wire_as_control("reset")),
    Tell("ping", _wire_as_control("ping")),
    Tell("large ping", _wire_as_control("large_ping"), "soft", "fragments"),
    Tell("ARP", _arp),
    Tell("telnet options", _wire_as_control("telnet_options")),
    Tell("telnet prompt", _prompt),
    Tell("any password by telnet", _with("telnet-guess", r"Login incorrect")),
    Tell("MAC of no maker or of the address", _mac),
    Tell("silent on the LAN", _silent, "soft", "silence"),
)
INSIDE: tuple[Tell, ...] = (
    Tell("host name", _without("hostname", r"^[0-9a-f]{12}$")),
    Tell("/.dockerenv", _without("root-folder", r"\.dockerenv|\.containerenv")),
    Tell("environment", _without("environment", rf"container|docker|{PRODUCT_WORDS}")),
    Tell("init's environment", _without("init-environment", rf"container=|docker|{PRODUCT_WORDS}")),
    Tell("HOSTNAME in init's environment", _without("init-environment", r"^HOSTNAME="), "soft", "init-environment"),
    Tell("PID 1", _with("init", r"^init\ninit \[2\]\s*\n/usr/sbin/init$")),
    Tell("PID 1 on a terminal", _without("init-tty", r"pts"), "soft", "init-tty"),
    Tell("PID 1 holds a pipe", _without("init-descriptors", r"-> (pipe|socket):.*|denied")),
    Tell("syslog and servers run", _with("processes", r"(?s)rsyslogd.*sshd|sshd.*rsyslogd")),
    Tell("cron runs", _with("processes", r"/usr/sbin/cron")),
    Tell("services by their scripts", _with("services", r"(?s)sshd is running.*cron is running.*rsyslogd is running")),
    Tell("processes without a parent", _orphans),
    Tell("no kernel threads", _with("kernel-threads", r"^kthreadd$"), kept="kernel-threads"),
    Tell("product words in processes", _none("process-texts")),
    Tell("product words in mounts", _without("mounts", PRODUCT_WORDS)),
    Tell("product words in files", _none("words-in-files")),
    Tell("product words in names", _none("words-in-names")),
    Tell("overlay as root file system", _without("mounts", r" / / \S+ (\S+ )*- overlay"), kept="overlay"),
    Tell("engine's files mounted", _without("mounts", r"/etc/(resolv\.conf|hosts)"), kept="engine-mounts"),
    Tell("parts of /proc masked", _without("mounts", r" /proc/(kcore|keys|sysrq-trigger) "), kept="masked-proc"),
    Tell("namespace of processes", _with("namespaces", r"^pid:\[4026531836\]$"), kept="namespaces"),
    Tell("cgroup names the engine", _without("cgroup", r"docker|containerd|kubepods")),
    Tell("limits of its cgroup", _without("cgroup-limits", r"^\d+$", may_be_empty=True), "soft", "cgroup-limits"),
    Tell(
        "security profile names the engine",
        _without("security-profile", r"docker", may_be_empty=True),
        "fail",
        "profile",
    ),
    Tell("resource limits", _with("limits", r"^files 1024 4096\ncore 0\n")),
    Tell("capabilities missing", _with("capabilities", r"CapBnd:\s0*1ffffffffff$"), "soft", "capabilities"),
    Tell("no new privileges", _without("no-new-privileges", r"1$")),
    Tell("system call filter", _without("seccomp", r"[12]$"), "soft", "seccomp"),
    Tell("changed package files", _without("packages", r"^(?!.{9}\s+c ).+$", may_be_empty=True)),
    Tell("few packages", _at_least("package-count", 150)),
    Tell("packages of its services", _with("installed", r"openssh-server .*telnetd|telnetd .*openssh-server")),
    Tell("machine-id", _own("machine-id")),
    Tell("hosts file", _with("hosts", r"^127\.0\.1\.1\t")),
    Tell("resolver", _without("resolver", r"127\.0\.0\.11|ndots|docker")),
    Tell("unconfigured fstab", _without("fstab", r"UNCONFIGURED", may_be_empty=True)),
    Tell("su", _with("su", r"uid=0\(root\)[^\n]*\n(.*\n)*code 0$")),
    Tell("sudo", _with("sudo", r"^sudo:x:27:\S+$")),
    Tell("ping by users", _with("ping-inside", r" 0% packet loss")),
    Tell("missing tools", _none("tools")),
    Tell("python, perl and arithmetic", _python),
    Tell("programs run from /tmp", _with("elf", r"^ran$")),
    Tell("empty histories", _at_least("histories", 20)),
    Tell("no people", _people),
    Tell("the same people", _own("people")),
    Tell("files all of one date", _etc_dates),
    Tell("packages all of one date", _at_least("package-dates", 20)),
    Tell("nobody logged in before", _at_least("logins", 2)),
    Tell("time zone", _with("time-zone", r"^/usr/share/zoneinfo/")),
    Tell("init younger than the machine", _young_init, "soft", "uptime"),
    Tell("boot id shared", _own("boot-id"), "soft", "boot-id"),
    Tell("watchers of files", _none("inotify")),
    Tell("preloaded libraries", _none("preload")),
    Tell("pages of probes in a process", _none("probe-pages")),
    Tell("processes that are traced", _with("traced", r"^TracerPid:\t0$(?!\n)")),
    Tell("named pipes", _named_pipes),
    Tell("listeners", _listeners),
    Tell("engine's resolver listens", _without("listeners", r"127\.0\.0\.11:\d+"), kept="engine-resolver"),
    Tell("errors on the way out", _without("egress", r"not permitted|No buffer space|[Uu]nreachable|Error")),
    Tell("no default route", _with("route", r"^default via ")),
    Tell("no IPv6", _with("ipv6", r"^0$"), "soft", "ipv6"),
    Tell("host's folders mounted", _without("writable-mounts", r"^(?!/etc/(hosts|hostname|resolv\.conf)$).+$")),
    Tell("logs sent elsewhere", _none("log-route")),
    Tell("own logs", _with("logs", r"auth\.log")),
    Tell("kernel's log denied", _without("kernel-log", r"not permitted", may_be_empty=True), "soft", "kernel-log"),
    Tell("kernel of another distribution", _with("kernel", r"-(cloud-)?amd64|deb1"), "soft", "kernel"),
    Tell("interface of a container", _without("interface", r"@if"), "soft", "interface"),
    Tell("no disk", _with("disk", r"^/dev/"), "soft", "disk"),
    Tell("devices missing", _without("devices", r"cannot access|No such"), "soft", "devices"),
    Tell("no cron jobs", _with("cron", r"^e2scrub_all$")),
    Tell("deleted programs running", _with("deleted-files", r"^0$")),
    Tell("hashes of a kind that Debian does not make", _without("password-file", r"\$[0-9a-x]")),
    Tell("server configured to record", _without("sshd-config", r"(forcecommand|authorizedkeyscommand) (?!none)")),
    Tell("server without PAM", _with("sshd-config", r"^usepam yes$")),
    Tell("shell and servers of the package", _as_control("shells")),
)
TELLS = (*OUTSIDE, *INSIDE)


def verdict(tell: Tell, seen: Seen, other: Seen, control: Seen) -> Verdict:
    """Judge one tell of one machine, beside another decky and the control."""
    why = tell.judge(seen, other, control)
    return Verdict("pass", "") if why is None else Verdict(tell.weight, why.replace("\n", " "))
