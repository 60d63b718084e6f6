"""Which workers may run a job: the hardware that it asks for, against what each live worker has."""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Sequence

from shared.database.records import WorkerDescription, WorkerRecord
from shared.quantization_spec import Hardware

_NAMED_WORKERS = 3


@functools.lru_cache(maxsize=1024)
def stored_hardware(stored: str | None) -> Hardware | None:
    """What the column `jobs.hardware` says."""
    return None if stored is None else Hardware.model_validate_json(stored)


def lacks(worker: WorkerDescription, hardware: Hardware | None) -> list[str]:
    """What is asked for and the worker has not, such as `avx512_vnni` or `pool=edge`; nothing: it may run the job."""
    if hardware is None:
        return []
    lacking: list[str] = [each for each in hardware.isa if each not in worker.isa]
    if hardware.cpu is not None and not fnmatch.fnmatchcase(worker.cpu_model.casefold(), hardware.cpu.casefold()):
        lacking.append(_like(hardware.cpu))
    return lacking + [_label(*each) for each in hardware.labels.items() if each not in worker.labels.items()]


def recipients(hardware: Hardware | None, workers: Sequence[WorkerRecord]) -> list[str | None]:
    """Whose queues a hint goes to: that of each worker that may run the job, or None, the one that all share."""
    return [None] if hardware is None else [each.id for each in workers if not lacks(each.description, hardware)]


def told_hardware(hardware: Hardware) -> str:
    """What is asked for, in words."""
    return _listed(_asked(hardware))


def waiting_for(hardware: Hardware | None, workers: Sequence[WorkerRecord]) -> str | None:
    """Why none of the live workers may run the job, in words; None when one may."""
    asked = "" if hardware is None else _listed(_asked(hardware))
    if not workers:
        return f"No worker is alive; this job asks for {asked}." if asked else "No worker is alive."
    lacking = sorted(((lacks(each.description, hardware), each.description) for each in workers), key=_how_many)
    if not lacking[0][0]:
        return None
    named = [
        f"{each.hostname} ({each.cpu_model}) lacks {_listed(missing)}" for missing, each in lacking[:_NAMED_WORKERS]
    ]
    more = f"; and {len(lacking) - _NAMED_WORKERS} more" if len(lacking) > _NAMED_WORKERS else ""
    return f"No live worker has {asked}: {'; '.join(named)}{more}."


def _asked(hardware: Hardware) -> list[str]:
    cpu = [] if hardware.cpu is None else [_like(hardware.cpu)]
    return [*hardware.isa, *cpu, *(_label(*each) for each in hardware.labels.items())]


def _how_many(lacking: tuple[list[str], WorkerDescription]) -> int:
    return len(lacking[0])


def _like(cpu: str) -> str:
    return f"a CPU like {cpu!r}"


def _label(name: str, value: str) -> str:
    return f"{name}={value}"


def _listed(words: Sequence[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last
