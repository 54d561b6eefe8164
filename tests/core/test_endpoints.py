from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decnet_core.endpoints import Endpoint, listen
from decnet_core.errors import ConfigError, Conflict, Unavailable


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:80", "127.0.0.1", 80),
        ("localhost:0", "localhost", 0),
        ("[::1]:65535", "::1", 65535),
        ("[fe80::1%eth0]:1", "fe80::1%eth0", 1),
        ("a.b-c.example:00080", "a.b-c.example", 80),
    ],
)
def test_addresses(text, host, port):
    assert Endpoint.parse(text) == Endpoint(host, port)


@pytest.mark.parametrize(
    "text",
    [
        "", ":", "host", "host:", ":80", "host:65536", "host:-1", "host:+1", "host: 80", "host:٣", "host:8_0",
        "::1:80", "::1", "[::1]", "[::1:80", "::1]:80", "[[::1]]:80", "[]:80", "[host]:80", "a b:80", "a\n:80",
        "http://host:80", "user@host:80", "host:" + "9" * 5000,
    ],
)  # fmt: skip
def test_what_is_no_address(text):
    with pytest.raises(ConfigError) as caught:
        Endpoint.parse(text)
    assert len(caught.value.message) < 200


@given(st.text() | st.from_regex(r"\[?[0-9a-z:.]*\]?:[0-9]*"))
def test_any_text_is_an_address_that_reads_back_or_a_config_error(text):
    try:
        endpoint = Endpoint.parse(text)
    except ConfigError:
        return
    assert Endpoint.parse(str(endpoint)) == endpoint


def test_a_free_port_is_chosen_and_does_not_block():
    with listen(Endpoint("127.0.0.1", 0), "api-address") as server:
        assert server.getsockname()[1] > 0
        assert server.getblocking() is False
        with socket.create_connection(server.getsockname(), timeout=5):
            pass


def test_a_port_in_use_names_the_setting():
    with listen(Endpoint("127.0.0.1", 0), "api-address") as server:
        taken = Endpoint("127.0.0.1", server.getsockname()[1])
        with pytest.raises(Conflict, match="Another process listens on") as caught:
            listen(taken, "api-address")
    assert "api-address" in caught.value.advice
    assert f":{taken.port}" in caught.value.advice


def test_a_port_is_free_again_at_once():
    with listen(Endpoint("127.0.0.1", 0), "api-address") as server:
        address = server.getsockname()
        client = socket.create_connection(address, timeout=5)
        accepted, _ = _accepting(server)
        accepted.close()  # our side ends first: the port is in TIME_WAIT now
        client.close()
    listen(Endpoint(*address), "api-address").close()


def _accepting(server):
    server.settimeout(5)
    return server.accept()


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid", "a" * 64 + ".invalid", "..", "fe80::1%nowhere"])
def test_an_address_that_is_not_this_machines(host):
    with pytest.raises(Unavailable) as caught:
        listen(Endpoint(host, 0), "api-address")
    assert "api-address" in caught.value.advice


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_the_address_of_all_takes_ipv4_too():
    try:
        server = listen(Endpoint("::", 0), "api-address")
    except Unavailable:
        pytest.skip("this machine has no IPv6")
    with server, socket.create_connection(("127.0.0.1", server.getsockname()[1]), timeout=5):
        pass
