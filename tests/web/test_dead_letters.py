"""Dead letters in RabbitMQ are looked at, sent again and dropped from the page."""

import html
import json

import dramatiq
import pytest

from tests.rig.rabbitmq import RabbitMQ
from tests.web.page import Page, Pages
from workers.rabbitmq import Rabbitmq

JOB = "cleanup_long_inactive_chats"
FOREIGN = b"<script>alert('x')</script> is no message"


@pytest.fixture
def page(pages: Pages, clean_rabbitmq: RabbitMQ) -> Page:
    """A page beside a broker with the queue `low`, which nobody serves."""
    broker = Rabbitmq(
        urls=[clean_rabbitmq.url], queue_type="classic", middleware=list[dramatiq.Middleware]()
    )
    broker.declare_queue("low", ensure=True)
    broker.close()
    return pages(RABBITMQ_URL=clean_rabbitmq.url)


def bury(rabbitmq: RabbitMQ, count: int = 1) -> list[str]:
    """Put messages among the dead letters, and return their ids."""
    messages: list[dramatiq.Message[object]] = [
        dramatiq.Message(queue_name="low", actor_name=JOB, args=(), kwargs={}, options={})
        for _ in range(count)
    ]
    for message in messages:
        rabbitmq.publish("low.XQ", message.encode())
    return [message.message_id for message in messages]


def act(page: Page, action: str, **form: str) -> str:
    """Press a button, and return the page that it leads to."""
    form["form_token"] = page.form_token("/dead-letters")
    done = page.post(f"/dead-letters/low/{action}", form)
    assert done.status_code == 303, done.text
    return html.unescape(page.get(done.headers["location"]).text)


def counts(rabbitmq: RabbitMQ) -> tuple[int, int]:
    """Return how many messages wait in the queue, and how many are dead."""
    return rabbitmq.queue_counts("low").ready, rabbitmq.queue_counts("low.XQ").ready


def test_they_are_shown_whole_and_stay(page: Page, clean_rabbitmq: RabbitMQ) -> None:
    (message_id,) = bury(clean_rabbitmq)
    clean_rabbitmq.publish("low.XQ", FOREIGN)

    shown = page.get("/dead-letters").text
    assert message_id in shown
    assert "Not a message of ours" in shown
    assert "<script>alert" not in shown
    one = html.unescape(page.get("/dead-letters/low", params={"id": message_id}).text)
    assert JOB in one
    assert f'"message_id":"{message_id}"' in one
    assert page.get("/dead-letters/low", params={"id": "nobody"}).status_code == 404
    assert counts(clean_rabbitmq) == (0, 2)


def test_one_is_sent_again(page: Page, clean_rabbitmq: RabbitMQ) -> None:
    first, second = bury(clean_rabbitmq, 2)

    assert "Sent 1 dead letter again." in act(page, "requeue", id=second)

    assert counts(clean_rabbitmq) == (1, 1)
    (message,) = clean_rabbitmq.peek("low")
    assert json.loads(message.body)["message_id"] == second
    # Once is enough
    token = page.form_token("/dead-letters")
    again = page.post("/dead-letters/low/requeue", {"id": second, "form_token": token})
    assert again.status_code == 404
    assert first in page.get("/dead-letters").text


def test_all_of_a_queue_are_sent_again(page: Page, clean_rabbitmq: RabbitMQ) -> None:
    bury(clean_rabbitmq, 3)
    shown = act(page, "requeue", all="yes")
    assert "Sent 3 dead letters again." in shown
    assert "There are none" in shown
    assert counts(clean_rabbitmq) == (3, 0)


def test_one_is_dropped_and_never_all(page: Page, clean_rabbitmq: RabbitMQ) -> None:
    first, _ = bury(clean_rabbitmq, 2)
    assert "Dropped 1 dead letter." in act(page, "drop", id=first)
    assert counts(clean_rabbitmq) == (0, 1)

    token = page.form_token("/dead-letters")
    for form in ({"all": "yes"}, {"id": ""}):
        refused = page.post("/dead-letters/low/drop", {**form, "form_token": token})
        assert refused.status_code == 400
    assert counts(clean_rabbitmq) == (0, 1)
