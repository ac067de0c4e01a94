"""``python -m workers dead-letters``: look at them, send them again, drop them."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice

import click
from dramatiq.common import q_name
from dramatiq.errors import ConnectionClosed

from workers import app, reports, schema
from workers.broker import InProcessBroker
from workers.cli.printing import as_json_option, print_json, print_json_array, print_table
from workers.dead_letters.cabinets import open_cabinet
from workers.dead_letters.letters import Cabinet
from workers.job import QUEUES

SHOWN = 100
"""So many are shown to people, unless they want all."""


NONE = "There are no dead letters."


class QueueName(click.ParamType[str]):
    """The name of a queue, or of its dead-letter queue, written with ``_`` or ``-``."""

    name = "queue"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        queue = q_name(value.replace("-", "_"))
        if queue not in QUEUES:
            self.fail(f"there is no queue {value!r}; take one of {', '.join(QUEUES)}", param, ctx)
        return queue


@click.command("dead-letters")
@click.argument("action", type=click.Choice(["list", "requeue", "drop"]), default="list")
@click.option("--queue", type=QueueName(), help="Only those of this queue.")
@click.option("--id", "letter_id", help="Only this one; 'list' then prints all of it.")
@click.option("--all", "is_all", is_flag=True, help=f"All; 'list' shows {SHOWN} unless told.")
@click.option("--yes", "is_sure", is_flag=True, help="Drop without asking.")
@as_json_option
def dead_letters(
    *,
    action: str,
    queue: str | None,
    letter_id: str | None,
    is_all: bool,
    is_sure: bool,
    as_json: bool,
) -> None:
    """Look at dead letters (the default), send them again, or drop them.

    A message is dead-lettered when its run has used up its attempts, or when it is not a message
    of this service. RabbitMQ keeps it for 7 days; the run's row in the ledger stays.

    Sent again, the run counts its attempts on, and has as many retries as at first.
    """
    if letter_id is not None and is_all:
        raise click.UsageError("--id and --all contradict each other")
    if action != "list" and letter_id is None and not is_all:
        raise click.UsageError(f"say which to {action}: --id ID, or --all, perhaps with --queue")
    schema.require_current(app.database.engine)
    queues = QUEUES if queue is None else (queue,)
    if action == "drop" and not (is_sure or _agrees(queues, letter_id)):
        raise click.ClickException("nothing was dropped; answer y, or pass --yes")
    with _cabinet() as cabinet:
        if action == "requeue":
            count = _requeue(cabinet, queues, letter_id, as_json=as_json)
        elif action == "drop":
            count = _drop(cabinet, queues, letter_id, as_json=as_json)
        elif letter_id is None:
            count = _list(cabinet, queues, is_all=is_all, as_json=as_json)
        else:
            count = _show(cabinet, queues, letter_id, as_json=as_json)
    if letter_id is not None and not count:
        raise click.ClickException(f"there is no dead letter {letter_id!r}")


@contextmanager
def _cabinet() -> Iterator[Cabinet]:
    """Open what the dead letters are kept in."""
    try:
        with open_cabinet(app.broker, app.database) as cabinet:
            yield cabinet
    except ConnectionClosed as error:
        raise click.ClickException(f"RABBITMQ_URL: RabbitMQ failed: {error}") from None


def _list(cabinet: Cabinet, queues: Sequence[str], *, is_all: bool, as_json: bool) -> int:
    with closing(cabinet.look(queues)) as letters:
        if as_json:
            return print_json_array(letter.report() for letter in letters)
        found = [letter.report() for letter in islice(letters, None if is_all else SHOWN)]
    if found:
        print_table(reports.letters_table(found))
    else:
        click.echo(NONE)
    if len(found) == SHOWN and (rest := cabinet.count(queues) - SHOWN) > 0:
        click.echo(f"And {rest} more; --all shows them.")
    return len(found)


def _show(cabinet: Cabinet, queues: Sequence[str], letter_id: str, *, as_json: bool) -> int:
    with closing(cabinet.look(queues, letter_id)) as letters:
        whole = (letter.report(is_whole=True) for letter in letters)
        if as_json:
            return print_json_array(whole)
        return sum(_print_whole(report) for report in whole)


def _print_whole(report: reports.Report) -> int:
    texts = {name: report.pop(name) for name in ("error", "body")}
    for name, value in report.items():
        if value is not None:
            click.echo(f"{name + ':':<13}{value}")
    for text in filter(None, texts.values()):
        click.echo(f"\n{_harmless(text)}")
    return 1


def _harmless(text: str) -> str:
    """Escape what a terminal would obey: anybody may have written it."""
    return "".join(
        each if each.isprintable() or each in "\n\t" else ascii(each)[1:-1] for each in text
    )


def _requeue(
    cabinet: Cabinet, queues: Sequence[str], letter_id: str | None, *, as_json: bool
) -> int:
    with closing(cabinet.requeue(queues, letter_id)) as ids:
        count = _print_done("Sent {} again.", ids, is_quiet=as_json)
    return _print_count("requeued", count, letter_id, as_json=as_json)


def _drop(cabinet: Cabinet, queues: Sequence[str], letter_id: str | None, *, as_json: bool) -> int:
    with closing(cabinet.drop(queues, letter_id)) as ids:
        count = _print_done("Dropped {}.", ids, is_quiet=as_json)
    return _print_count("dropped", count, letter_id, as_json=as_json)


def _agrees(queues: Sequence[str], letter_id: str | None) -> bool:
    """Ask whoever is there; with no connection open, which would not outlast a long thought."""
    if isinstance(app.broker, InProcessBroker):
        return True  # there is nothing to drop, as the next step explains
    what = f"the dead letter {letter_id}"
    if letter_id is None:
        with _cabinet() as cabinet:
            what = f"all dead letters of {', '.join(queues)} ({cabinet.count(queues)} now)"
    try:
        return click.confirm(f"Drop {what}?", err=True)
    except click.Abort:  # nobody is there to answer
        click.echo(err=True)
        return False


def _print_done(line: str, ids: Iterable[str], *, is_quiet: bool) -> int:
    """Print what is done while it is done, since it may take long; return how many."""
    count = 0
    for each in ids:
        count += 1
        if not is_quiet:
            click.echo(line.format(each))
    return count


def _print_count(name: str, count: int, letter_id: str | None, *, as_json: bool) -> int:
    if as_json:
        print_json({name: count})
    elif not count and letter_id is None:
        click.echo(NONE)
    return count
