"""Points that expire, by example; random ledgers are compared with a slow calculation elsewhere."""

import logging
from datetime import timedelta
from typing import Any

import pytest

from tests.marketplace import marketplace
from tests.marketplace.jobs import NOW, run_job
from workers.database import Database

JOB = "check_expired_points"

DUE = NOW - timedelta(minutes=1)
NEXT_WEEK = NOW + timedelta(days=7)
NEVER = None

ADA, BEN = 1_000_001, 1_000_002

Entry = dict[str, Any]


def earn(amount: int, expires_at: Any, **values: Any) -> Entry:
    return {"type": "earn", "amount": amount, "expires_at": expires_at, **values}


def spend(amount: int) -> Entry:
    return {"type": "spend", "amount": amount}


def expire(amount: int, lot: int) -> Entry:
    return {"type": "expire", "amount": amount, "related_id": lot}


def start(database: Database, *ledgers: tuple[int, int | None, list[Entry]]) -> None:
    """Begin with these people, the balance of each (None: no account), and their ledgers."""
    ids = iter(range(1_000_000, 2_000_000))
    marketplace.clear(database)
    marketplace.fill(
        database,
        {
            "users": [{"id": user_id, "name": "Somebody"} for user_id, _, _ in ledgers],
            "points_accounts": [
                {"user_id": user_id, "balance": balance}
                for user_id, balance, _ in ledgers
                if balance is not None
            ],
            "points_transactions": [
                {"id": next(ids), "user_id": user_id, **entry}
                for user_id, _, ledger in ledgers
                for entry in ledger
            ],
        },
    )


def balance(database: Database, user_id: int = ADA) -> int:
    accounts = marketplace.read(database)["points_accounts"]
    return next(int(row["balance"]) for row in accounts if row["user_id"] == user_id)


def expired(database: Database) -> list[tuple[int, int]]:
    """Amount, and balance after it, of what expired in this run."""
    return [
        (row["amount"], row["balance_after"])
        for row in marketplace.read(database)["points_transactions"]
        if row["source"] == "points_expire" and row["created_at"] == NOW
    ]


@pytest.mark.parametrize(
    ("ledger", "before", "expires", "after"),
    [
        ([earn(100, DUE)], 100, [100], 0),
        ([earn(100, DUE), spend(30)], 70, [70], 0),
        ([earn(100, DUE), spend(100), earn(50, NEVER)], 50, [], 50),
        ([earn(100, DUE), earn(60, DUE), spend(120)], 40, [40], 0),
        ([earn(40, DUE), earn(60, NEXT_WEEK), spend(50)], 50, [], 50),
    ],
)
def test_what_was_spent_is_taken_from_the_lots_that_expire_first(
    shared_database: Database, ledger: list[Entry], before: int, expires: list[int], after: int
) -> None:
    start(shared_database, (ADA, before, ledger))

    counts = run_job(shared_database, JOB)

    due = [entry for entry in ledger if entry.get("expires_at") == DUE]
    assert counts == {
        "lots": len(due),
        "points": sum(expires),
        "users": int(bool(expires)),
        "mismatched": 0,
    }
    assert [amount for amount, _ in expired(shared_database)] == expires
    assert balance(shared_database) == after


@pytest.mark.parametrize(
    ("ledger", "before", "expires"),
    [
        # What expired cannot have been spent: the 30 came from the second lot.
        (
            [earn(100, DUE, expired=True), expire(100, 1_000_000), earn(50, NOW), spend(30)],
            20,
            [20],
        ),
        # 30 of the first lot were spent before the rest of it expired, 20 of the second after.
        (
            [
                earn(100, DUE, expired=True),
                spend(30),
                expire(70, 1_000_000),
                earn(50, NOW),
                spend(20),
            ],
            30,
            [30],
        ),
        # A part of a lot expired before its time.
        ([earn(100, DUE), expire(40, 1_000_000)], 60, [60]),
        ([earn(100, DUE), expire(100, 1_000_000)], 0, []),
    ],
)
def test_what_expired_before_belongs_to_its_lot_alone(
    shared_database: Database, ledger: list[Entry], before: int, expires: list[int]
) -> None:
    start(shared_database, (ADA, before, ledger))

    assert run_job(shared_database, JOB)["mismatched"] == 0

    assert [amount for amount, _ in expired(shared_database)] == expires
    assert balance(shared_database) == 0


def test_each_line_says_what_was_left_after_it(shared_database: Database) -> None:
    ledger = [earn(10, NOW), earn(20, DUE), earn(30, NOW), earn(5, NEVER), spend(7)]
    start(shared_database, (ADA, 58, ledger))

    run_job(shared_database, JOB)

    # The first to expire is the lot of 20, of which 7 were spent.
    assert expired(shared_database) == [(13, 45), (10, 35), (30, 5)]
    assert balance(shared_database) == 5


def test_amounts_have_no_limit_but_that_of_their_column(shared_database: Database) -> None:
    most = 2**63 - 1
    start(shared_database, (ADA, most, [earn(most, DUE), earn(most, DUE), spend(most)]))

    assert run_job(shared_database, JOB)["points"] == most
    assert balance(shared_database) == 0


# --- Ledgers that do not add up -------------------------------------------------------------------


MISMATCHES = [
    pytest.param(None, [earn(10, DUE)], id="no account"),
    pytest.param(None, [earn(10, DUE), spend(10)], id="no account, and nothing to take"),
    pytest.param(9, [earn(10, DUE)], id="balance too small"),
    # Each of them would fit, both do not.
    pytest.param(15, [earn(10, DUE), earn(10, NOW)], id="too small for all lots together"),
]


@pytest.mark.parametrize("batch_size", [1, 2, 10_000])
@pytest.mark.parametrize(("wrong", "ledger"), MISMATCHES)
def test_who_does_not_add_up_is_left_alone_and_the_others_are_not(
    shared_database: Database, wrong: int | None, ledger: list[Entry], batch_size: int
) -> None:
    start(shared_database, (ADA, wrong, ledger), (BEN, 7, [earn(7, DUE), earn(3, NOW), spend(3)]))
    before = marketplace.read(shared_database)

    for expected in (
        {"lots": 2, "points": 7, "users": 1, "mismatched": 1},
        {"lots": 0, "points": 0, "users": 0, "mismatched": 1},
    ):
        assert run_job(shared_database, JOB, batch_size=batch_size) == expected

    after = marketplace.read(shared_database)
    for table in ("points_accounts", "points_transactions"):
        assert [row for row in after[table] if row["user_id"] == ADA] == [
            row for row in before[table] if row["user_id"] == ADA
        ]
    assert balance(shared_database, BEN) == 0


def test_who_does_not_add_up_is_logged_in_one_line(
    shared_database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    many = range(ADA, ADA + 100)
    start(shared_database, *((user_id, 0, [earn(1, DUE), earn(1, NOW)]) for user_id in many))

    with caplog.at_level(logging.WARNING, logger="workers.marketplace.points"):
        counts = run_job(shared_database, JOB, batch_size=3)

    assert counts["mismatched"] == 100
    (line,) = caplog.messages
    assert "100 users" in line
    assert str(ADA) in line
    assert str(ADA + 99) not in line
