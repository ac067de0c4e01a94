"""Of whatever lies in a queue, only messages that cannot do harm are handed on."""

import inspect
import math
import random
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import dramatiq
import pika
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import garbage
from workers import messages
from workers.broker import build_broker
from workers.database import Database
from workers.job import Job, Run
from workers.messages import Identity, Refused
from workers.periodic import EPOCH, cron, every
from workers.settings import Settings

NOW = datetime(2026, 11, 23, 19, 30, tzinfo=UTC)
NOW_MILLISECONDS = (NOW - EPOCH) // timedelta(milliseconds=1)
DAY_MILLISECONDS = 86_400_000
RETRY_DELAY_SECONDS = 300


def on_demand(run: Run, chat_id: int, *, reason: str = "") -> None: ...


def half_minutely(run: Run) -> None: ...


def leap_daily(run: Run) -> None: ...


def make_actors() -> dict[str, dramatiq.Actor[Any, Any]]:
    """Declare the jobs as the service does, each wrapped in its transaction."""
    database = Database("postgresql+psycopg2://nobody@127.0.0.1:1/nothing")
    broker = build_broker(Settings(), database, (), in_process=True)
    declare = partial(dramatiq.actor, actor_class=Job, broker=broker)
    declare(retry_delay_seconds=RETRY_DELAY_SECONDS)(on_demand)
    declare(periodic=every(seconds=30))(half_minutely)
    declare(periodic=cron("0 0 29 2 *"))(leap_daily)
    return broker.actors


ACTORS = make_actors()
GOOD = {
    "queue_name": "default",
    "actor_name": "on_demand",
    "args": [7],
    "kwargs": {"reason": "asked"},
    "options": {},
    "message_id": "0c1ef5b2-3d8f-4d0e-9a53-8d7f7e6a0d11",
    "message_timestamp": NOW_MILLISECONDS - 5_000,
}


def read(body: bytes, queue_name: str = "default") -> dramatiq.Message[Any]:
    return messages.read(body, queue_name=queue_name, actors=ACTORS, now=NOW)


def read_changed(changed: dict[str, Any], taken_from: str = "default") -> dramatiq.Message[Any]:
    return read(garbage.encode({**GOOD, **changed}), taken_from)


def for_a_slot(job: str, scheduled_at: object) -> dict[str, Any]:
    options = {"scheduled_at": scheduled_at}
    return {"actor_name": job, "args": [], "kwargs": {}, "options": options}


class TestOurs:
    def test_is_what_dramatiq_would_make_of_it(self) -> None:
        body = garbage.encode(GOOD)
        assert read(body) == dramatiq.Message.decode(body)

    @pytest.mark.parametrize("queue_name", ["default", "default.DQ"])
    @pytest.mark.parametrize("named", ["default", "default.DQ"])
    def test_is_given_the_name_of_the_queue_that_it_lay_in(
        self, queue_name: str, named: str
    ) -> None:
        # By this name dramatiq finds the consumer that acknowledges it.
        assert read_changed({"queue_name": named}, queue_name).queue_name == queue_name

    @pytest.mark.parametrize(
        "options",
        [
            {"eta": None},
            {"eta": -5},
            {"eta": NOW_MILLISECONDS - 10_000},
            {"eta": NOW_MILLISECONDS + 60_000.5},
            {"eta": NOW_MILLISECONDS + DAY_MILLISECONDS + 2_000 * RETRY_DELAY_SECONDS},
            {"broker_priority": None},
            {"broker_priority": 0},
            {"broker_priority": 255},
            {"time_limit": 60_000},
            {"throws": None},
            {"something_else": [1, {"of": "no concern"}]},
            # Of no meaning to a job without a schedule.
            {"scheduled_at": "soon"},
        ],
    )
    def test_may_have_options(self, options: dict[str, Any]) -> None:
        assert read_changed({"options": options}).options == options

    @pytest.mark.parametrize("scheduled_at", ["2026-11-23T19:30:00+00:00", "2020-01-01T00:00:00"])
    def test_may_be_for_a_slot(self, scheduled_at: str) -> None:
        message = read_changed(for_a_slot("half_minutely", scheduled_at))
        assert message.options == {"scheduled_at": scheduled_at}

    def test_may_lie_in_a_queue_that_its_job_has_left(self) -> None:
        assert read_changed({"queue_name": "low"}, "low").actor_name == "on_demand"


