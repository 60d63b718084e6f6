"""`octavo meta` and `octavo doctor`."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Literal

import click

from octavo._version import __version__
from octavo.cli.output import data, json_option, open_client, status_text, table, time_text, write_json

if TYPE_CHECKING:
    from octavo._types import Meta

CLOCK_TOLERANCE_SECONDS = 60


@click.command()
@json_option
def meta(as_json: bool) -> None:
    """Show the server's version, workers and limits."""
    with open_client() as client:
        about = client.meta()
    if as_json:
        write_json(about)
        return
    data(f"Octavo {about.version}, API {about.api}, methods: {', '.join(about.methods)}")
    for limit, value in about.limits.items():
        data(f"{limit}: {value}")
    rows = [["worker", "status", "CPU", "cores", "ISA", "runtimes", "sandbox", "labels", "heartbeat"]]
    rows += [
        [
            worker.hostname or worker.id,
            worker.status or "",
            worker.cpu_model or "",
            "" if worker.cores is None else str(worker.cores),
            " ".join(worker.isa),
            " ".join(f"{name} {found}" for name, found in {"torch": worker.torch, **worker.runtimes}.items() if found),
            worker.sandbox_level or "",
            " ".join(f"{name}={value}" for name, value in worker.labels.items()),
            time_text(worker.heartbeat_at),
        ]
        for worker in about.workers
    ]
    table(rows, empty="No worker is known.")


@dataclass(frozen=True)
class Finding:
    """What the doctor saw at one place."""

    check: str
    status: Literal["ok", "warning", "error"]
    detail: str
    hint: str | None = None
    exit_code: int = 0


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Look for what would keep Octavo from working from here: address, key, versions, workers, sandbox, clock."""
    findings = examine(click.get_current_context().find_root().obj)
    if as_json:
        write_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            data(status_text(finding.status, 7), f"  {finding.check}: {finding.detail}")
            if finding.hint:
                data(f"         {finding.hint}")
    sys.exit(max(finding.exit_code for finding in findings))


def examine(url: str | None) -> list[Finding]:
    """Every check that can be made; the first that fails hard ends them."""
    from octavo._config import Config  # noqa: PLC0415  # `octavo --help` does without an HTTP client
    from octavo._exceptions import (  # noqa: PLC0415
        APIConnectionError,
        APIStatusError,
        AuthenticationError,
        PermissionDeniedError,
    )
    from octavo._sync.transport import Transport  # noqa: PLC0415
    from octavo._types import Meta  # noqa: PLC0415

    config = Config.resolve(url)
    transport = Transport(config, timeout=10.0, max_retries=0)
    reached = Finding("address", "ok", f"{config.url} answers")
    try:
        asked_at = time.time()
        response = transport.request("GET", "/v1/meta")
    except APIConnectionError as error:
        return [Finding("address", "error", str(error), exit_code=1)]
    except (AuthenticationError, PermissionDeniedError) as error:
        return [reached, Finding("key", "error", error.detail, error.hint, exit_code=4)]
    except APIStatusError as error:
        hint = "Is this an Octavo server? Check OCTAVO_URL."
        return [Finding("address", "error", f"{config.url}: {error.detail} [{error.status_code}]", hint, exit_code=1)]
    finally:
        transport.close()
    key = Finding("key", "ok", "accepted" if config.api_key else "none is needed")
    about = Meta.model_validate(response.json())
    return [reached, key, _version(about), *_workers(about), _clock(response.headers.get("date"), asked_at)]


def _version(about: Meta) -> Finding:
    detail = f"server {about.version}, client {__version__}"
    if about.version.split(".")[:2] != __version__.split(".")[:2]:
        return Finding("version", "warning", detail, f"pip install octavo=={about.version}")
    return Finding("version", "ok", detail)


def _workers(about: Meta) -> list[Finding]:
    if not about.workers:
        hint = "Jobs are kept and wait until one starts: `octavo-server worker`, or `octavo-server up` for all of it."
        return [Finding("workers", "error", "none is alive", hint, exit_code=1)]
    findings = []
    for worker in about.workers:
        detail = f"{worker.hostname or worker.id}, {worker.cpu_model}, torch {worker.torch}"
        findings.append(Finding("worker", "ok", detail))
        weak = worker.sandbox_level in {None, "none", "rlimits"}
        advice = "Uploads run with less isolation than Landlock and seccomp give." if weak else None
        findings.append(Finding("sandbox", "warning" if weak else "ok", str(worker.sandbox_level), advice))
    return findings


def _clock(date: str | None, asked_at: float) -> Finding:
    if date is None:
        return Finding("clock", "warning", "the server tells no time")
    skew = asked_at - parsedate_to_datetime(date).timestamp()
    if abs(skew) > CLOCK_TOLERANCE_SECONDS:
        return Finding("clock", "warning", f"this machine is {skew:+.0f} s off the server", "Synchronise the clocks.")
    return Finding("clock", "ok", "agrees with the server")
