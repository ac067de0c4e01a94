"""How a worker process starts: what it fetches, and on which schema."""

import dramatiq
import structlog
from sqlalchemy.exc import SQLAlchemyError

from workers import schema
from workers.database import Database
from workers.settings import refuse_to_start

log = structlog.stdlib.get_logger(__name__)


class FairPrefetch(dramatiq.Middleware):
    """Fetches no more messages than there are threads to run them.

    dramatiq's default, twice as many, lets messages wait in one process while another is idle. Its
    environment variable is one number for all processes, read when dramatiq is imported; here it
    follows ``--threads``.
    """

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        worker.queue_prefetch = worker.worker_threads


class SchemaGuard(dramatiq.Middleware):
    """Keeps workers from starting on a schema that they are too new, or too old, for.

    A database that cannot be reached is another matter: the workers wait for it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        try:
            schema.require_current(self._database.engine)
        except schema.SchemaError as error:
            raise refuse_to_start(error) from None
        except SQLAlchemyError as error:
            log.warning("The database cannot be reached yet", reason=str(error).splitlines()[0])