ODD_FIELDS = [
    ({"options": None}, "options must be an object, and is null"),
    ({"args": {"chat_id": 7}}, "args must be an array, and is an object"),
    ({"kwargs": []}, "kwargs must be an object, and is an array"),
    ({"message_timestamp": "now"}, "message_timestamp must be an integer, and is a string"),
    ({"message_timestamp": 1.5}, "message_timestamp must be an integer, and is a fraction"),
    ({"message_timestamp": True}, "message_timestamp must be an integer, and is a boolean"),
    ({"message_timestamp": -1}, "message_timestamp is not a time in the past"),
    ({"message_timestamp": 10**400}, "message_timestamp is not a time in the past"),
    ({"message_id": 7}, "message_id must be a string, and is an integer"),
    ({"message_id": ""}, "message_id must be 1 to 255 printable characters"),
    ({"message_id": "nul \x00"}, "message_id must be 1 to 255 printable characters"),
    ({"message_id": "surrogate \ud800"}, "message_id must be 1 to 255 printable characters"),
    ({"message_id": "x" * 256}, "message_id must be 1 to 255 printable characters"),
    ({"message_id": "two\nlines"}, "message_id must be 1 to 255 printable characters"),
    ({"queue_name": "low"}, "it names another queue, 'low'"),
    ({"queue_name": "low.DQ"}, "it names another queue, 'low.DQ'"),
    ({"actor_name": "make_coffee"}, "there is no actor 'make_coffee'"),
    ({"actor_name": "\n" * 1000}, "there is no actor '" + "\\n" * 60 + "'…"),
    ({"task": "celery"}, "there is no field 'task'"),
    (
        {"args": []},
        "its arguments do not fit on_demand: \"missing a required argument: 'chat_id'\"",
    ),
    ({"args": [7, 8]}, "its arguments do not fit on_demand: 'too many positional arguments'"),
    ({"kwargs": {"run": 1}}, 'its arguments do not fit on_demand: "multiple values for'),
    ({"kwargs": {"x": 1}}, 'its arguments do not fit on_demand: "got an unexpected keyword'),
]
ODD_OPTIONS = [
    ({"eta": "soon"}, "eta must be a number"),
    ({"eta": True}, "eta must be a number"),
    ({"eta": math.nan}, "eta must be a number"),
    ({"eta": math.inf}, "eta must be a number"),
    ({"eta": 10**400}, "eta is more than"),
    ({"eta": NOW_MILLISECONDS + DAY_MILLISECONDS + 2_001 * RETRY_DELAY_SECONDS}, "eta is more"),
    ({"broker_priority": "high"}, "broker_priority must be an integer from 0 to 255"),
    ({"broker_priority": ""}, "broker_priority must be an integer from 0 to 255"),
    ({"broker_priority": -1}, "broker_priority must be an integer from 0 to 255"),
    ({"broker_priority": 256}, "broker_priority must be an integer from 0 to 255"),
    ({"broker_priority": 1.0}, "broker_priority must be an integer from 0 to 255"),
    ({"time_limit": "long"}, "time_limit must be a number"),
    ({"time_limit": -1}, "time_limit must be more than 0"),
    ({"time_limit": 10**400}, "time_limit is more than 86400000"),
    ({"throws": "ValueError"}, "throws must be set on the actor, not on a message"),
]


