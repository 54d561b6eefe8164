"""Try to get out of a decky, from a container that has its network: what `containment verify` attacks with.

A program that is run inside a decky would be seen there by an attacker (a process, its exec in the record, a file). So
`egress_probe.pl` runs beside it: another container, with the decky's network namespace and CAP_NET_RAW, a read-only
disk and nothing else. What an attacker in the decky can see of it are the frames that it hears, and a neighbour entry.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from importlib.resources import files
from ipaddress import IPv4Address

from decnet_agent.engine.labels import LABEL_PROBE
from decnet_core.errors import RemoteProtocolError, Unavailable

API_SECS = 60
_WAIT_SECS = 30
_MEMORY_BYTES = 64 << 20
_PIDS = 16
_MAX_OUTPUT_BYTES = 4096
ATTEMPTS = ("tcp", "udp", "dns", "icmp", "raw-tcp", "raw-udp", "false-ip", "false-mac", "arp", "ipv6")
_LINE = re.compile(r"([a-z0-9-]{1,20}) (answered|silence|sent|E[0-9]{1,3})")


def try_to_escape(
    docker_host: str, images: Sequence[str], container: str, target: IPv4Address, port: int
) -> dict[str, str]:
    """Attack a target from a decky; return what each attempt met. It blocks.

    Args:
        docker_host: the engine.
        images: any of these will do, the first that is there is taken.
        container: of the decky, which runs.
        target: whom.
        port: the first that is asked for; six follow one another.

    Raises:
        Unavailable: the engine does not answer, or does not run what attacks.
        RemoteProtocolError: what came back is no such answer.
    """
    from docker import DockerClient  # noqa: PLC0415 - its memory is not for every verb
    from docker.errors import APIError, DockerException  # noqa: PLC0415
    from requests.exceptions import RequestException  # noqa: PLC0415 - the library's own, it lets them through

    try:
        with contextlib.closing(DockerClient(base_url=docker_host, timeout=API_SECS)) as client:
            present = {tag for image in client.images.list() for tag in image.tags}
            image = next((image for image in images if image in present), None)
            if image is None:
                raise Unavailable(f"The engine holds none of {', '.join(images)}", "`decnet-agent doctor` says more.")
            script = files("decnet_agent.engine").joinpath("egress_probe.pl").read_text()
            made = client.containers.create(
                image,
                ["-e", script, str(target), str(port)],
                entrypoint=["/usr/bin/perl"],
                labels={LABEL_PROBE: ""},
                network_mode=f"container:{container}",
                cap_drop=["ALL"],
                cap_add=["NET_RAW"],
                security_opt=["no-new-privileges"],
                read_only=True,
                mem_limit=_MEMORY_BYTES,
                pids_limit=_PIDS,
            )
            try:
                made.start()
                code = int(made.wait(timeout=_WAIT_SECS)["StatusCode"])
                said = bytes(made.logs(stdout=code == 0, stderr=code != 0))
            finally:
                made.remove(force=True)
    except (APIError, DockerException, RequestException, OSError) as cause:
        raise Unavailable(
            f"Cannot attack from {container[:12]}: {cause}", "`journalctl -u docker` says more."
        ) from cause
    if code != 0:
        raise Unavailable(
            f"What attacks ended with {code}: {said.decode(errors='replace').strip()[-200:]}", "Try again."
        )
    return parse_attempts(said)


def parse_attempts(output: bytes) -> dict[str, str]:
    """Read what the script printed.

    Raises:
        RemoteProtocolError: it is something else.
    """
    lines = output.decode("ascii", "replace").splitlines()
    found = [_LINE.fullmatch(line) for line in lines]
    attempts = {match[1]: match[2] for match in found if match is not None}
    if len(output) > _MAX_OUTPUT_BYTES or not all(found) or attempts.keys() != set(ATTEMPTS):
        raise RemoteProtocolError("What attacks from a decky answered something else")
    return attempts
