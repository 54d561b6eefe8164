"""Configuration: one INI file for all programs of a host, each reading only what is its own.

`/etc/decnet/decnet.ini` (or the file that `DECNET_CONFIG` names) has a section `[decnet]` with what every program
shares and one section for each role: `[master]`, `[agent]`, `[updater]`, `[logship]`. A program reads `[decnet]` and
its own section; the other roles' keys are never looked at, but for one that a program passes on in another's name
(`passed_on`). Keys are written with hyphens. A real environment variable
`DECNET_<KEY>` (upper case, underscores) wins over the file; an argument on the command line wins over both. An empty
value, in the file or in a variable, is the same as none.

A section that no role has, and a key that the role does not know, are refused with the nearest known one, because a
typing error in a security tool must not pass as a silent default. Unknown DECNET_ variables are ignored: they may
belong to another role.

Secrets are not validated here: a setting that holds one is optional, and `required` is called where it is read, so
that a worker never needs the master's. Messages never quote a value.
"""

from __future__ import annotations

import configparser
import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from decnet_core.errors import ConfigError

DEFAULT_CONFIG = Path("/etc/decnet/decnet.ini")
MAX_CONFIG_BYTES = 1 << 20
SECTIONS = ("decnet", "master", "agent", "updater", "logship")
"""All that may stand in the file."""


class RoleSettings(BaseSettings):
    """What every program shares; each role adds its own keys in a subclass and names its section.

    Read one with `load`, which turns every fault into a ConfigError.
    """

    model_config = SettingsConfigDict(env_prefix="DECNET_", extra="forbid", frozen=True, env_ignore_empty=True)

    section: ClassVar[str]

    data_directory: Path = Path("/var/lib/decnet")
    log_directory: Path = Path("/var/log/decnet")
    run_directory: Path = Path("/run/decnet")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_output: Literal["stderr", "file"] = "stderr"
    """`stderr` is the journal under systemd; `file` is `<log-directory>/decnet.<role>.log`."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 -- the base class's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 -- the base class's signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: command line, environment, file."""
        return init_settings, env_settings, _IniSource(settings_cls)

    @classmethod
    def load(cls, **arguments: Any) -> Self:
        """Read the configuration; arguments (from the command line) that are not None win over all.

        Raises:
            ConfigError: the file cannot be read or parsed, a key is unknown, or a value does not fit.
        """
        try:
            return cls(**{name: value for name, value in arguments.items() if value is not None})
        except ValidationError as cause:
            faults = "; ".join(_fault(error["loc"], error["msg"]) for error in cause.errors(include_input=False))
            raise ConfigError(
                f"The configuration does not fit: {faults}",
                f"Correct {config_path()} or the DECNET_ variable of that name.",
            ) from None
        except SettingsError:
            # Not chained and not quoted: its text may hold the value.
            raise ConfigError(
                "A DECNET_ variable holds something else than its setting takes",
                "Write lists and tables in variables as JSON.",
            ) from None


def config_path() -> Path:
    """Tell which file is read."""
    return Path(os.environ.get("DECNET_CONFIG") or DEFAULT_CONFIG)


def required(value: str | None, setting: str, purpose: str) -> str:
    """Hand on a secret where it is needed.

    Raises:
        ConfigError: it is not set.
    """
    if not value:
        raise ConfigError(
            f"{setting} is not set and is needed to {purpose}",
            f"Set it in {config_path()} or as DECNET_{setting.upper().replace('-', '_')}.",
        )
    return value


def read_ini(path: Path, section: str, known: Mapping[str, Any] | frozenset[str]) -> dict[str, str]:
    """Read `[decnet]` and one role's section of a file; a file that does not exist is empty.

    Args:
        path: the file.
        section: the role's section.
        known: field names (with underscores) that may stand there.

    Returns:
        Field names to raw text, without those that are empty; the role's section wins.

    Raises:
        ConfigError: unreadable, not INI, too large, or a section or key that is not known.
    """
    parser = _parsed(path)
    strangers = [name for name in parser.sections() if name not in SECTIONS]
    if strangers:
        raise ConfigError(f"{path} has the unknown section {strangers[0]!r}", _nearest(strangers[0], SECTIONS))
    values: dict[str, str] = {}
    for name in ("decnet", section):
        for key, value in parser.items(name) if parser.has_section(name) else ():
            field = key.replace("-", "_")
            if field not in known or field == key != field.replace("_", "-"):
                keys = [field.replace("_", "-") for field in known]
                raise ConfigError(f"{path}: [{name}] has the unknown key {key!r}", _nearest(key, keys))
            if value:
                values[field] = value
    return values


def passed_on(section: str, setting: str, default: str) -> str:
    """Read what another role of this host is set to, for a program that tells it to others.

    A worker's agent names the updater's port to the master.

    Args:
        section: the role's.
        setting: as it is written in the file, such as `updater-address`.
        default: the role's own.

    Raises:
        ConfigError: the file cannot be read or parsed. The value is not checked.
    """
    variable = f"DECNET_{setting.upper().replace('-', '_')}"
    return os.environ.get(variable) or _parsed(config_path()).get(section, setting, fallback="") or default


def _parsed(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, default_section="\0", inline_comment_prefixes=None)
    try:
        parser.read_string(_text_of(path) or "", source=str(path))
    except configparser.Error as cause:
        line = getattr(cause, "lineno", None)
        place = f" near line {line}" if isinstance(line, int) else ""
        raise ConfigError(
            f"{path} is not an INI file{place}: {type(cause).__name__}",
            "Write [section] lines and key = value lines; decnet.ini.example shows all keys.",
        ) from None
    return parser


def _text_of(path: Path) -> str | None:
    """Read a whole file, bounded; None where there is none and none was asked for."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
    except FileNotFoundError:
        if os.environ.get("DECNET_CONFIG"):
            raise ConfigError(f"{path} does not exist", "DECNET_CONFIG names it: correct or unset it.") from None
        return None
    except OSError as cause:
        raise ConfigError(
            f"Cannot read {path}: {cause.strerror}",
            "Make it a file, and run as root or as a user who may read it (it is root:decnet 0640).",
        ) from cause
    if len(raw) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes", "That is no configuration file of ours.")
    try:
        return raw.decode("utf-8-sig")  # Windows' editors begin with a BOM
    except UnicodeDecodeError as cause:
        raise ConfigError(f"{path} is not UTF-8 text (byte {cause.start})", "Save it as UTF-8.") from cause


class _IniSource(PydanticBaseSettingsSource):
    """Feeds the INI file of the role to pydantic-settings."""

    def __call__(self) -> dict[str, Any]:
        fields = self.settings_cls.model_fields
        section: str = self.settings_cls.section  # type: ignore[attr-defined]  # every subclass names one
        return dict(read_ini(config_path(), section, fields))

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        """Unused: the whole file is read at once in `__call__`."""
        return None, field_name, False


def _fault(location: tuple[int | str, ...], text: str) -> str:
    # What holds two settings against each other has no location: its text names them.
    key = ".".join(str(part) for part in location).replace("_", "-")
    return f"{key}: {text}" if key else text.removeprefix("Value error, ")


def _nearest(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"Did you mean {close[0]!r}?" if close else f"Remove it; known are {', '.join(names)}."
