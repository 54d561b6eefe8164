"""The Docker room: the one module that imports docker, and the only one that changes what the engine holds.

What it makes
- One macvlan network on the parent interface. Docker gives it no address of the host's own.
- One container for each decky: hostname, MAC and address of its own, all capabilities dropped but those that its
  services' contracts name (nine at most), memory, pids and CPU bounded, the engine's own seccomp profile, never
  privileged, with a console (`tty`) that its syslog writes to.
- Its log driver is json-file, `container_log_file_bytes` x `container_log_files`: the collector follows that record and
  catches up from it after a pause. What a decky writes beyond the bound while nobody reads is gone; the collector
  notices by the missing place and says so with `evidence.dropped`.

A container is named `decky-<name>.new` until it is furnished, and then renamed in one step: what carries the final name
is complete, whatever crash came between.

Labels: `decnet.decky`, `decnet.generation`, `decnet.services`, `decnet.fingerprint`, `decnet.ip`, `decnet.mac`; the
network carries `decnet.network`. None of them can be seen from inside.

Every call blocks; callers run it in threads, and calls may overlap. Every error of the library or of the engine comes
out as a DecnetError.
The library is imported when first used: an idle agent without deckies does without its memory.
"""

from __future__ import annotations

import io
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from decnet_agent.deploying.lan import Claim, NetworkFacts
from decnet_agent.deploying.planning import ExistingDecky, PlacedDecky, World, image_set
from decnet_agent.engine.contexts import ImageContexts
from decnet_agent.engine.images import EngineImages
from decnet_agent.engine.labels import (
    LABEL_DECKY,
    LABEL_FINGERPRINT,
    LABEL_GENERATION,
    LABEL_IP,
    LABEL_MAC,
    LABEL_NETWORK,
    LABEL_SERVICES,
)
from decnet_agent.engine.probing import probe
from decnet_agent.furnishing.accounts import ACCOUNT_FILES, Image
from decnet_agent.furnishing.archive import ArchiveEntry, to_tar
from decnet_core.errors import Conflict, DecnetError, NotFound, Unavailable

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

API_SECS = 60
"""One call to the engine; starting a container takes about a second, on a busy worker ten."""

STOP_SECS = 2
"""The images ask for SIGKILL, which needs no patience; this is for the engine's own work."""

_UNFINISHED = ".new"
_MAX_ARCHIVE_BYTES = 4 << 20
"""What is read out of an image (account files, skeleton) is a few KiB."""

_MAX_IMAGES = 64
"""Whose account files are remembered: some 10 KiB each."""

_SAID_CHARS = 500

_SHM_BYTES = 64 << 20

_THREADS_MAX = Path("/proc/sys/kernel/threads-max")

# As on every Debian; without them pid files outlive a restart and daemons refuse to start.
_TMPFS = {"/run": "mode=755,size=64m", "/run/lock": "mode=1777,size=5m"}

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Limits:
    """What one decky may use, and how much of its console the engine keeps."""

    memory_bytes: int
    pids: int
    log_file_bytes: int
    log_files: int
    cpus: float = 1.0


