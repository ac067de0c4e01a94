"""The configuration is checked whole before anything happens, and says what to do."""

from pathlib import Path

import pytest

from tests.rig.processes import Processes
from workers.settings import ConfigurationError, Settings, get_settings

WRONG = [
    ("DATABASE_URL", "mysql://user:secret@host/db", "must look like postgresql://"),
    ("DATABASE_URL", "postgresql://user:secret@host:99999/db", "port"),
    ("DATABASE_URL", "secret", "must look like postgresql://"),
    ("RABBITMQ_URL", "http://user:secret@host", "must look like amqp://"),
    ("RABBITMQ_URL", "amqp://user:secret@host:x/", "port"),
    ("RABBITMQ_URL", "amqp://user:secret@host;amqp://", "must look like amqp://"),
    ("CLOUDAMQP_URL", "redis://user:secret@host", "must look like amqp://"),
    ("CHAT_TIMEOUT_SECONDS", "-5", "greater than 0"),
    ("CHAT_TIMEOUT_SECONDS", "60", "CHAT_WARNING_SECONDS: must be less than"),
    ("CHAT_RETENTION_DAYS", "0", "greater than 0"),
    ("BATCH_SIZE", "many", "integer"),
    ("RABBITMQ_QUEUE_TYPE", "stream", "'classic' or 'quorum'"),
    ("SOFT_TIME_LIMIT_SECONDS", "1800", "less than HARD_TIME_LIMIT_SECONDS"),
    ("PORT", "70000", "65535"),
    ("LOG_FORMAT", "xml", "'json' or 'console'"),
    ("LOG_LEVEL", "LOUD", "'DEBUG'"),
]


@pytest.fixture(autouse=True)
def _fresh_settings() -> None:
    get_settings.cache_clear()


@pytest.mark.parametrize(("variable", "value", "reason"), WRONG)
def test_a_wrong_value_is_named_in_one_line_without_secrets(
    variable: str, value: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)

    with pytest.raises(ConfigurationError) as caught:
        get_settings()

    message = str(caught.value)
    assert variable in message
    assert reason in message
    assert "secret" not in message
    assert "\n" not in message


def test_every_wrong_variable_has_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_SIZE", "0")
    monkeypatch.setenv("LOG_LEVEL", "LOUD")

    with pytest.raises(ConfigurationError) as caught:
        get_settings()

    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "BATCH_SIZE",
        "LOG_LEVEL",
    ]


def test_the_environment_wins_over_the_env_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("BATCH_SIZE=5\nCHAT_RETENTION_DAYS=7\n")
    monkeypatch.setenv("BATCH_SIZE", "6")

    settings = get_settings()

    assert (settings.batch_size, settings.chat_retention_days) == (6, 7)


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "")
    monkeypatch.setenv("RABBITMQ_URL", "")
    monkeypatch.setenv("CLOUDAMQP_URL", "amqp://cloud")

    assert get_settings().database_url is None
    assert get_settings().rabbitmq_url == "amqp://cloud"


def test_herokus_url_scheme_is_accepted() -> None:
    settings = Settings(database_url="postgres://user:p%25w@host:5432/name?sslmode=require")

    assert (
        settings.database_url == "postgresql+psycopg2://user:p%25w@host:5432/name?sslmode=require"
    )


def test_secrets_are_not_shown() -> None:
    settings = Settings.model_validate(
        {
            "DATABASE_URL": "postgres://user:secret@host/db",
            "database_url": "postgres://user:secret@host/db",
            "rabbitmq_url": "amqp://user:secret@host",
            "ops_token": "secret",
        }
    )

    assert "secret" not in repr(settings)


@pytest.mark.parametrize(
    "command",
    [("dramatiq", "workers"), ("periodiq", "workers"), ("python", "-m", "workers", "jobs")],
)
def test_no_command_starts_on_a_wrong_setting(
    command: tuple[str, ...], processes: Processes
) -> None:
    done = processes.run(*command, env={"CHAT_TIMEOUT_SECONDS": "-5"})

    assert done.returncode == 2
    assert (
        "Error: CHAT_TIMEOUT_SECONDS: input should be greater than 0" in done.stdout + done.stderr
    )
    assert "Traceback" not in done.stdout + done.stderr
