"""The service's configuration: read from the environment, checked before anything else happens.

In development a ``.env`` file in the working directory is read too; the environment wins over it.
No message of this module repeats a URL, because URLs carry passwords.
"""

import sys
from functools import cache
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    Field,
    PositiveInt,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from workers.redaction import passwords_of

Port = Annotated[int, Field(ge=1, le=65535)]
Lowered = BeforeValidator(lambda text: text.lower() if isinstance(text, str) else text)
Raised = BeforeValidator(lambda text: text.upper() if isinstance(text, str) else text)


class ConfigurationError(Exception):
    """A wrong setting; each of its lines names the variable and says what to do."""


def refuse_to_start(error: Exception) -> SystemExit:
    """Say what is wrong, a line each, and return the exit to raise: code 2, bad configuration."""
    for line in str(error).splitlines():
        sys.stderr.write(f"Error: {line}\n")
    return SystemExit(2)


def _checked_database_url(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if scheme not in ("postgres", "postgresql", "postgresql+psycopg2") or not separator:
        raise ValueError("must look like postgresql://user:password@host:5432/database")
    try:
        _ = urlsplit(url).port
    except ValueError as error:
        raise ValueError("has a port that is not a number up to 65535") from error
    # Heroku still hands out the scheme postgres://, which SQLAlchemy no longer knows.
    return f"postgresql+psycopg2://{rest}"


def _checked_rabbitmq_url(urls: str) -> str:
    for url in urls.split(";"):
        parts = urlsplit(url.strip())
        if parts.scheme not in ("amqp", "amqps") or not parts.hostname:
            raise ValueError(
                "must look like amqp://user:password@host:5672/vhost ('amqps' for TLS, "
                "';' between the nodes of a cluster)"
            )
        try:
            _ = parts.port
        except ValueError as error:
            raise ValueError("has a port that is not a number up to 65535") from error
    return ";".join(url.strip() for url in urls.split(";"))


class Settings(BaseSettings):
    """All settings, with their defaults. Field names are the variables' names in lower case."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        populate_by_name=True,
    )

    database_url: Annotated[str, AfterValidator(_checked_database_url)] | None = Field(
        default=None, repr=False
    )
    """PostgreSQL; unset: an embedded server under ``./.local/``."""

    rabbitmq_url: Annotated[str, AfterValidator(_checked_rabbitmq_url)] | None = Field(
        default=None,
        repr=False,
        validation_alias=AliasChoices("RABBITMQ_URL", "CLOUDAMQP_URL"),
    )
    """RabbitMQ, ``;`` between cluster nodes; unset: the in-process broker."""

    rabbitmq_queue_type: Annotated[Literal["classic", "quorum"], Lowered] = "classic"
    chat_timeout_seconds: PositiveInt = 120
    chat_warning_seconds: PositiveInt = 60
    chat_retention_days: PositiveInt = 30
    batch_size: Annotated[int, Field(gt=0, le=1_000_000)] = 10_000
    """Rows of the driving table that one transaction of a job touches at most."""

    soft_time_limit_seconds: PositiveInt = 1500
    """A run that takes longer is interrupted, rolled back and counted as failed."""

    hard_time_limit_seconds: PositiveInt = 1800
    """A run that takes longer all the same is ended with its process."""

    max_tasks_per_process: PositiveInt = 1000
    """After how many runs a worker process is renewed."""

    max_memory_mb_per_process: PositiveInt | None = None
    """At what size, in MiB, a worker process is renewed; unset: at none."""

    shutdown_grace_seconds: PositiveInt = 25
    """How long a stop signal waits for the runs in progress."""

    run_retention_days: PositiveInt = 14
    """How long the ledger keeps runs that ended well."""

    standby_after_seconds: PositiveInt = 15
    """For so long RabbitMQ must be away before a standby takes over."""

    ops_token: SecretStr | None = None
    """What opens the operations page; unset: it is for its own machine only."""

    port: Port = 8000
    """Where the operations page is."""

    metrics_port: Port | None = None
    """Where worker processes serve their metrics: the first takes it, others the ports after it."""

    log_format: Annotated[Literal["json", "console"], Lowered] | None = None
    """Unset: ``console`` on a terminal, else ``json``."""

    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], Raised] = "INFO"

    @model_validator(mode="after")
    def _warning_comes_before_the_timeout(self) -> Self:
        if self.chat_warning_seconds >= self.chat_timeout_seconds:
            raise ValueError(
                f"CHAT_WARNING_SECONDS: must be less than CHAT_TIMEOUT_SECONDS "
                f"({self.chat_timeout_seconds}), not {self.chat_warning_seconds}"
            )
        return self

    @model_validator(mode="after")
    def _soft_limit_comes_before_the_hard_one(self) -> Self:
        if self.soft_time_limit_seconds >= self.hard_time_limit_seconds:
            raise ValueError(
                f"SOFT_TIME_LIMIT_SECONDS: must be less than HARD_TIME_LIMIT_SECONDS "
                f"({self.hard_time_limit_seconds}), not {self.soft_time_limit_seconds}"
            )
        return self

    @property
    def secrets(self) -> set[str]:
        """What must never be shown."""
        urls = [url for url in (self.database_url, self.rabbitmq_url) if url]
        tokens = {self.ops_token.get_secret_value()} if self.ops_token else set()
        return tokens.union(*map(passwords_of, urls))

    @property
    def log_format_in_use(self) -> Literal["json", "console"]:
        """``LOG_FORMAT``, or what fits the place where standard error goes."""
        return self.log_format or ("console" if sys.stderr.isatty() else "json")


@cache
def get_settings() -> Settings:
    """Read and check the settings once per process.

    Raises:
        ConfigurationError: with one line for each wrong variable.
    """
    try:
        return Settings()
    except ValidationError as error:
        lines = [_line(problem) for problem in error.errors(include_url=False)]
        raise ConfigurationError("\n".join(lines)) from None


def _line(problem: Any) -> str:
    reason = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return str(reason)
    variable = str(problem["loc"][0]).upper()
    if variable == "RABBITMQ_URL":
        variable = "RABBITMQ_URL (or CLOUDAMQP_URL)"
    return f"{variable}: {reason[0].lower()}{reason[1:]}"
