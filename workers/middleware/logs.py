"""Puts a run's names on every line that is logged from its delivery until it is settled."""

import time
from typing import Any

import dramatiq
from dramatiq.broker import MessageProxy
from structlog.contextvars import bind_contextvars, clear_contextvars

from workers.logs import run_began


class LogContext(dramatiq.Middleware):
    """Binds ``job`` and ``message_id``; the transaction adds ``slot`` and ``attempt``."""

    def before_process_message(self, broker: dramatiq.Broker, message: MessageProxy) -> None:
        clear_contextvars()
        bind_contextvars(job=message.actor_name, message_id=message.message_id)
        run_began.set(time.monotonic())

    def after_process_message(
        self,
        broker: dramatiq.Broker,
        message: MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        clear_contextvars()
        run_began.set(None)
