"""What each package may bring onto a machine. A name more is a decision, and is taken here, in sight.

Names only: which versions is uv.lock's business.
"""

from __future__ import annotations

DECLARED: dict[str, frozenset[str]] = {
    "decnet-core": frozenset({"cryptography", "pydantic", "pydantic-settings", "structlog"}),
    "decnet-master": frozenset(
        {
            "decnet-core",
            "aiosqlite",
            "alembic",
            "argon2-cffi",
            "asyncpg",
            "fastapi",
            "h11",
            "httpx",
            "pyjwt",
            "rich",
            "sqlalchemy",
            "typer",
            "uvicorn",
        }
    ),
    "decnet-agent": frozenset({"decnet-core", "docker", "httpx", "starlette", "uvicorn"}),
    "decnet-updater": frozenset({"decnet-core", "starlette", "uvicorn"}),
    "decnet-logship": frozenset({"decnet-core"}),
}
"""What the package itself asks for."""

_CORE = frozenset(
    {
        "annotated-types",
        "cffi",
        "cryptography",
        "decnet-core",
        "pycparser",
        "pydantic",
        "pydantic-core",
        "pydantic-settings",
        "python-dotenv",
        "structlog",
        "typing-extensions",
        "typing-inspection",
    }
)
_SERVER = frozenset({"anyio", "click", "h11", "idna", "starlette", "uvicorn"})
_FASTAPI = frozenset({"annotated-doc", "fastapi", "opentelemetry-api"})
_CLIENT = frozenset({"certifi", "httpcore", "httpx"})

CLOSURE: dict[str, frozenset[str]] = {
    "decnet-core": _CORE,
    "decnet-master": _CORE
    | _SERVER
    | _FASTAPI
    | _CLIENT
    | {
        "aiosqlite",
        "alembic",
        "argon2-cffi",
        "argon2-cffi-bindings",
        "asyncpg",
        "decnet-master",
        "greenlet",
        "mako",
        "markdown-it-py",
        "markupsafe",
        "mdurl",
        "pygments",
        "pyjwt",
        "rich",
        "shellingham",
        "sqlalchemy",
        "typer",
    },
    "decnet-agent": _CORE | _SERVER | _CLIENT | {"charset-normalizer", "decnet-agent", "docker", "requests", "urllib3"},
    "decnet-updater": _CORE | _SERVER | {"decnet-updater"},
    "decnet-logship": _CORE | {"decnet-logship"},
}
"""All that an environment holds in which only this package was asked for."""

NEVER_ON_A_WORKER = frozenset({"aiosqlite", "alembic", "asyncpg", "decnet-master", "scapy", "sqlalchemy", "typer"})
