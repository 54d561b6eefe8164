"""rsyslog and syslog-ng as `scripts/setup peers` unpacked them, as private processes.

Each has a folder and a config of its own, runs in the foreground, and has no /dev/log and no state outside its folder.
A sender tails a file; a receiver appends what arrives, byte for byte, to a file. Both sides of a TLS link hold a
certificate and demand one.

`Link` says what a pair speaks; a sender that holds the files of one of our identities speaks to our listener as well.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from decnet_core.identity import MASTER_HOST
from decnet_core.pki.tls import IdentityFiles
from tests.lab.processes import Daemon
from tests.lab.slots import MissingPart, cache_folder

_RELP_WINDOW = 1024  # messages unacknowledged; its default of 128 would only measure round trips
_MESSAGE_BYTES = 64 << 10  # the longest message, as our listener has it


class Link(StrEnum):
    """What a pair speaks, and with which TLS library."""

    RSYSLOG_GNUTLS = "rsyslog-gnutls"
    RSYSLOG_OPENSSL = "rsyslog-openssl"
    RSYSLOG_RELP = "rsyslog-relp"
    SYSLOG_NG = "syslog-ng"

    @property
    def package(self) -> str:
        """The Debian package that brings it."""
        return "syslog-ng-core" if self is Link.SYSLOG_NG else self.value


@dataclass(frozen=True, slots=True)
class Peer:
    """One end of a link.

    Attributes:
        link: what it speaks.
        folder: its own, made if missing.
        files: its identity; the CA in it is whom it trusts.
        port: of 127.0.0.1, where the receiver listens.
    """

    link: Link
    folder: Path
    files: IdentityFiles
    port: int

    def sender(self, log_path: Path, *, host: str | None = None) -> Daemon:
        """Make the end that ships the lines of a file.

        Args:
            log_path: the file it follows from its beginning.
            host: None ships each line as it stands there, for a log that holds RFC 5424 (but not syslog-ng, which
                words every message itself); otherwise each line is the text of a message that claims this host.
        """
        if self.link is Link.SYSLOG_NG:
            return self._syslog_ng(_SYSLOG_NG_SENDER, host=host, log_path=log_path)
        return self._rsyslogd(_rsyslog_sender(self, log_path, host))

    def receiver(self, output: Path) -> Daemon:
        """Make the end that appends what arrives to a file, each message a line."""
        if self.link is Link.SYSLOG_NG:
            return self._syslog_ng(_SYSLOG_NG_RECEIVER, host=None, output=output)
        return self._rsyslogd(_rsyslog_receiver(self, output))

    def _rsyslogd(self, config: str) -> Daemon:
        program, libraries = _unpacked("usr/sbin/rsyslogd", self.link), _libraries(self.link)
        argv = [str(program), "-n", "-iNONE", "-M", str(libraries / "rsyslog"), "-f", str(self._config(config))]
        return Daemon(argv, log_path=self.folder / "output", env={"LD_LIBRARY_PATH": str(libraries)})

    def _syslog_ng(self, template: str, *, host: str | None, **paths: Path) -> Daemon:
        program, modules = _unpacked("usr/sbin/syslog-ng", self.link), _unpacked("usr/lib/syslog-ng", self.link)
        values = {"files": self.files, "port": self.port, "host": host or "localhost", "bytes": _MESSAGE_BYTES, **paths}
        config = self._config(template.format(**values))
        argv = [str(program), "-F", "-f", str(config), "--module-path", str(next(modules.glob("[0-9]*")))]
        own = {"--persist-file": "persist", "--control": "control", "--pidfile": "pid"}
        argv += [f"{option}={self.folder / name}" for option, name in own.items()]
        env = {"LD_LIBRARY_PATH": f"{_libraries(self.link)}:{modules}"}
        return Daemon([*argv, "--no-caps", "--stderr"], log_path=self.folder / "output", env=env)

    def _config(self, text: str) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "config"
        path.write_text(text)
        return path


def _unpacked(name: str, link: Link) -> Path:
    """Find what the packages brought.

    Raises:
        MissingPart: they are not unpacked.
    """
    path = cache_folder() / "peers" / name
    if not (cache_folder() / "peers" / "complete").exists() or not path.exists():
        raise MissingPart(
            f"Debian's package {link.package} is not unpacked for the lab",
            "Run as root: scripts/setup peers",
        )
    return path


def _libraries(link: Link) -> Path:
    return _unpacked("usr/lib", link) / f"{os.uname().machine}-linux-gnu"


def _rsyslog_global(peer: Peer) -> str:
    driver = "ossl" if peer.link is Link.RSYSLOG_OPENSSL else "gtls"
    return f"""
