"""Images are made, listed, carried to a worker without a mirror and brought in there, and only as they were made.

The contexts here are copies of one file: what Debian has no part in is the same for real ones, and takes no minutes.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from decnet_agent.engine.archive import OpenArchive
from decnet_agent.engine.contexts import ImageContexts
from decnet_agent.engine.stock import ImageStock, parse_set
from decnet_core.errors import ConfigError, NotFound, RemoteProtocolError, TrustError
from tests.deckies.test_contracts import GOOD
from tests.lab.engine import LabEngine

pytestmark = [pytest.mark.docker, pytest.mark.root]

ROOTFS, BASE = "stock-rootfs-of-a-test:bookworm", "stock-base-of-a-test:bookworm"
GOPHER, BOTH = "decky-gopher:bookworm", "decky-finger-gopher:bookworm"
FINGER_CONTRACT = GOOD.replace("gopher", "finger").replace("port = 70", "port = 79")


@pytest.fixture
def stock(lab_engine: LabEngine, tmp_path: Path) -> Iterator[ImageStock]:
    for name, argument, contract in (
        ("base", "ROOTFS", None),
        ("gopher", "BASE", GOOD),
        ("finger", "BASE", FINGER_CONTRACT),
    ):
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        (folder / "Dockerfile").write_text(f"ARG {argument}\nFROM ${{{argument}}}\nCOPY Dockerfile /{name}\n")
        if contract is not None:
            (folder / "contract.toml").write_text(contract)
    yield ImageStock(lab_engine.docker_host, ImageContexts(tmp_path / "images"), base_image=BASE, rootfs_image=ROOTFS)
    client = lab_engine.client()
    remove(client)
    client.close()


@pytest.fixture
def client(lab_engine: LabEngine) -> Iterator[docker.DockerClient]:
    """An engine with a tree that holds one file."""
    client = lab_engine.client()
    tree = io.BytesIO()
    with tarfile.open(fileobj=tree, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("hello"))
    client.api.import_image_from_data(tree.getvalue(), repository=ROOTFS.partition(":")[0], tag="bookworm")
    yield client
    client.close()


def remove(client: docker.DockerClient) -> None:
    for name in (BOTH, "decky-finger:bookworm", GOPHER, BASE, ROOTFS):
        try:
            client.images.remove(name, force=True)
        except docker.errors.ImageNotFound:
            continue


def ours(stock: ImageStock) -> dict[str, bool]:
    return {image.tag: image.current for image in stock.list() if image.tag in (BASE, GOPHER, BOTH)}


def test_images_travel_as_they_were_made(stock, client, tmp_path):
    assert ours(stock) == {}
    stock.build([("gopher",), ("finger", "gopher")])
    assert ours(stock) == {BASE: True, GOPHER: True, BOTH: True}
    made = {image.tag: image.id for image in stock.list() if image.tag in (BASE, GOPHER, BOTH)}
    file = tmp_path / "carried"
    manifest = stock.export(file, [("gopher",), ("finger", "gopher")])
    assert {image.tag: image.id for image in manifest.images} == made
    remove(client)
    assert ours(stock) == {}
    assert stock.import_(file, manifest.sha256) == manifest
    assert ours(stock) == {BASE: True, GOPHER: True, BOTH: True}
    assert {image.tag: image.id for image in stock.list() if image.tag in made} == made
    folder = tmp_path / "images/gopher"
    (folder / "more").write_text("another context makes another image")
    assert ours(stock) == {BASE: True, GOPHER: False, BOTH: False}
    with pytest.raises(NotFound, match="There is no current image for gopher"):
        stock.export(file, [("gopher",)])


def test_what_was_changed_on_its_way_reaches_no_engine(stock, client, tmp_path):
    stock.build([("gopher",)])
    file = tmp_path / "carried"
    manifest = stock.export(file, [("gopher",)])
    remove(client)
    content = bytearray(file.read_bytes())
    with file.open("rb") as opened:
        at = OpenArchive(opened, "carried").images().tell()
    for place in (512 + at + 600, 512 + at + manifest.size_bytes // 2):
        changed = bytearray(content)
        changed[place] ^= 1
        file.write_bytes(changed)
        with pytest.raises(RemoteProtocolError, match=r"images\.tar is not what manifest\.json says"):
            stock.import_(file)
    file.write_bytes(content)
    with pytest.raises(TrustError, match="another one was expected"):
        stock.import_(file, "0" * 64)
    for cut in (0, 100, 512, len(content) // 2):
        file.write_bytes(content[:cut])
        with pytest.raises(RemoteProtocolError, match="cannot be used"):
            stock.import_(file)
    with pytest.raises(NotFound):
        stock.import_(tmp_path / "nothing")
    assert ours(stock) == {}


@pytest.mark.usefixtures("client")
def test_what_cannot_be_made_is_said_before_anything_is(stock, tmp_path):
    with pytest.raises(NotFound, match="There is no service archie") as raised:
        stock.build([("gopher",), ("archie",)])
    assert "finger, gopher" in raised.value.advice
    (tmp_path / "images/finger/contract.toml").write_text(FINGER_CONTRACT.replace("port = 79", "port = 0"))
    with pytest.raises(ConfigError, match=r"finger/contract.toml: health.port: "):
        stock.build([("finger",)])
    assert ours(stock) == {}


def test_a_set_is_read_in_any_order():
    assert parse_set("telnet+ssh") == parse_set("ssh+telnet+ssh") == ("ssh", "telnet")
    with pytest.raises(ConfigError, match="names no service"):
        parse_set("+")
