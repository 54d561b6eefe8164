"""What all machines of one LAN share, and the files that say so: addresses, names, the time zone.

The engine mounts its own /etc/hosts and /etc/resolv.conf over a container's, and both say what made them; it leaves an
empty file in the root folder as well. None of that can be asked of it otherwise. So the machine puts it right while it
boots, as many an administrator's own script does where an address server keeps overwriting what he has set: Debian's
rc.local runs what lies in /etc/boot.d.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from decnet_agent.furnishing import persona_words as words

BOOT_SCRIPT = "etc/boot.d/site"

_ZONES = Path("/usr/share/zoneinfo")
_UTC = "Etc/UTC"


@dataclass(frozen=True, slots=True)
class Site:
    """One decky's place on its LAN.

    Attributes:
        zone: name of the site's time zone, as the worker has it.
    """

    address: IPv4Address
    subnet: IPv4Network
    gateway: IPv4Address | None
    zone: str = _UTC

    @property
    def domain(self) -> str:
        """The LAN's domain, the same for all its machines."""
        digest = blake2b(str(self.subnet).encode(), digest_size=2).digest()
        return words.DOMAINS[int.from_bytes(digest, "big") % len(words.DOMAINS)]

    @property
    def name_server(self) -> IPv4Address:
        """Where names are asked for: the router, or what would be it."""
        return self.gateway or self.subnet[1]


def local_zone(path: Path = Path("/etc/localtime")) -> str:
    """Tell this machine's time zone; UTC where it has none of Debian's."""
    try:
        target = path.readlink()
    except OSError:
        return _UTC
    whole = (path.parent / target).as_posix()
    _, found, name = whole.partition(f"{_ZONES}/")
    return name if found and all(part.replace("_", "").isalnum() for part in name.split("/")) else _UTC


def site_files(host: str, site: Site) -> dict[str, str]:
    """Return the files that tell a machine where it stands, by path."""
    router = f"\tgateway {site.gateway}\n" if site.gateway is not None else ""
    return {
        "etc/network/interfaces": _INTERFACES.format(
            address=f"{site.address}/{site.subnet.prefixlen}",
            router=router,
            name_server=site.name_server,
            domain=site.domain,
        ),
        "etc/network/hosts": _HOSTS.format(host=host, domain=site.domain),
        "etc/network/resolv.conf": f"search {site.domain}\nnameserver {site.name_server}\n",
        "etc/fstab": _FSTAB,
        BOOT_SCRIPT: _BOOT,
    }


_INTERFACES = """\
# This file describes the network interfaces available on your system
# and how to activate them. For more information, see interfaces(5).

source /etc/network/interfaces.d/*

# The loopback network interface
auto lo
iface lo inet loopback

# The primary network interface
allow-hotplug eth0
iface eth0 inet static
\taddress {address}
{router}\tdns-nameservers {name_server}
\tdns-search {domain}
"""

_HOSTS = """\
127.0.0.1\tlocalhost
127.0.1.1\t{host}.{domain}\t{host}

# The following lines are desirable for IPv6 capable hosts
::1     localhost ip6-localhost ip6-loopback
ff02::1 ip6-allnodes
ff02::2 ip6-allrouters
"""

_FSTAB = """\
# /etc/fstab: static file system information.
#
# <file system> <mount point>   <type>  <options>       <dump>  <pass>
/dev/vda1       /               ext4    errors=remount-ro 0       1
/dev/sr0        /media/cdrom0   udf,iso9660 user,noauto     0       0
"""

_BOOT = """\
#!/bin/sh
# dhcp keeps overwriting these, we are static now
cat /etc/network/hosts > /etc/hosts
cat /etc/network/resolv.conf > /etc/resolv.conf
# what the template leaves behind
find / -maxdepth 1 -type f -empty -delete
"""
