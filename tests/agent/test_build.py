"""A worker without our images makes them from a minimal Debian and the contexts in its own package."""

from __future__ import annotations

import platform
from collections.abc import Iterator

import docker
import pytest

from decnet_agent.engine.client import Engine, Limits
from decnet_agent.engine.contexts import LABEL, ImageContexts
from decnet_core.errors import NotFound
from tests.lab import slots
from tests.lab.engine import LabEngine
from tests.lab.image import SUITE

pytestmark = [pytest.mark.docker, pytest.mark.root, pytest.mark.slow]

SSH = "decky-ssh:bookworm"
ROOTFS = "decky-rootfs-of-a-test:bookworm"
BASE = "decky-base-of-a-test:bookworm"
KEPT = "decky-ssh-kept-by-a-test:bookworm"


def engine_of(lab_engine: LabEngine, rootfs: str) -> Engine:
    limits = Limits(memory_bytes=256 << 20, pids=256, log_file_bytes=1 << 20, log_files=1)
    return Engine(
        lab_engine.docker_host,
        ImageContexts(),
        network_name="unused",
        base_image=BASE,
        rootfs_image=rootfs,
        limits=limits,
    )


@pytest.fixture
def client(lab_engine: LabEngine, decky_image: str) -> Iterator[docker.DockerClient]:
    """An engine whose SSH image is away and that holds a minimal Debian."""
    rootfs = slots.cache_folder() / f"images/rootfs-{SUITE}-{platform.machine()}.tar"
    if not rootfs.exists():
        pytest.skip(f"missing: {rootfs}. The images were not built on this machine")
    client = lab_engine.client()
    # An engine that loaded the image, instead of building it, forgets it with its last name.
    client.images.get(decky_image).tag(KEPT)
    client.api.import_image_from_file(str(rootfs), repository=ROOTFS.partition(":")[0], tag=SUITE)
    client.images.remove(decky_image, noprune=True)
    yield client
    client.images.get(KEPT).tag(SSH)
    for name in (BASE, ROOTFS, KEPT):
        try:
            client.images.remove(name, force=True, noprune=True)
        except docker.errors.ImageNotFound:
            continue
    client.close()


def test_an_image_is_built_once(client, lab_engine):
    engine = engine_of(lab_engine, ROOTFS)
    before = engine.world([("ssh",), ("gopher",)])
    assert before.image_keys.keys() == {("ssh",)}
    assert before.images == frozenset()
    engine.build_image(("ssh",))
    after = engine.world([("ssh",)])
    assert after.image_keys == before.image_keys
    assert after.images == {("ssh",)}
    assert client.images.get(SSH).labels[LABEL] == after.image_keys[("ssh",)]
    built = client.images.get(SSH).id
    engine.build_image(("ssh",))
    assert client.images.get(SSH).id == built
    engine.close()


@pytest.mark.usefixtures("client")
def test_nothing_to_build_from(lab_engine):
    engine = engine_of(lab_engine, "decky-nothing:bookworm")
    assert engine.world([("ssh",)]).image_keys == {}
    with pytest.raises(NotFound, match="decky-nothing:bookworm") as raised:
        engine.build_image(("ssh",))
    assert "mmdebstrap" in raised.value.advice
    engine.close()
