"""Messages for `tests.traps.stock`."""

from typing import Any

import dramatiq


def message(actor: str, *arguments: Any) -> bytes:
    """Return the body of a message that has stock dramatiq call an actor."""
    return dramatiq.Message(
        queue_name="default", actor_name=actor, args=arguments, kwargs={}, options={}
    ).encode()