class Engine:
    """One Docker engine, at `docker_host`."""

    def __init__(
        self,
        docker_host: str,
        contexts: ImageContexts,
        *,
        network_name: str,
        base_image: str,
        rootfs_image: str,
        limits: Limits,
    ) -> None:
        self._docker_host = docker_host
        self._network_name = network_name
        self._limits = limits
        self._images = EngineImages(contexts, base_image, rootfs_image)
        self._client: DockerClient | None = None
        self._opening = threading.Lock()
        self._brought: dict[str, Image] = {}
        self._reading = threading.Lock()

    def close(self) -> None:
        """Let go of the connection; the next call opens another, and a call under way ends on its own."""
        with self._opening:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def version(self) -> str:
        """Return the engine's version.

        Raises:
            Unavailable: it does not answer.
        """
        with self._talking("ask for the engine's version"):
            return str(self._open().version()["Version"])

    def world(self, service_sets: Sequence[tuple[str, ...]]) -> World:
        """Look at what the engine holds.

        Args:
            service_sets: those whose images are of interest.
        """
        with self._talking("list what the engine holds"):
            client = self._open()
            networks = client.networks.list(names=[self._network_name])
            network = next((item for item in networks if item.name == self._network_name), None)
            keys, present = self._images.survey(client, service_sets)
            return World(
                network_key=None if network is None else _labels(network.attrs).get(LABEL_NETWORK, ""),
                image_keys=keys,
                images=present,
                deckies=_existing_deckies(client),
            )

    def create_network(self, facts: NetworkFacts, key: str) -> None:
        """Make the macvlan network, in place of one that was made of something else.

        Raises:
            Conflict: another network has the subnet or the parent, or ours is in use by containers not of ours.
        """
        from docker.types import IPAMConfig, IPAMPool  # noqa: PLC0415 - see above

        with self._talking(f"make the network on {facts.interface}"):
            client = self._open()
            for network in client.networks.list(names=[self._network_name]):
                if network.name == self._network_name:
                    if LABEL_NETWORK not in _labels(network.attrs):
                        raise Conflict(
                            f"A network {self._network_name} that DECNET did not make is there",
                            "Set network-name to another name.",
                        )
                    network.remove()
            pool = IPAMPool(subnet=str(facts.subnet), gateway=None if facts.gateway is None else str(facts.gateway))
            client.networks.create(
                self._network_name,
                driver="macvlan",
                options={"parent": facts.interface, "macvlan_mode": "bridge"},
                ipam=IPAMConfig(pool_configs=[pool]),
                labels={LABEL_NETWORK: key},
            )

    def probe(
        self, interface: str, addresses: Sequence[IPv4Address], service_sets: Sequence[tuple[str, ...]]
    ) -> list[Claim]:
        """Ask the LAN who has the addresses; `service_sets` are those whose images may do it where there is no base.

        Raises:
            ConfigError: the interface cannot be used.
            Unavailable: the engine does not answer, or does not run what asks.
        """
        with self._talking(f"ask the LAN on {interface} for addresses"):
            return probe(self._open(), self._images.sources(service_sets), interface, addresses)

    def build_image(self, services: tuple[str, ...]) -> None:
        """Make the image of a set of services, and the base below it when that is missing."""
        with self._talking(f"build the image for {', '.join(services)}"):
            self._images.build(self._open(), services)

    def create(self, decky: PlacedDecky, generation: int, furnished: Callable[[Image], Sequence[ArchiveEntry]]) -> str:
        """Make a decky's container and put its things into it; it does not run yet.

        Args:
            furnished: told what the image brings, returns what is put in.

        Returns:
            The container's id.
        """
        spec = decky.spec
        with self._talking(f"create {spec.name}"):
            client = self._open()
            made = str(client.api.create_container(**self._container(client, decky, generation))["Id"])
            entries = furnished(self._brought_by_the_image_of(client, made))
            client.api.put_archive(made, "/", to_tar(entries, int(time.time())))
            client.api.rename(made, _container_name(spec.name))
            return made

    def start(self, name: str) -> None:
        """Start a decky that `create` made."""
        with self._talking(f"start {name}"):
            self._open().api.start(_container_name(name))

    def stop(self, container: str) -> None:
        """Stop a container; one that is gone is no error."""
        with self._talking("stop a decky"), _gone_is_fine():
            self._open().containers.get(container).stop(timeout=STOP_SECS)

    def remove(self, container: str) -> None:
        """Remove a container and what it wrote; one that is gone is no error."""
        with self._talking("remove a decky"), _gone_is_fine():
            self._open().containers.get(container).remove(force=True, v=True)

    def _open(self) -> DockerClient:
        with self._opening:
            if self._client is None:
                from docker import DockerClient  # noqa: PLC0415 - see above

                self._client = DockerClient(base_url=self._docker_host, timeout=API_SECS, version="auto")
            return self._client

    def _brought_by_the_image_of(self, client: DockerClient, made: str) -> Image:
        """Read what the image of a container brings, once: each file takes the engine longer than to make a container.

        What was read is known by the image's own id, which is the hash of what it holds.
        """
        image_id = str(client.api.inspect_container(made)["Image"])
        with self._reading:
            brought = self._brought.get(image_id)
            if brought is None:
                if len(self._brought) >= _MAX_IMAGES:
                    self._brought.clear()
                brought = self._brought[image_id] = _image_of(client.containers.get(made))
            return brought

    def _container(self, client: DockerClient, decky: PlacedDecky, generation: int) -> dict[str, Any]:
        """Return the arguments of the engine's own create call."""
        from docker.types import LogConfig, Ulimit  # noqa: PLC0415 - see above

        api, spec, limits = client.api, decky.spec, self._limits
        endpoint = api.create_endpoint_config(ipv4_address=str(decky.ip), mac_address=decky.mac)
        # Engines before 1.44 know a MAC of the container only, later ones one of each endpoint.
        by_endpoint = tuple(int(part) for part in api.api_version.split(".")) >= (1, 44)
        if not by_endpoint:
            endpoint.pop("MacAddress", None)
        services = image_set(spec)
        return {
            "image": self._images.tag(services),
            "name": _container_name(spec.name) + _UNFINISHED,
            "hostname": spec.name,
            "tty": True,
            "mac_address": None if by_endpoint else decky.mac,
            "labels": {
                LABEL_DECKY: spec.name,
                LABEL_GENERATION: str(generation),
                LABEL_SERVICES: ",".join(services),
                LABEL_FINGERPRINT: decky.fingerprint,
                LABEL_IP: str(decky.ip),
                LABEL_MAC: decky.mac,
            },
            "networking_config": {"EndpointsConfig": {self._network_name: endpoint}},
            "host_config": api.create_host_config(
                network_mode=self._network_name,
                cgroupns="private",  # else /proc/1/cgroup names the engine where it still uses cgroups of version 1
                cap_drop=["ALL"],
                cap_add=list(self._images.makeup(services).capabilities),
                mem_limit=limits.memory_bytes,
                pids_limit=limits.pids,
                ulimits=[Ulimit(name=name, soft=soft, hard=hard) for name, soft, hard in _resource_limits()],
                nano_cpus=int(limits.cpus * 1e9),
                shm_size=_SHM_BYTES,
                tmpfs=dict(_TMPFS),
                restart_policy={"Name": "unless-stopped"},
                log_config=LogConfig(
                    type=LogConfig.types.JSON,
                    config={"max-size": str(limits.log_file_bytes), "max-file": str(limits.log_files)},
                ),
            ),
        }

    @contextmanager
    def _talking(self, doing: str) -> Iterator[None]:
        """Turn what the library raises into errors of ours."""
        from docker.errors import APIError, DockerException  # noqa: PLC0415 - see above
        from requests.exceptions import RequestException  # noqa: PLC0415 - the library's own, it lets them through

        try:
            yield
        except DecnetError:
            raise
        except APIError as cause:
            raise _explained(doing, cause.status_code, str(cause.explanation or cause)) from cause
        except (DockerException, RequestException, OSError) as cause:
            self.close()
            raise Unavailable(
                f"Cannot {doing}: no Docker engine answers at {self._docker_host}",
                "Start Docker (`systemctl start docker`), let this user read its socket (group docker), "
                "or set docker-host.",
            ) from cause


