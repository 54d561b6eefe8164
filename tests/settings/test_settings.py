"""The configuration as an operator gets it wrong."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from decnet_core.errors import ConfigError, ExitCode
from decnet_core.settings import MAX_CONFIG_BYTES, SECTIONS, RoleSettings, config_path, passed_on, required


class Settings(RoleSettings):
    section: ClassVar[str] = "agent"

    agent_address: str = "0.0.0.0:8765"
    batch_size: Annotated[int, Field(ge=1)] = 5
    names: tuple[str, ...] = ()
    secret: str | None = None


@pytest.fixture(autouse=True)
def ini(tmp_path, monkeypatch):
    """The file that DECNET_CONFIG names; no other DECNET_ variable is set."""
    for name in [name for name in os.environ if name.upper().startswith("DECNET_")]:
        monkeypatch.delenv(name)
    path = tmp_path / "decnet.ini"
    path.touch()
    monkeypatch.setenv("DECNET_CONFIG", str(path))
    return path


def refused(**arguments) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        Settings.load(**arguments)
    assert caught.value.exit_code == ExitCode.CONFIG
    assert caught.value.advice
    return caught.value


def test_defaults_need_no_file(monkeypatch):
    monkeypatch.delenv("DECNET_CONFIG")
    assert config_path() == Path("/etc/decnet/decnet.ini")
    assert Settings.load().data_directory == Path("/var/lib/decnet")


def test_a_file_that_is_named_must_exist(ini):
    ini.unlink()
    assert "does not exist" in refused().message


def test_an_empty_name_of_a_file_is_none(monkeypatch):
    monkeypatch.setenv("DECNET_CONFIG", "")
    assert Settings.load().log_level == "info"


def test_command_line_over_environment_over_role_over_shared(ini, monkeypatch):
    ini.write_text("[decnet]\nbatch-size = 1\n[agent]\n")
    assert Settings.load().batch_size == 1
    ini.write_text("[agent]\nbatch-size = 2\n[decnet]\nbatch-size = 1\n")
    assert Settings.load().batch_size == 2
    monkeypatch.setenv("DECNET_BATCH_SIZE", "3")
    assert Settings.load().batch_size == 3
    assert Settings.load(batch_size=4).batch_size == 4
    assert Settings.load(batch_size=None).batch_size == 3


def test_what_another_role_is_set_to_is_passed_on(ini, monkeypatch):
    def told() -> str:
        return passed_on("updater", "updater-address", "0.0.0.0:1")

    assert told() == "0.0.0.0:1"
    ini.write_text("[agent]\nupdater-address = 0.0.0.0:2\n[updater]\nupdater-address =\n")
    assert told() == "0.0.0.0:1"
    ini.write_text("[updater]\nupdater-address = 0.0.0.0:3\nwhat-the-agent-does-not-know = 100%\n")
    assert told() == "0.0.0.0:3"
    monkeypatch.setenv("DECNET_UPDATER_ADDRESS", "0.0.0.0:4")
    assert told() == "0.0.0.0:4"
    ini.write_text("[updater\n")
    monkeypatch.delenv("DECNET_UPDATER_ADDRESS")
    with pytest.raises(ConfigError, match="not an INI file"):
        told()


@pytest.mark.parametrize("value", ["", None])
def test_nothing_is_the_same_as_none(ini, monkeypatch, value):
    ini.write_text("[agent]\nbatch-size =\nsecret =\n")
    if value is not None:
        monkeypatch.setenv("DECNET_BATCH_SIZE", value)
    settings = Settings.load()
    assert (settings.batch_size, settings.secret) == (5, None)


def test_an_empty_variable_does_not_hide_the_file(ini, monkeypatch):
    ini.write_text("[agent]\nbatch-size = 2\n")
    monkeypatch.setenv("DECNET_BATCH_SIZE", "")
    assert Settings.load().batch_size == 2


def test_other_roles_keys_are_never_read(ini, monkeypatch):
    ini.write_text("[master]\nbatch-size = nonsense\nno-such-key = 1\n[updater]\nlog-level = shouting\n")
    monkeypatch.setenv("DECNET_NO_SUCH_KEY", "1")
    assert Settings.load() == Settings()


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        ("batch-sise", "'batch-size'"),
        ("log-dir", "'log-directory'"),
        ("batch_size", "'batch-size'"),
        ("qqqq", "known are agent-address, batch-size"),
        ("section", "'secret'"),
    ],
)
@pytest.mark.parametrize("section", ["decnet", "agent"])
def test_an_unknown_key_is_refused_with_the_nearest(ini, section, key, advice):
    ini.write_text(f"[{section}]\n{key} = 1\n")
    error = refused()
    assert f"[{section}] has the unknown key {key!r}" in error.message
    assert advice in error.advice


def test_an_unknown_section_is_refused_with_the_nearest(ini):
    ini.write_text("[agnet]\nbatch-size = 7\n")
    error = refused()
    assert "unknown section 'agnet'" in error.message
    assert "'agent'" in error.advice
    ini.write_text("".join(f"[{name}]\n" for name in SECTIONS))
    assert Settings.load() == Settings()


def test_keys_in_capitals_and_text_with_specials(ini):
    ini.write_text("; a comment\n[agent]\nAgent-Address = %(here)s ; # $HOME = x\n# another\n", encoding="utf-8")
    assert Settings.load().agent_address == "%(here)s ; # $HOME = x"


def test_the_byte_order_mark_of_windows_is_no_matter(ini):
    ini.write_text("[agent]\r\nbatch-size = 9\r\n", encoding="utf-8-sig")
    assert Settings.load().batch_size == 9


def test_a_folder_in_its_place_cannot_be_read(ini):
    ini.unlink()
    ini.mkdir()
    assert str(ini) in refused().message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[agent]\nsecret = \xff\xfe\n", "not UTF-8 text (byte 17)"),
        (b"batch-size = 1\n", "near line 1"),
        (b"[agent]\nbatch-size\n", "not an INI file"),
        (b"[agent]\nsecret = 1\nsecret = 2\n", "near line 3"),
        (b"[agent]\n[agent]\n", "near line 2"),
        (b"\x7fELF\x02\x01\x01\0\0", "not an INI file"),
        (b"#" * (MAX_CONFIG_BYTES + 1), "larger than"),
    ],
)
def test_a_file_that_is_none_of_ours(ini, content, words):
    ini.write_bytes(content)
    assert words in refused().message


def test_a_file_without_end_is_read_no_further_than_the_bound(monkeypatch):
    monkeypatch.setenv("DECNET_CONFIG", "/dev/zero")
    assert "larger than" in refused().message


@given(
    content=st.binary(max_size=200)
    | st.text().map(str.encode)
    | st.text().map(lambda text: f"[agent]\n{text}".encode())
)
def test_any_file_is_a_configuration_or_a_config_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("ini") / "decnet.ini"
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DECNET_CONFIG", str(path))
        try:
            settings = Settings.load()
        except ConfigError:
            return
    assert settings.batch_size >= 1


SECRET = "hunter2-and-more"


@pytest.mark.parametrize("name", ["batch-size", "log-level"])
def test_no_message_quotes_a_value(ini, monkeypatch, name):
    ini.write_text(f"[agent]\n{name} = {SECRET}\n")
    error = refused()
    assert name in error.message
    assert SECRET not in error.message + error.advice
    ini.write_text("")
    monkeypatch.setenv(f"DECNET_{name.upper().replace('-', '_')}", SECRET)
    assert SECRET not in str(refused())


def test_a_variable_that_is_no_json_is_refused_without_quoting_it(monkeypatch):
    monkeypatch.setenv("DECNET_NAMES", SECRET)
    error = refused()
    assert SECRET not in error.message + error.advice
    assert error.__cause__ is None


def test_all_faults_are_told_at_once(ini):
    ini.write_text("[agent]\nbatch-size = 0\nlog-level = loud\n")
    message = refused().message
    assert "batch-size" in message
    assert "log-level" in message


def test_a_secret_is_asked_for_where_it_is_used(ini):
    assert Settings.load().secret is None  # loading without it is fine
    with pytest.raises(ConfigError, match="ca-passphrase is not set and is needed to open the CA") as caught:
        required(None, "ca-passphrase", "open the CA")
    assert "DECNET_CA_PASSPHRASE" in caught.value.advice
    assert str(ini) in caught.value.advice
    with pytest.raises(ConfigError):
        required("", "ca-passphrase", "open the CA")
    assert required("x", "ca-passphrase", "open the CA") == "x"


def test_settings_do_not_change():
    with pytest.raises(ValueError, match="frozen"):
        Settings.load().batch_size = 1
