"""Exit code 0 if the worker on this host was heard of in the last seconds: the worker container's health check."""

import platform
import sys

from shared.database import Database
from shared.database.worker_repository import WorkerRepository
from shared.errors import OctavoError
from shared.settings import Settings


def main() -> None:
    """Ask the database that the API and the other workers look at too."""
    database = Database(Settings().database_url)
    try:
        with database.read() as connection:
            alive = {worker.description.hostname for worker in WorkerRepository(connection).alive()}
    except OctavoError as error:
        sys.exit(error.message)
    finally:
        database.close()
    if platform.node() not in alive:
        sys.exit("This host's worker has not been heard of.")


if __name__ == "__main__":
    main()
