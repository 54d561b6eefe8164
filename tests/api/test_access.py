"""Who may ask the API what."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import httpx
import jwt
import pytest
from fastapi import FastAPI

from decnet_core.enrolment import JoinRequest
from decnet_core.errors import DecnetError, Unavailable
from decnet_core.identity import Identity, Role
from decnet_core.pki.certificates import generate_key, make_csr
from decnet_master import passwords, secret_files
from decnet_master.api.access import Access
from decnet_master.api.fanout import Fanout
from decnet_master.api.routes import application, guarded
from decnet_master.enrolment.issuer import Issuer
from decnet_master.enrolment.registrar import Registrar
from decnet_master.enrolment.routes import endpoint
from decnet_master.http_app import bare_app
from decnet_master.settings import MasterSettings
from decnet_master.store import Store
from decnet_master.store.engine import DatabaseAway, DatabaseUnusable
from tests.swarm.master import Template

OPEN = {("GET", "/livez"), ("GET", "/readyz"), ("POST", "/api/v1/auth/login")}


async def log_in(client: httpx.AsyncClient, username: str, password: str) -> httpx.Response:
    return await client.post("/api/v1/auth/login", json={"username": username, "password": password})


async def test_login_and_me(anyone: httpx.AsyncClient, template: Template) -> None:
    session = (await log_in(anyone, "admin", template.password)).json()
    assert datetime.fromisoformat(session["expires_at"]) > datetime.now(UTC)
    me = await anyone.get("/api/v1/auth/me", headers={"authorization": f"Bearer {session['access_token']}"})
    assert me.json() == {"username": "admin", "role": "admin", "must_change_password": False}


async def test_a_wrong_password_and_a_wrong_name_look_alike(anyone: httpx.AsyncClient) -> None:
    wrong = await log_in(anyone, "admin", "wrong")
    unknown = await log_in(anyone, "nobody", "wrong")
    assert wrong.status_code == unknown.status_code == 401
    told = [{k: v for k, v in answer.json().items() if k != "request_id"} for answer in (wrong, unknown)]
    assert told[0] == told[1]


async def test_an_unknown_name_costs_as_much_as_a_known_one(anyone: httpx.AsyncClient) -> None:
    await log_in(anyone, "nobody", "the first one makes the hash of nobody")
    spent = {}
    for name in ("admin", "nobody"):
        started = time.perf_counter()
        await log_in(anyone, name, "wrong")
        spent[name] = time.perf_counter() - started
    # Both verify a hash, which takes tens of milliseconds; a mere look into the database takes one.
    assert spent["nobody"] > spent["admin"] / 4


@pytest.mark.slow
async def test_logins_are_limited(anyone: httpx.AsyncClient) -> None:
    answers = [await log_in(anyone, "admin", "wrong") for _ in range(12)]
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) > 0


async def test_a_login_that_makes_no_sense(anyone: httpx.AsyncClient) -> None:
    for body in ({}, {"username": "admin"}, {"username": "admin", "password": "x" * 2000}, {"username": ["a"]}):
        answer = await anyone.post("/api/v1/auth/login", json=body)
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
        assert "x" * 100 not in answer.text


def routes_of(app: FastAPI) -> set[tuple[str, str]]:
    return {(method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods}


async def test_every_route_but_three_needs_a_token(
    anyone: httpx.AsyncClient, store: Store, settings: MasterSettings
) -> None:
    access = Access(store, secret_files.read(settings.api_secret_file), timedelta(minutes=1))
    routes = routes_of(application(store, access, Fanout(store)))
    assert routes > OPEN
    assert len(routes - OPEN) >= 6
    for method, path in routes - OPEN:
        answer = await anyone.request(method, path)
        assert answer.status_code == 401, (method, path)
        assert answer.headers["www-authenticate"] == "Bearer"
    for path in ("/docs", "/redoc", "/openapi.json", "/"):
        assert (await anyone.get(path)).status_code == 404


def _claims(**changes: object) -> dict[str, object]:
    now = datetime.now(UTC).timestamp()
    return {"iss": "decnet-master", "sub": "admin", "iat": now, "exp": int(now) + 60, **changes}


async def test_forged_and_ended_tokens_are_refused(anyone: httpx.AsyncClient, settings: MasterSettings) -> None:
    secret = secret_files.read(settings.api_secret_file)
    past = datetime.now(UTC).timestamp() - 10
    bad = [
        jwt.encode(_claims(), "x" * 43, algorithm="HS256"),
        jwt.encode(_claims(), None, algorithm="none"),
        jwt.encode(_claims(exp=int(past)), secret, algorithm="HS256"),
        jwt.encode(_claims(sub="nobody"), secret, algorithm="HS256"),
        jwt.encode(_claims(iss="someone"), secret, algorithm="HS256"),
        jwt.encode({"sub": "admin"}, secret, algorithm="HS256"),
        jwt.encode(_claims(iat=0), secret, algorithm="HS256"),
        "x",
        "a.b.c",
    ]
    for token in bad:
        answer = await anyone.get("/api/v1/auth/me", headers={"authorization": f"Bearer {token}"})
        assert answer.status_code == 401, token
    good = jwt.encode(_claims(), secret, algorithm="HS256")
    answer = await anyone.get("/api/v1/auth/me", headers={"authorization": f"Bearer {good}"})
    assert answer.status_code == 200


async def test_another_password_ends_the_session(admin: httpx.AsyncClient, store: Store) -> None:
    assert (await admin.get("/api/v1/auth/me")).status_code == 200
    await store.users.set_password("admin", passwords.hash_password("new"), must_change=False, now=datetime.now(UTC))
    assert (await admin.get("/api/v1/auth/me")).status_code == 401


async def test_the_password_is_kept_as_argon2id(store: Store, template: Template) -> None:
    kept = (await store.users.get("admin")).password_hash
    assert kept.startswith("$argon2id$")
    assert passwords.matches(kept, template.password)
    assert not passwords.matches(kept, template.password + "x")


async def test_a_fault_of_ours_tells_nothing(admin: httpx.AsyncClient, settings: MasterSettings) -> None:
    # The database is gone from under the API.
    (settings.data_directory / "decnet.sqlite3").write_bytes(b"no database")
    for name in ("decnet.sqlite3-wal", "decnet.sqlite3-shm"):
        (settings.data_directory / name).unlink(missing_ok=True)
    answer = await admin.get("/api/v1/events")
    assert answer.status_code >= 500
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("fault", [DatabaseAway, DatabaseUnusable])
async def test_strangers_are_not_told_where_the_database_is(fault: type[DecnetError]) -> None:
    for strangers in (True, False):
        app = bare_app(strangers=strangers)

        @app.get("/asked")
        async def asked() -> None:
            raise fault("The database at db.internal does not answer", "Start db.internal.")

        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://decnet") as client:
            answer = await client.get("/asked")
        assert answer.status_code == 503
        assert ("db.internal" in answer.text) is not strangers


@asynccontextmanager
async def without_a_database(store: Store, settings: MasterSettings) -> AsyncIterator[None]:
    """Let the next connection meet a file that is no database; nobody holds one meanwhile."""
    await store._database.engine.dispose()
    file = settings.data_directory / "decnet.sqlite3"
    assert not file.with_name("decnet.sqlite3-wal").exists(), "somebody has the database open"
    kept = file.read_bytes()
    file.write_bytes(b"no database any more" * 1000)
    yield
    await store._database.engine.dispose()
    file.write_bytes(kept)


def tells_nothing(answer: httpx.Response, settings: MasterSettings) -> bool:
    """Tell whether an answer says that the database is away, and not a word of where it is or what kind."""
    assert (answer.status_code, answer.json()["detail"]) == (503, "The database does not answer")
    words = answer.text.lower()
    return not any(word in words for word in ("sqlite", "://", str(settings.data_directory).lower(), "data_directory"))


async def test_no_route_tells_strangers_of_the_database(store: Store, settings: MasterSettings) -> None:
    access = Access(store, secret_files.read(settings.api_secret_file), timedelta(minutes=1))
    app = guarded(application(store, access, Fanout(store)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://decnet") as client:
        async with without_a_database(store, settings):
            assert tells_nothing(await client.get("/readyz"), settings)
            assert tells_nothing(await log_in(client, "admin", "not it"), settings)
            token = jwt.encode(_claims(), secret_files.read(settings.api_secret_file), algorithm="HS256")
            known = {"authorization": f"Bearer {token}"}
            assert tells_nothing(await client.get("/api/v1/events", headers=known), settings)
        assert (await client.get("/readyz")).status_code == 200


async def test_a_stranger_who_joins_is_not_told_of_the_database(store: Store, settings: MasterSettings) -> None:
    registrar = Registrar(store, Issuer.open(settings, datetime.now(UTC)), 6514)
    csr = make_csr(generate_key(), Identity(Role.AGENT, "w1")).decode()
    request = JoinRequest(token_id="0" * 16, secret="x" * 43, version="1", csrs={Role.AGENT: csr})
    body = json.loads(request.model_dump_json())
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(endpoint(registrar)), base_url="https://decnet"
    ) as client:
        async with without_a_database(store, settings):
            assert tells_nothing(await client.post("/join", json=body), settings)
        assert (await client.post("/join", json=body)).status_code == 403, "the token is not known, the rest is right"


async def test_a_database_without_our_tables_is_not_ready(store: Store, settings: MasterSettings) -> None:
    await store.ping()
    with contextlib.closing(sqlite3.connect(settings.data_directory / "decnet.sqlite3")) as other:
        other.execute("DROP TABLE ingest_position")
    with pytest.raises(Unavailable):
        await store.ping()


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_the_probes_are_open(anyone: httpx.AsyncClient, path: str) -> None:
    answer = await anyone.get(path)
    assert answer.status_code == 200
    assert answer.json() == {"status": "ok"}
