"""What is looked for from a root shell: shell probes by name, each of which writes what a judge reads.

They run one after the other in one session, each in a subshell of its own without input, and with its errors among what
it writes: what is forbidden tells as much as what is there.
"""

from __future__ import annotations

PRODUCT_WORDS = "decnet|decky|deckies|honeypot|honeynet"


def _unlike_itself(words: str) -> str:
    """Write a pattern that does not match its own text, which stands in the command line of what looks for it."""
    return "|".join(f"[{word[0]}]{word[1:]}" for word in words.split("|"))


SHELL_PROBES = {
    "hostname": "hostname; cat /etc/hostname; cat /proc/sys/kernel/hostname",
    "root-folder": "ls -A / | tr '\\n' ' '",
    "environment": "env",
    "init-environment": "tr '\\0' '\\n' < /proc/1/environ",
    "init": "cat /proc/1/comm; tr '\\0' ' ' < /proc/1/cmdline; echo; readlink /proc/1/exe",
    "init-tty": "ps -o tty= -p 1",
    "processes": "ps -eo pid=,ppid=,args= --sort=pid",
    "process-texts": f"cat /proc/[0-9]*/{{cmdline,environ,comm,maps}} 2>/dev/null | tr '\\0' '\\n' | grep -v ^grep"
    f" | grep -iE '{_unlike_itself(PRODUCT_WORDS)}' | head -3",
    "mounts": "cat /proc/self/mountinfo",
    "cgroup": "cat /proc/1/cgroup",
    "capabilities": "grep Cap /proc/1/status",
    "no-new-privileges": "grep NoNewPrivs /proc/self/status",
    "seccomp": "grep ^Seccomp: /proc/1/status",
    "words-in-files": f"grep -rliE '{PRODUCT_WORDS}' / --exclude-dir={{proc,sys,dev}} 2>/dev/null | while read -r f; do"
    ' dpkg -S "$f" >/dev/null 2>&1 || dpkg -S "${f#/usr}" >/dev/null 2>&1 || echo "$f"; done',
    "words-in-names": f"find / -xdev -regextype posix-extended -iregex '.*({PRODUCT_WORDS}).*' | sort",
    "packages": "dpkg -V",
    "package-count": "dpkg-query -f '.\\n' -W | wc -l",
    "package-version": "dpkg-query -f '${Version}' -W openssh-server",
    "installed": "dpkg-query -f '${Package} ' -W",
    "machine-id": "cat /etc/machine-id",
    "host-keys": "cat /etc/ssh/ssh_host_*_key.pub | cut -d' ' -f2; ls /etc/ssh/ssh_host_*_key",
    "hosts": "cat /etc/hosts",
    "resolver": "cat /etc/resolv.conf",
    "fstab": "cat /etc/fstab",
    "su": "echo toor | setpriv --reuid 65534 --clear-groups su -c id root; echo code $?",
    "sudo": "getent group sudo",
    "ping-inside": "setpriv --reuid 65534 --regid 65534 --clear-groups ping -c1 -W5 127.0.0.1 | grep 'packet loss'",
    "tools": "for t in nmap curl wget python3 perl ip ps ss nano vi less sudo crontab screen rsync lsof; do"
    " command -v $t >/dev/null || echo $t; done",
    "python": "python3 -c 'print(6*7)'; perl -e 'print 6*7, \"\\n\"'; echo $((7*6))",
    "elf": "cp /bin/echo /tmp/.e && /tmp/.e ran; rm -f /tmp/.e; cp /bin/echo /dev/shm/e; rm -f /dev/shm/e",
    "histories": "cat /root/.bash_history /home/*/.bash_history | wc -l",
    "people": "awk -F: '$3>=1000 && $3<60000 {print $1}' /etc/passwd",
    "etc-dates": "find /etc /root /home /srv /opt -xdev -printf '%TY-%Tm-%Td\\n' | sort | uniq -c | sort -rn",
    "package-dates": "find /var/lib/dpkg/info -name '*.list' -printf '%TY-%Tm-%Td\\n' | sort -u | wc -l",
    "logins": "last | grep -c pts",
    "time-zone": "cat /etc/timezone; readlink -e /etc/localtime",
    "age-of-init": "echo $(ps -o etimes= -p 1) $(cut -d. -f1 /proc/uptime)",
    "boot-id": "cat /proc/sys/kernel/random/boot_id",
    "inotify": "grep -lE 'inotify|fanotify' /proc/[0-9]*/fdinfo/* 2>/dev/null | cut -d/ -f3 | sort -u |"
    " while read p; do cat /proc/$p/comm; done",
    "preload": "ls /etc/ld.so.preload 2>/dev/null; grep -l LD_PRELOAD /proc/[0-9]*/environ 2>/dev/null",
    "named-pipes": "find / -type p -not -path '/proc/*' 2>/dev/null",
    "listeners": "ss -Htuln | awk '{print $1, $5}' | sort -u",
    "writable-mounts": "awk '$3 !~ /^(proc|sysfs|tmpfs|devpts|mqueue|cgroup2?|overlay)$/ {print $2}' /proc/mounts",
    "log-route": "grep -rhv '^#' /etc/rsyslog.conf /etc/rsyslog.d | grep -iE '@|omfwd|omprog|relp' ",
    "logs": "ls /var/log; head -c 300 /var/log/auth.log",
    "kernel": "uname -r; cat /etc/debian_version",
    "interface": "ip -br link | grep -v ^lo",
    "disk": "ls /dev/sd? /dev/vd? /dev/nvme?n? 2>/dev/null; true",
    "cron": "crontab -l -u root 2>/dev/null; ls /etc/cron.d",
    "deleted-files": "ls -l /proc/[0-9]*/exe 2>/dev/null | grep -c deleted; true",
    "password-file": "awk -F: '{print substr($2,1,3)}' /etc/shadow | sort -u | tr '\\n' ' '",
    "sshd-config": "sshd -T 2>/dev/null | grep -iE 'forcecommand|authorizedkeyscommand |permitemptypasswords|usepam'",
    "shells": "getent passwd root | cut -d: -f7; md5sum /bin/bash /bin/login /usr/sbin/sshd",
    "limits": "echo files $(ulimit -Sn) $(ulimit -Hn); echo core $(ulimit -Sc); grep '^Max processes' /proc/1/limits",
    "egress": "ping -c1 -W2 STRANGER; python3 -c 'import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
    ' print(s.sendto(b"x", ("STRANGER", 53)))\'; ping -c1 -W2 STRANGER',
    "route": "ip -4 route",
    "ipv6": "cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6",
    "namespaces": "readlink /proc/1/ns/pid",
    "kernel-threads": "cat /proc/2/comm",
    "devices": "ls /dev/kmsg /dev/tty1 /dev/loop-control /dev/mem",
    "kernel-log": "dmesg | tail -1",
    "cgroup-limits": "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max /sys/fs/cgroup/memory/memory.limit_in_bytes"
    " 2>/dev/null",
    "security-profile": "cat /proc/1/attr/current 2>/dev/null | tr -d '\\0'; true",
    "probe-pages": "grep -hE 'uprobe|bpf' /proc/[0-9]*/maps 2>/dev/null | head -3",
    "traced": "grep -h TracerPid /proc/[0-9]*/status | sort -u",
    "services": "service ssh status; service cron status; service rsyslog status",
    "programs": "readlink /proc/[0-9]*/exe | sort -u",
    "let-in": "awk -F: '$2 !~ /^[!*]/ {print $1}' /etc/shadow",
    "init-descriptors": "ls -l /proc/1/fd",
}
"""STRANGER stands for an address on the LAN that the machine has no business with."""
