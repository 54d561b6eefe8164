"""What `init` makes, keeps and renews."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509

from decnet_core.endpoints import Endpoint
from decnet_core.errors import ConfigError
from decnet_core.pki.keystore import StoredIdentity
from decnet_core.pki.verification import load_certificates
from decnet_master import installation
from decnet_master.enrolment import tokens
from decnet_master.enrolment.tokens import public_endpoint
from decnet_master.settings import MasterSettings
from tests.swarm.master import settings_in


async def test_the_cas_key_is_encrypted_where_a_passphrase_is_set(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, ca_passphrase="correct horse")
    done = await installation.install(settings)
    key = (settings.ca_directory / "ca.key").read_text()
    assert "ENCRYPTED" in key
    now = datetime.now(UTC)
    assert installation.open_authorities(settings, now).anchor.fingerprint == done.pin
    for wrong in (None, "wrong horse"):
        with pytest.raises(ConfigError) as told:
            installation.open_authorities(settings.model_copy(update={"ca_passphrase": wrong}), now)
        assert "horse" not in told.value.message + told.value.advice


def names_of(identity: StoredIdentity) -> tuple[set[str], set[object]]:
    leaf = load_certificates(identity.files.certificate.read_bytes())[0]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return set(names.get_values_for_type(x509.DNSName)), set(names.get_values_for_type(x509.IPAddress))


@pytest.mark.parametrize(
    ("public", "dns", "ips"),
    [
        ("decoys.example.org", {"decoys.example.org"}, set()),
        ("Decoys.Example.org:443", {"decoys.example.org"}, set()),
        ("192.0.2.7", set(), {ip_address("192.0.2.7")}),
        ("192.0.2.7:443", set(), {ip_address("192.0.2.7")}),
        ("2001:db8::7", set(), {ip_address("2001:db8::7")}),
        ("[2001:db8::7]:443", set(), {ip_address("2001:db8::7")}),
    ],
)
def test_the_masters_certificate_carries_its_public_name(
    settings: MasterSettings, public: str, dns: set[str], ips: set[object]
) -> None:
    settings = settings.model_copy(update={"public_address": public})
    now = datetime.now(UTC)
    authorities = installation.open_authorities(settings, now)
    identity, made = installation.ensure_identity(settings, authorities, now)
    assert made
    assert names_of(identity) == ({"decnet-master"} | dns, ips)
    assert installation.ensure_identity(settings, authorities, now) == (identity, False)


def test_the_masters_certificate_is_renewed_before_it_ends(settings: MasterSettings) -> None:
    now = datetime.now(UTC)
    authorities = installation.open_authorities(settings, now)
    first, made = installation.ensure_identity(settings, authorities, now)
    assert not made
    assert first.not_after - now <= timedelta(days=7)
    early = first.not_before + (first.not_after - first.not_before) * 0.66
    assert installation.ensure_identity(settings, authorities, early) == (first, False)
    later = first.not_before + (first.not_after - first.not_before) * 0.76
    renewed, made = installation.ensure_identity(settings, authorities, later)
    assert made
    assert renewed.not_after > first.not_after
    ended, made = installation.ensure_identity(settings, authorities, renewed.not_after + timedelta(days=1))
    assert made
    assert ended.identity == first.identity


def test_without_init_there_is_no_authority(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as told:
        installation.open_authorities(settings_in(tmp_path), datetime.now(UTC))
    assert "decnet-master init" in told.value.advice
    assert not (tmp_path / "data").exists()


async def test_the_passphrase_may_lie_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"correct horse\nand nothing of this\n")
    settings = settings_in(tmp_path, ca_passphrase_file=tmp_path / "secret")
    done = await installation.install(settings)
    assert "ENCRYPTED" in (settings.ca_directory / "ca.key").read_text()
    now = datetime.now(UTC)
    by_value = settings.model_copy(update={"ca_passphrase": "correct horse", "ca_passphrase_file": None})
    assert installation.open_authorities(by_value, now).anchor.fingerprint == done.pin
    (tmp_path / "secret").write_bytes(b"\n")
    with pytest.raises(ConfigError, match="no passphrase"):
        installation.open_authorities(settings, now)
    (tmp_path / "secret").unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        installation.open_authorities(settings, now)


@pytest.mark.parametrize(
    ("public", "bound", "named"),
    [
        ("decoys.example.org", "0.0.0.0:8771", "decoys.example.org:8771"),
        ("decoys.example.org:443", "0.0.0.0:8771", "decoys.example.org:443"),
        ("2001:db8::7", "0.0.0.0:8771", "[2001:db8::7]:8771"),
        ("[2001:db8::7]:443", "0.0.0.0:8771", "[2001:db8::7]:443"),
        (None, "192.0.2.7:8771", "192.0.2.7:8771"),
    ],
)
def test_what_a_token_names(public: str | None, bound: str, named: str) -> None:
    assert str(public_endpoint(public, Endpoint.parse(bound))) == named


def test_a_wildcard_becomes_an_address_that_can_be_dialled() -> None:
    endpoint = public_endpoint(None, Endpoint("0.0.0.0", 8771))
    assert endpoint.port == 8771
    assert not ip_address(endpoint.host).is_unspecified


def test_a_machine_without_a_route_makes_no_token_that_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """What such a machine sees: the way to anywhere is the loopback, or there is none."""
    for nowhere in (("127.0.0.1", 9), ("127.0.0.300", 9)):
        monkeypatch.setattr(tokens, "_FAR_AWAY", nowhere)
        with pytest.raises(ConfigError, match="no route") as told:
            public_endpoint(None, Endpoint("0.0.0.0", 8771))
        assert "public-address" in told.value.advice
        assert str(public_endpoint("127.0.0.1", Endpoint("0.0.0.0", 8771))) == "127.0.0.1:8771"
        assert str(public_endpoint(None, Endpoint("127.0.0.1", 8771))) == "127.0.0.1:8771"


def test_a_password_that_nobody_saw_is_no_password(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)

    def torn(_done: installation.Installation) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(installation.install(settings, torn))
    told: list[installation.Installation] = []
    again = asyncio.run(installation.install(settings, told.append))
    assert again.admin_password is not None
    assert told == [again]
    assert asyncio.run(installation.install(settings)).admin_password is None
