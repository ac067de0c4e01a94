"""Gives actors their schedule, and the tickers the news of what the broker took."""

from collections.abc import Callable, Iterable
from typing import Any

import dramatiq

from workers.periodic import Entry, Ticker


class Slots(dramatiq.Middleware):
    """Adds the actor option ``periodic``, which the stock periodiq scheduler looks for.

    It takes the place of periodiq's own middleware, which skips, for good, any message that is
    older than 30 seconds, and so every retry.

    Args:
        schedule: which job is due when.
        on_look: called whenever this process looks, as a scheduler, for what is due.
    """

    def __init__(
        self, schedule: Iterable[Entry], *, on_look: Callable[[], None] = lambda: None
    ) -> None:
        self._specs = {entry.job: entry.spec for entry in schedule}
        self._on_look = on_look

    @property
    def actor_options(self) -> set[str]:
        return {"periodic"}

    def after_declare_actor(self, broker: dramatiq.Broker, actor: dramatiq.Actor[Any, Any]) -> None:
        spec = self._specs.get(actor.actor_name, actor.options.get("periodic"))
        if isinstance(spec, Ticker):
            # What another broker was handed before the actor moved is no news to this one.
            spec = spec.spec
        if spec is not None:
            actor.options["periodic"] = Ticker(spec, on_look=self._on_look)

    def after_enqueue(
        self, broker: dramatiq.Broker, message: dramatiq.Message[Any], delay: int | None
    ) -> None:
        ticker: Ticker | None = broker.get_actor(message.actor_name).options.get("periodic")
        slot = ticker.slot_of(message.options) if ticker else None
        if ticker and slot:
            ticker.handed_over(slot)