def _resource_limits() -> list[tuple[str, int, int]]:
    """Name, soft and hard limit of what the kernel gives the first process of a machine.

    A container has the engine's own otherwise, often without bound: `ulimit` then tells it from a machine, and daemons
    that close all descriptors when they start close a billion. Source: INR_OPEN_CUR, INR_OPEN_MAX, fork_init().
    """
    processes = int(_THREADS_MAX.read_text()) // 2
    return [("nofile", 1024, 4096), ("core", 0, -1), ("nproc", processes, processes)]


def _explained(doing: str, status: int | None, said: str) -> DecnetError:
    """Say what an answer of the engine means for the operator."""
    # runc's reasons are Russian dolls: what was tried comes first, why it failed last
    shortened = said if len(said) <= _SAID_CHARS else f"{said[:100]} … {said[100 - _SAID_CHARS :]}"
    message = f"Cannot {doing}: {shortened}"
    if "overlaps" in said or "already using parent interface" in said:
        return Conflict(message, "Remove the other network (`docker network ls`), or set another subnet or interface.")
    if "parent interface" in said or "no such device" in said:
        return Conflict(message, "Set interface to one of this host's that is up (`ip link`).")
    if "Address already in use" in said:
        return Conflict(message, "Another container holds the address: remove it, or deploy with another address.")
    if "No such image" in said:
        return NotFound(message, "Deploy again: the image is built again.")
    if status == 409:
        return Conflict(message, "Remove what stands in the way (`docker ps -a`), then deploy again.")
    return Unavailable(message, "`journalctl -u docker` says more; deploy again when it is mended.")


@contextmanager
def _gone_is_fine() -> Iterator[None]:
    from docker.errors import APIError  # noqa: PLC0415 - see above
    from docker.errors import NotFound as Missing  # noqa: PLC0415

    try:
        yield
    except Missing:
        pass
    except APIError as error:
        if error.status_code != 409 or "in progress" not in str(error):
            raise


def _existing_deckies(client: DockerClient) -> list[ExistingDecky]:
    """List our containers, by decky; the list says all that is asked for, so that none is looked at by itself."""
    found = client.api.containers(all=True, filters={"label": LABEL_DECKY})
    return sorted(map(_existing, found), key=lambda decky: (decky.name, decky.container))


def _existing(listed: Mapping[str, Any]) -> ExistingDecky:
    labels = listed["Labels"]
    name = labels[LABEL_DECKY]
    return ExistingDecky(
        name=name,
        container=str(listed["Id"]),
        fingerprint=labels.get(LABEL_FINGERPRINT, ""),
        complete=f"/{_container_name(name)}" in (listed["Names"] or ()),
        running=listed["State"] in {"running", "restarting", "paused"},
    )


def _container_name(decky: str) -> str:
    return f"decky-{decky}"


def _labels(attributes: Mapping[str, Any]) -> Mapping[str, str]:
    return attributes.get("Labels") or {}


def _image_of(container: Container) -> Image:
    from docker.errors import NotFound as Missing  # noqa: PLC0415 - see above

    accounts: dict[str, bytes] = {}
    for name in ACCOUNT_FILES:
        try:
            accounts.update(_read_out(container, f"/etc/{name}"))
        except Missing:
            continue
    try:
        skeleton = _read_out(container, "/etc/skel")
    except Missing:
        skeleton = {}
    return Image(accounts, skeleton)


def _read_out(container: Container, path: str) -> dict[str, bytes]:
    chunks, _ = container.get_archive(path)
    buffer = io.BytesIO()
    for chunk in chunks:
        buffer.write(chunk)
        if buffer.tell() > _MAX_ARCHIVE_BYTES:
            raise Unavailable(f"{path} of the image is over {_MAX_ARCHIVE_BYTES} bytes", "Build the images again.")
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as archive:
        files = {item.name.rpartition("/")[2]: archive.extractfile(item) for item in archive if item.isfile()}
        return {name: file.read() for name, file in files.items() if file is not None}