global(workDirectory="{peer.folder}" maxMessageSize="{_MESSAGE_BYTES}" defaultNetstreamDriver="{driver}"
  defaultNetstreamDriverCAFile="{peer.files.ca}" defaultNetstreamDriverCertFile="{peer.files.certificate}"
  defaultNetstreamDriverKeyFile="{peer.files.key}")
main_queue(queue.type="FixedArray" queue.size="50000" queue.dequeueBatchSize="4096")
"""


def _relp_tls(peer: Peer) -> str:
    return f"""tls="on" tls.caCert="{peer.files.ca}" tls.myCert="{peer.files.certificate}"
  tls.myPrivKey="{peer.files.key}" """


def _rsyslog_sender(peer: Peer, log_path: Path, host: str | None) -> str:
    wording = "%msg%" if host is None else f"<13>1 %timereported:::date-rfc3339% {host} app - - - %msg%"
    if peer.link is Link.RSYSLOG_RELP:
        action = f"""module(load="omrelp")
action(type="omrelp" target="127.0.0.1" port="{peer.port}" windowSize="{_RELP_WINDOW}" template="wording"
  {_relp_tls(peer)} tls.authMode="name" tls.permittedPeer=["{MASTER_HOST}"]"""
    else:
        action = f"""action(type="omfwd" target="127.0.0.1" port="{peer.port}" protocol="tcp" template="wording"
  TCP_Framing="octet-counted" streamDriverMode="1"
  streamDriverAuthMode="x509/name" streamDriverPermittedPeers="{MASTER_HOST}" """
    return f"""{_rsyslog_global(peer)}
module(load="imfile")
template(name="wording" type="string" string="{wording}")
input(type="imfile" file="{log_path}" tag="app")
{action} action.resumeRetryCount="-1" action.resumeInterval="1")
"""


def _rsyslog_receiver(peer: Peer, output: Path) -> str:
    if peer.link is Link.RSYSLOG_RELP:
        source = f"""module(load="imrelp")
input(type="imrelp" address="127.0.0.1" port="{peer.port}" maxDataSize="{_MESSAGE_BYTES}"
  {_relp_tls(peer)} tls.authMode="certvalid")"""
    else:
        source = f"""module(load="imtcp" streamDriver.mode="1" streamDriver.authMode="x509/certvalid")
input(type="imtcp" address="127.0.0.1" port="{peer.port}")"""
    return f"""{_rsyslog_global(peer)}
template(name="raw" type="string" string="%rawmsg%\\n")
{source}
action(type="omfile" file="{output}" template="raw" ioBufferSize="256k")
"""


_SYSLOG_NG_SENDER = """@version: 3.35
options {{ stats-freq(0); log-msg-size({bytes}); use-dns(no); keep-hostname(yes); time-reopen(1); }};
source events {{ file("{log_path}" flags(no-parse) follow-freq(0.1) log-iw-size(10000) log-fetch-limit(1000)); }};
rewrite host {{ set("{host}" value("HOST")); }};
destination master {{ syslog("127.0.0.1" port({port}) transport("tls") flush-lines(1000) log-fifo-size(100000)
  tls(ca-file("{files.ca}") cert-file("{files.certificate}") key-file("{files.key}")
    peer-verify(required-trusted))); }};
log {{ source(events); rewrite(host); destination(master); flags(flow-control); }};
"""

_SYSLOG_NG_RECEIVER = """@version: 3.35
options {{ stats-freq(0); log-msg-size({bytes}); use-dns(no); }};
source senders {{ syslog(ip("127.0.0.1") port({port}) transport("tls") log-iw-size(10000) log-fetch-limit(1000)
  flags(store-raw-message)
  tls(ca-file("{files.ca}") cert-file("{files.certificate}") key-file("{files.key}")
    peer-verify(required-trusted))); }};
destination output {{ file("{output}" template("$RAWMSG\\n") flush-lines(1000) log-fifo-size(100000)); }};
log {{ source(senders); destination(output); flags(flow-control); }};
"""
