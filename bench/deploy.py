"""How soon a worker is there, and how soon its deckies answer.

    python bench/deploy.py [--deckies N] [--json]     (as root, after scripts/setup)

One site of real parts: master, worker, Docker engine, a LAN with an attacker on it. Two times are taken. From the
start of `decnet-agent join TOKEN` until the master has asked the started agent how it is and it was well. And from the
start of `decnet-master deploy --count N` until the attacker, who tries port 22 of every address that a decky may get,
reads the first SSH banner, and the last; the image is in the engine already.

The limit is measured beside it: the engine alone, told over its own API to make and start as many containers of the
same image on the same network, one after the other.

The last line printed is one JSON object. Exit codes: 0 measured, 69 a part is missing or something did not answer.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from decnet_core.errors import DecnetError, ExitCode, Unavailable  # noqa: E402
from tests.lab.engine import LabEngine  # noqa: E402 -- the lab lies beside the tests
from tests.lab.image import ensure_images  # noqa: E402
from tests.lab.lan import Lan  # noqa: E402
from tests.lab.site import WORKER, Site  # noqa: E402

NETWORK = "decoy-lan"  # the agent's default
PATIENCE_SECS = 240.0

# Run in the attacker's namespace: tries every address, each in a thread of its own, until as many as wanted have sent a
# banner; one line for each, with the moment on the clock that all processes of this machine share. It is patient, so
# that it takes no processor from what it measures; a connection that waits for an address is there when that comes.
_PROBE = """
import os, socket, sys, threading, time
wanted, addresses = int(sys.argv[1]), sys.argv[2:]
said = threading.Semaphore(0)
def knock(address):
    while True:
        try:
            with socket.create_connection((address, 22), timeout=1) as peer:
                peer.settimeout(5)
                if peer.recv(4) == b"SSH-":
                    break
        except OSError:
            time.sleep(0.25)
    print(time.monotonic(), flush=True)
    said.release()
for address in addresses:
    threading.Thread(target=knock, args=(address,), daemon=True).start()
for _ in range(wanted):
    said.acquire()
os._exit(0)
"""


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--deckies", type=int, default=20, help="default: %(default)s; at most 100")
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON object")
    options = parser.parse_args()
    if not 1 <= options.deckies <= 100:
        parser.error("--deckies must lie between 1 and 100: they share half of a /24")
    say: Callable[[str], None] = (lambda _: None) if options.json else lambda line: print(f"==> {line}", flush=True)
    try:
        with LabEngine() as engine, Lan() as lan, tempfile.TemporaryDirectory(prefix="decnet-deploy-") as folder:
            image = ensure_images(engine, say)
            site = Site(Path(folder), engine.docker_host, lan, progress=say)
            with contextlib.ExitStack() as stack:
                stack.callback(site.stop)
                site.start_master()
                result = {"deckies": options.deckies, **joined(site)}
                result |= deployed(site, options.deckies)
                site.master_cli("teardown", "--yes", "--json")
                result["engine_alone_secs"] = round(started_by_the_engine(engine, image, options.deckies), 2)
    except (DecnetError, subprocess.SubprocessError) as error:
        print(f"error: {getattr(error, 'message', None) or error}", file=sys.stderr)
        return ExitCode.UNAVAILABLE
    result["ratio"] = round(result["last_banner_secs"] / result["engine_alone_secs"], 2)
    print(json.dumps(result))
    return 0


def joined(site: Site) -> dict[str, float]:
    """Join by a token and start the agent; say how long each took from the start of joining."""
    token = json.loads(site.master_cli("swarm", "enroll", WORKER, "--json"))["token"]
    began = time.monotonic()
    site.run("worker", ["decnet-agent", "join", "-"], text=token)
    join_secs = time.monotonic() - began
    site.agent.start()
    site.agent.wait_for_port(site.ports["agent"], timeout_secs=PATIENCE_SECS)
    (seen,) = json.loads(site.attempt("master", ["decnet-master", "swarm", "check", "--json"]).stdout)["results"]
    if not seen["ok"]:
        raise Unavailable(f"The agent does not answer: {seen['error']}")
    active_secs = time.monotonic() - began
    site.wait_for_tap()
    return {"join_secs": round(join_secs, 2), "join_to_active_secs": round(active_secs, 2)}


def deployed(site: Site, count: int) -> dict[str, float]:
    """Deploy, and say how long the command took and when the attacker read the first and the last banner."""
    with banners(site.lan, count) as said:
        began = time.monotonic()
        site.master_cli("deploy", "--count", str(count), "--service", "ssh", "--json")
        command_secs = time.monotonic() - began
        moments = [moment - began for moment in said(PATIENCE_SECS)]
    return {
        "command_secs": round(command_secs, 2),
        "first_banner_secs": round(min(moments), 2),
        "last_banner_secs": round(max(moments), 2),
    }


@contextlib.contextmanager
def banners(lan: Lan, count: int) -> Iterator[Callable[[float], list[float]]]:
    """Let the attacker try every address of the upper half, where deckies are put, until so many have sent a banner.

    What is given waits for them, so many seconds at most, and returns the moments on the monotonic clock; it raises
    Unavailable when some did not come.
    """
    upper_half = list(lan.subnet.subnets(prefixlen_diff=1))[1]
    # All of it that is no end of the whole subnet: the half's own first address is one like any other.
    addresses = [str(address) for address in upper_half if address != lan.subnet.broadcast_address]
    attacker = lan.attacker.popen([sys.executable, "-c", _PROBE, str(count), *addresses])

    def said(secs: float) -> list[float]:
        moments = [float(line) for line in attacker.communicate(timeout=secs)[0].split()]
        if len(moments) != count:
            raise Unavailable(f"{len(moments)} of {count} deckies sent a banner")
        return moments

    try:
        yield said
    finally:
        attacker.kill()
        attacker.wait()


def started_by_the_engine(engine: LabEngine, image: str, count: int) -> float:
    """Say how long the engine takes for as many containers when nobody asks for more than that."""
    client = engine.client()
    made: list[Any] = []
    began = time.monotonic()
    try:
        for _ in range(count):
            made.append(client.containers.create(image, network=NETWORK, tty=True))
            made[-1].start()
        return time.monotonic() - began
    finally:
        for container in made:
            container.remove(force=True)
        client.close()


if __name__ == "__main__":
    sys.exit(main())
