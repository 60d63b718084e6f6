"""`python -m worker` runs one worker node; `octavo-server worker` is the same."""

from __future__ import annotations

import sys

from shared.errors import OctavoError
from shared.settings import Settings
from worker.app import run_worker


def main() -> None:
    """Run the worker; a fault at start is one line, not a trace."""
    try:
        run_worker(Settings())
    except OctavoError as error:
        sys.exit(f"octavo worker: {error.message} {error.hint or ''}".rstrip())


if __name__ == "__main__":
    main()
