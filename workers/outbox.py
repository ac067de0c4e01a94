"""Events that leave the service only if the transaction that caused them commits.

They are rows of ``outbox_events``, written in that transaction.
"""

import json
from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

INSERT = text("""
    INSERT INTO outbox_events (type, key, payload)
    SELECT :type, key, payload
    FROM unnest(CAST(:keys AS text[]), CAST(:payloads AS jsonb[])) WITH ORDINALITY
         AS event (key, payload, position)
    ORDER BY position
""")


def record_events(
    session: Session, event_type: str, events: Collection[tuple[str, Mapping[str, Any]]]
) -> None:
    """Record events of one type, each a key and a payload. Events of one key stay in order."""
    if not events:
        return
    session.execute(
        INSERT,
        {
            "type": event_type,
            "keys": [key for key, _ in events],
            "payloads": [json.dumps(payload) for _, payload in events],
        },
    )
