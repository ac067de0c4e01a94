"""``python -m workers``: the one place that turns errors into a line each and an exit code."""

import sys

import click
from dramatiq.errors import BrokerConnectionError
from sqlalchemy.exc import SQLAlchemyError

from workers.checks import first_line
from workers.cli import cli
from workers.schema import SchemaError
from workers.settings import ConfigurationError

UNDEFINED = ("42P01", "42703")
"""PostgreSQL's codes for a table, and a column, that does not exist."""


def main() -> int:
    """Run the command line.

    Returns:
        0, or 1 for a failure, 2 for bad usage or configuration.
    """
    try:
        return int(cli.main(prog_name="python -m workers", standalone_mode=False) or 0)
    except click.Abort:
        return 130
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.ClickException as error:
        return _complain(error.format_message(), error.exit_code)
    except ConfigurationError as error:
        return _complain(str(error), 2)
    except (SchemaError, SQLAlchemyError, BrokerConnectionError) as error:
        return _complain(_what_to_say(error), 1)


def _what_to_say(error: Exception) -> str:
    if isinstance(error, SchemaError):
        return str(error)
    if isinstance(error, BrokerConnectionError):
        return f"RABBITMQ_URL: cannot publish: {first_line(error)}"
    if getattr(getattr(error, "orig", None), "pgcode", None) in UNDEFINED:
        return "the schema is behind: run `python -m workers migrate`"
    return f"the database failed: {first_line(error)}"


def _complain(line: str, code: int) -> int:
    click.echo(f"Error: {line}", err=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
