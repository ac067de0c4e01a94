"""The environment of the tests: none of the service's settings but those that a test gives."""

import os
from collections.abc import Mapping
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]

SETTINGS = frozenset(
    {
        "BATCH_SIZE",
        "CHAT_RETENTION_DAYS",
        "CHAT_TIMEOUT_SECONDS",
        "CHAT_WARNING_SECONDS",
        "CLOUDAMQP_URL",
        "DATABASE_URL",
        "HARD_TIME_LIMIT_SECONDS",
        "LOG_FORMAT",
        "LOG_LEVEL",
        "MAX_MEMORY_MB_PER_PROCESS",
        "MAX_TASKS_PER_PROCESS",
        "METRICS_PORT",
        "OPS_TOKEN",
        "PORT",
        "RABBITMQ_QUEUE_TYPE",
        "RABBITMQ_URL",
        "RUN_RETENTION_DAYS",
        "SHUTDOWN_GRACE_SECONDS",
        "SOFT_TIME_LIMIT_SECONDS",
        "STANDBY_AFTER_SECONDS",
    }
)
"""Every variable that the service reads."""


def forget_settings() -> None:
    """Remove all settings from this process's environment, and so from that of its children."""
    for name in list(os.environ):
        # dramatiq has settings of its own, some of them read at import.
        if name in SETTINGS or name.startswith("dramatiq_"):
            del os.environ[name]


def process_environment(overrides: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment for a child process: this one's, and `overrides`."""
    return {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        # So that `tests.some_jobs` can be imported from any working directory.
        "PYTHONPATH": str(REPOSITORY),
        **(overrides or {}),
    }
