"""`octavo-server doctor`: what would keep Octavo from working on this node, and what to do about it.

It changes nothing: a directory or a table that is not there yet is not an error, `up` and `migrate` make them.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from redis import Redis, RedisError
from sqlalchemy import make_url, select

from server.broker import find_broker_server
from shared.database import Database
from shared.database.tables import now
from shared.errors import OctavoError
from shared.object_store import open_store
from shared.settings import GIB, Settings

_PROBE_SECONDS = 60
_WARN_FREE_BYTES = 10 * GIB
_MIN_FREE_BYTES = 1 * GIB
_WARN_SKEW_SECONDS = 2.0
_VNNI_FLAGS = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}


@dataclass(frozen=True)
class Finding:
    """What one check saw; `hint` says what to do unless all is well."""

    check: str
    status: Literal["ok", "warning", "error"]
    detail: str
    hint: str | None = None


def examine(settings: Settings) -> list[Finding]:
    """Run every check; a check that fails in a way nobody foresaw is an error of its own, never an exception."""
    checks: list[tuple[str, Callable[[Settings], Finding]]] = [
        ("versions", _versions),
        ("cpu", _cpu),
        ("data directory", _data_directory),
        ("disk", _disk),
        ("database", _database),
        ("clock", _clock),
        ("broker", _broker),
        ("object store", _object_store),
        ("sandbox", _sandbox),
    ]
    findings = []
    for name, check in checks:
        try:
            findings.append(check(settings))
        except OctavoError as error:
            findings.append(Finding(name, "error", error.message, error.hint))
        except Exception as error:  # noqa: BLE001 - whatever it is, the operator must read it
            findings.append(Finding(name, "error", f"{type(error).__name__}: {error}"))
    return findings


def render(findings: list[Finding], *, as_json: bool) -> str:
    """The findings as lines for a reader, or as one JSON document."""
    if as_json:
        healthy = all(finding.status != "error" for finding in findings)
        return json.dumps({"healthy": healthy, "findings": [asdict(finding) for finding in findings]}, indent=2)
    lines = []
    for finding in findings:
        lines.append(f"{finding.status:8} {finding.check:15} {finding.detail}")
        if finding.hint and finding.status != "ok":
            lines += [f"{'':8} {'':15} → {line.strip()}" for line in finding.hint.splitlines()]
    return "\n".join(lines)


def _versions(_settings: Settings) -> Finding:
    found = {"python": platform.python_version()}
    for distribution in ("octavo-server", "torch", "celery", "fastapi"):
        try:
            found[distribution] = version(distribution)
        except PackageNotFoundError:
            found[distribution] = "not installed"
    return Finding("versions", "ok", ", ".join(f"{name} {number}" for name, number in found.items()))


def _cpu(_settings: Settings) -> Finding:
    cores = len(os.sched_getaffinity(0))
    flags: set[str] = set()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"flags", "Features"}:
            flags.update(value.split())
    fast = sorted(flags & _VNNI_FLAGS)
    detail = f"{cores} cores, {platform.machine()}, int8 dot products: {', '.join(fast) or 'none'}"
    if fast:
        return Finding("cpu", "ok", detail)
    hint = "Without VNNI (or dotprod on Arm) int8 gains little speed, and activations keep 7 bits to be safe."
    return Finding("cpu", "warning", detail, hint)


def _data_directory(settings: Settings) -> Finding:
    path = settings.data_dir.absolute()
    if not path.exists():
        existing = next(parent for parent in path.parents if parent.exists())
        if os.access(existing, os.W_OK):
            return Finding("data directory", "ok", f"{path} (made on first start)")
        return Finding(
            "data directory", "error", f"{existing} is not writable", "Choose another: --data-dir or OCTAVO_DATA_DIR."
        )
    try:
        with tempfile.NamedTemporaryFile(dir=path):
            pass
    except OSError as error:
        hint = f"Give this user the right to write there, or choose another with --data-dir: {path}"
        return Finding("data directory", "error", f"{path}: {error.strerror}", hint)
    return Finding("data directory", "ok", str(path))


def _disk(settings: Settings) -> Finding:
    path = settings.data_dir.absolute()
    existing = next(place for place in (path, *path.parents) if place.exists())
    free = shutil.disk_usage(existing).free
    detail = f"{free / GIB:.1f} GiB free at {existing}"
    if free < _MIN_FREE_BYTES:
        return Finding("disk", "error", detail, "Free space, or move the data directory; uploads and jobs need it.")
    if free < _WARN_FREE_BYTES:
        return Finding("disk", "warning", detail, "Delete models and datasets that no job needs any more.")
    return Finding("disk", "ok", detail)


def _database(settings: Settings) -> Finding:
    url = make_url(settings.database_url)
    shown = url.render_as_string(hide_password=True)
    if not _exists(settings):
        return Finding("database", "ok", f"{shown} (made on first start)")
    database = Database(settings.database_url)
    try:
        database.require_current_schema()
    finally:
        database.close()
    return Finding("database", "ok", f"{shown}, schema up to date")


def _clock(settings: Settings) -> Finding:
    if not _exists(settings):
        return Finding("clock", "ok", time.strftime("%Y-%m-%d %H:%M:%S %Z"))
    database = Database(settings.database_url)
    try:
        with database.read() as connection:
            before = time.time()
            theirs = connection.execute(select(now())).scalar_one()
            ours = (before + time.time()) / 2
    finally:
        database.close()
    detail = f"{theirs - ours:+.2f} s between the database's clock and this one"
    if abs(theirs - ours) > _WARN_SKEW_SECONDS:
        return Finding("clock", "warning", detail, "Leases go by the database's clock; run NTP on both machines.")
    return Finding("clock", "ok", detail)


def _exists(settings: Settings) -> bool:
    url = make_url(settings.database_url)
    return url.get_backend_name() != "sqlite" or (url.database is not None and Path(url.database).exists())


def _broker(settings: Settings) -> Finding:
    if "broker_url" not in settings.queue.model_fields_set:
        server = find_broker_server()
        command = [server, "--version"]
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_PROBE_SECONDS)  # noqa: S603 - our own broker
        return Finding("broker", "ok", f"embedded, started by `up`: {answer.stdout.strip().split(' sha=')[0]}")
    try:
        with Redis.from_url(
            settings.queue.broker_url.get_secret_value(), socket_connect_timeout=5, socket_timeout=5
        ) as broker:
            information = broker.info("server")
            policy = broker.info("memory").get("maxmemory_policy")
    except RedisError as error:
        return Finding("broker", "error", f"it does not answer: {error}", "Check OCTAVO_QUEUE__BROKER_URL.")
    detail = f"{information.get('server_name', 'redis')} {information.get('redis_version')}"
    if policy not in {None, "noeviction"}:
        hint = "Set maxmemory-policy noeviction: an evicted hint delays a job until it is sent again."
        return Finding("broker", "warning", f"{detail}, maxmemory-policy {policy}", hint)
    return Finding("broker", "ok", detail)


def _object_store(settings: Settings) -> Finding:
    if settings.storage.kind == "local":
        if not settings.storage_path.exists():
            return Finding("object store", "ok", f"{settings.storage_path} (made on first start)")
        shown = str(settings.storage_path)
    else:
        shown = f"bucket {settings.storage.bucket} at {settings.storage.endpoint_url or 'AWS'}"
    store = open_store(settings)
    try:
        store.check()
    finally:
        store.close()
    return Finding("object store", "ok", shown)


def _sandbox(settings: Settings) -> Finding:
    # By a process of its own: this command never loads what runs jobs.
    program = "import worker.sandbox; print(worker.sandbox.probe_level().value)"
    command = [sys.executable, "-P", "-c", program]
    probe = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PROBE_SECONDS)  # noqa: S603 - our own program
    if probe.returncode != 0:
        detail = (probe.stderr.strip().splitlines() or ["the probe failed"])[-1]
        return Finding("sandbox", "error", detail, "Jobs cannot run here; a node that runs the API alone needs none.")
    level, needed = probe.stdout.strip(), settings.worker.min_sandbox_level
    order = ("none", "rlimits", "landlock")
    if order.index(level) < order.index(needed):
        hint = (
            "Use a Linux kernel with Landlock (5.13 or later, enabled at boot). Only if every upload is trusted: "
            f"OCTAVO_WORKER__MIN_SANDBOX_LEVEL={level}."
        )
        return Finding("sandbox", "error", f"this node reaches {level}, jobs need {needed}", hint)
    return Finding("sandbox", "ok", f"reaches {level}, jobs need {needed}")
