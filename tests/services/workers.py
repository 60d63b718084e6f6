"""Workers as they describe themselves, without the process."""

from typing import Any

from shared.database.records import WorkerDescription


def described(**changes: Any) -> WorkerDescription:
    """A small machine without VNNI and without labels, but for what is given."""
    values: dict[str, Any] = {
        "hostname": "node-1",
        "cpu_model": "a CPU",
        "isa": ["avx2"],
        "cores": 2,
        "torch": "2.13.0",
        "sandbox_level": "landlock",
        "concurrency": 1,
    }
    return WorkerDescription(**{**values, **changes})