class TestRefused:
    @pytest.mark.parametrize(("changed", "reason"), ODD_FIELDS)
    def test_for_an_odd_field(self, changed: dict[str, Any], reason: str) -> None:
        with pytest.raises(Refused) as refused:
            read_changed(changed)
        assert str(refused.value).startswith(reason)

    @pytest.mark.parametrize(("options", "reason"), ODD_OPTIONS)
    def test_for_an_odd_option(self, options: dict[str, Any], reason: str) -> None:
        with pytest.raises(Refused) as refused:
            read_changed({"options": options})
        assert str(refused.value).startswith(reason)

    @pytest.mark.parametrize("job", ["half_minutely", "leap_daily"])
    @pytest.mark.parametrize(
        "scheduled_at",
        [None, 3, "soon", "2026-02-30", "0001-01-01T00:00:00+23:59", "9999-12-31", "2027-11-23"],
    )
    def test_for_an_odd_slot(self, job: str, scheduled_at: object) -> None:
        if job == "leap_daily" and scheduled_at == "2027-11-23":
            return  # its slot is in 2024
        with pytest.raises(Refused, match="scheduled_at is"):
            read_changed(for_a_slot(job, scheduled_at))

    @pytest.mark.parametrize("field", list(GOOD))
    def test_for_a_missing_field(self, field: str) -> None:
        rest = {name: value for name, value in GOOD.items() if name != field}
        with pytest.raises(Refused, match=f"{field} is missing"):
            read(garbage.encode(rest))

    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            (b"", "its body is not JSON: JSONDecodeError"),
            (b"\xff\xfe", "its body is not JSON: UnicodeDecodeError"),
            (b"{", "its body is not JSON: JSONDecodeError"),
            (b"9" * 5_000, "its body is not JSON: ValueError"),
            (b"[" * 100_000, "its body is not JSON: RecursionError"),
            (b"[]", "its body is an array, not an object"),
            (b"null", "its body is null, not an object"),
            (b" " * 10_000_000, "its body has 10000000 bytes, more than 1000000"),
        ],
    )
    def test_for_its_body(self, body: bytes, reason: str) -> None:
        with pytest.raises(Refused) as refused:
            read(body)
        assert str(refused.value) == reason

    def test_for_depth_that_python_can_read_but_not_everywhere_write(self) -> None:
        deep: list[Any] = []
        for _ in range(100):
            deep = [deep]
        with pytest.raises(Refused, match="nested deeper than 50 levels"):
            read_changed({"args": [deep]})

    def test_without_telling_what_it_carries(self) -> None:
        for changed in ({"args": ["s3cret"] * 3}, {"options": {"eta": "s3cret"}}):
            with pytest.raises(Refused) as refused:
                read_changed(changed)
            assert "s3cret" not in str(refused.value)


class TestIdentity:
    def test_is_told_of_a_good_message(self) -> None:
        body = garbage.encode(GOOD)
        key = GOOD["message_id"]
        assert messages.identify(body, ACTORS) == Identity(str(key), "on_demand", None, str(key))

    def test_of_a_slot_is_that_of_its_run(self) -> None:
        options = {"scheduled_at": "2026-11-23T19:30:10+00:00"}
        body = garbage.encode({**GOOD, "actor_name": "half_minutely", "options": options})
        assert messages.identify(body, ACTORS) == Identity(
            str(GOOD["message_id"]), "half_minutely", NOW, "half_minutely@2026-11-23T19:30:00Z"
        )

    def test_is_told_as_far_as_it_goes(self) -> None:
        name = str(GOOD["message_id"])
        for changed, told in (
            ({"options": None}, Identity(name, "on_demand", None, name)),
            ({"actor_name": "gone"}, Identity(name, "gone", None, name)),
            ({"actor_name": 5}, Identity(name, None, None, name)),
            ({"message_id": "\x00"}, Identity(None, "on_demand", None, None)),
            # For which slot, only its actor could tell.
            (
                {"actor_name": "gone", "options": {"scheduled_at": "2026-11-23T19:30:00"}},
                Identity(name, "gone", None, None),
            ),
        ):
            assert messages.identify(garbage.encode({**GOOD, **changed}), ACTORS) == told
        assert messages.identify(b"\xff", ACTORS) == Identity()


