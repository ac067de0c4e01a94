"""How the page says numbers, spans and texts."""

import pytest

from workers.web import words


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-1, "0 s"),
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (80, "1 min 20 s"),
        (3600, "1 h"),
        (3660, "1 h 1 min"),
        (90_000, "1 d 1 h"),
        (None, ""),
    ],
)
def test_spans_are_said_in_their_two_largest_units(seconds: float | None, said: str) -> None:
    assert words.span(seconds) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.0004, "0 ms"), (0.25, "250 ms"), (2.44, "2.4 s"), (75, "1 min 15 s")]
)
def test_durations_have_the_digits_that_count(seconds: float, said: str) -> None:
    assert words.duration(seconds) == said


def test_commands_are_set_apart_and_all_else_is_text() -> None:
    said = words.with_commands("Start <b>it</b>: python -m workers runs --job x. Then <i>look</i>.")
    assert said == (
        "Start &lt;b&gt;it&lt;/b&gt;: <code>python -m workers runs --job x</code>. "
        "Then &lt;i&gt;look&lt;/i&gt;."
    )


def test_counts_read_as_words_and_numbers_in_groups() -> None:
    assert words.counts({"user_coupons": 12_345, "left": 0}) == "user coupons 12\u202f345, left 0"
    assert words.counts(None) == ""
    assert words.plural(1, "run") == "1 run"
    assert words.plural(1_000, "run") == "1\u202f000 runs"