def assert_can_do_no_harm(message: dramatiq.Message[Any], queue_name: str) -> None:
    """Do with a message what dramatiq, pika and the middleware do with it, one way or another."""
    assert message.queue_name == queue_name
    assert message.message_id.encode().count(b"\x00") == 0
    assert message.message_datetime <= NOW + timedelta(days=2)
    assert dramatiq.Message.decode(message.encode()).message_id == message.message_id
    message.copy(queue_name="default.DQ", options={"eta": 1}).encode()
    pika.BasicProperties(priority=message.options.get("broker_priority")).encode()
    assert len(str(message)) < 10 * messages.MAX_BODY_BYTES
    eta = message.options.get("eta")
    if eta is not None:
        assert eta <= NOW_MILLISECONDS + 2 * DAY_MILLISECONDS
    assert (message.options.get("time_limit") or 1) / 1000 > 0
    actor = ACTORS[message.actor_name]
    inspect.signature(actor.fn).bind(None, *message.args, **message.kwargs)
    if ticker := actor.options.get("periodic"):
        ticker.slot_of(message.options)


def look_at(body: bytes, queue_name: str = "default") -> bool:
    """Show that a body is either refused in one short line or can do no harm."""
    identity = messages.identify(body, ACTORS)
    try:
        message = read(body, queue_name)
    except Refused as refused:
        reason = str(refused)
    else:
        reason = ""
        assert_can_do_no_harm(message, queue_name)
        assert identity.message_id == message.message_id
        assert identity.run_key
    assert reason.isprintable()
    assert len(reason) < 400
    return not reason


@pytest.mark.parametrize(
    ("seed", "job"), [(1, "half_minutely"), (2, "leap_daily"), (3, "on_demand")]
)
def test_no_spoiled_message_does_harm(seed: int, job: str) -> None:
    bodies = garbage.spoil_many(seed, 20_000, job=job, queue="default")

    # Some are still good, so this looks at both kinds.
    assert 0 < sum(look_at(body) for body in bodies) < 4_000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=10,
)
OPTIONS = st.dictionaries(st.sampled_from(garbage.OPTIONS) | st.text(), JSON)
MESSAGES = st.fixed_dictionaries(
    {
        "queue_name": st.just("default") | JSON,
        "actor_name": st.sampled_from(list(ACTORS)) | JSON,
        "args": st.just([]) | st.lists(JSON) | JSON,
        "kwargs": st.just({}) | JSON,
        "options": OPTIONS | JSON,
        "message_id": st.text(st.characters(codec=None)) | JSON,
        "message_timestamp": st.just(0) | st.integers() | JSON,
    }
)
BODIES = st.binary() | JSON.map(garbage.encode) | MESSAGES.map(garbage.encode)


@settings(max_examples=1_000)
@given(BODIES, st.sampled_from(["default", "default.DQ", "low"]))
def test_nothing_that_anybody_can_think_of_does_harm(body: bytes, queue_name: str) -> None:
    look_at(body, queue_name)


@settings(max_examples=200)
@given(st.lists(JSON, max_size=3), OPTIONS, st.integers(min_value=0, max_value=NOW_MILLISECONDS))
def test_whatever_dramatiq_sends_for_a_job_is_ours(
    values: list[Any], options: dict[str, Any], timestamp: int
) -> None:
    message: dramatiq.Message[Any] = dramatiq.Message(
        queue_name="default",
        actor_name="on_demand",
        args=(1,),
        kwargs={"reason": values},
        options={name: value for name, value in options.items() if name not in garbage.OPTIONS},
        message_timestamp=timestamp,
    )
    assert look_at(message.encode())


def test_the_garbage_is_of_all_kinds() -> None:
    chance = random.Random(0)
    good = garbage.good(chance, job="half_minutely", queue="default")
    assert look_at(garbage.encode(good))
    assert len({way(chance, good) for way in garbage.WAYS}) == len(garbage.WAYS)
