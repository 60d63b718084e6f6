"""The tables. Times are seconds since the epoch by the database's clock; JSON is stored as the database's own type."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)
Json = JSON().with_variant(JSONB(), "postgresql")


class now(FunctionElement[float]):  # noqa: N801 - SQL functions are lower case
    """The database's clock, in seconds since the epoch: one clock for every node."""

    type = Double()
    inherit_cache = True


@compiles(now, "sqlite")
def _sqlite_now(_element: now, _compiler: Any, **_options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _postgresql_now(_element: now, _compiler: Any, **_options: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS double precision)"


jobs = Table(
    "jobs",
    metadata,
    Column("id", String(40), primary_key=True),  # sorts by creation time
    Column("method", String(20), nullable=False),
    Column("status", String(20), nullable=False),
    Column("name", String(200)),
    Column("spec", Json, nullable=False),
    Column("hardware", Text),  # what the spec asks for, as JSON, the same text for the same; null: any
    Column("based_on", String(40)),  # the job whose spec this one's was made of, which may be gone
    Column("changes", Json),  # the patch that made it
    Column("measures", String(40), index=True),  # the job whose artifacts this one measures, as that one asked
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),  # of the latest attempt
    Column("finished_at", Double),
    # progress of the latest attempt
    Column("step", String(20)),
    Column("fraction", Double, nullable=False, default=0.0),
    Column("message", Text, nullable=False, default=""),
    Column("eta_seconds", Double),
    # the claim
    Column("attempt", Integer, nullable=False, default=0),
    Column("crashes", Integer, nullable=False, default=0),
    Column("fence", BigInteger, nullable=False, default=0),
    Column("worker_id", String(40)),
    Column("lease_expires_at", Double),
    Column("cancel_requested_at", Double),
    Column("sandbox_level", String(20)),
    # the hint
    Column("not_before", Double, nullable=False),
    Column("next_publish_at", Double, nullable=False),
    Column("publish_count", Integer, nullable=False, default=0),
    # the answer
    Column("error", Json),
    Column("artifacts", Json, nullable=False, default=list),
    Column("event_seq", Integer, nullable=False, default=0),  # counts every change: the ETag of the job
    Index(None, "status", "method"),
    Index(None, "status", "id"),
    Index(None, "status", "next_publish_at"),
    Index(None, "status", "lease_expires_at"),
)
# Few jobs ask for hardware, and every idle worker asks for those that do, again and again.
Index(
    "ix_jobs_hardware",
    jobs.c.status,
    jobs.c.id,
    sqlite_where=jobs.c.hardware.is_not(None),
    postgresql_where=jobs.c.hardware.is_not(None),
)

# Reports are large (raw latency samples), so that listing jobs must not read them.
job_reports = Table(
    "job_reports",
    metadata,
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("report", Json, nullable=False),
)

job_events = Table(
    "job_events",
    metadata,
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("kind", String(20), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("data", Json, nullable=False),
)

# Which unfinished or finished jobs name an object: a deletion asks here.
job_objects = Table(
    "job_objects",
    metadata,
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("object_id", String(40), primary_key=True, index=True),
)

stored_objects = Table(
    "stored_objects",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("kind", String(10), nullable=False),
    Column("name", String(200)),
    Column("filename", String(255)),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("description", Json, nullable=False),
    Column("created_at", Double, nullable=False),
    UniqueConstraint("kind", "sha256"),
    Index(None, "kind", "id"),
)

uploads = Table(
    "uploads",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("kind", String(10), nullable=False),
    Column("name", String(200)),
    Column("filename", String(255)),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", String(64)),
    Column("part_size_bytes", BigInteger, nullable=False),
    Column("completed", Boolean, nullable=False, default=False),
    Column("object_id", String(40)),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False, index=True),
)

upload_parts = Table(
    "upload_parts",
    metadata,
    Column("upload_id", ForeignKey("uploads.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("key", String(255), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("status_code", Integer, nullable=False),
    Column("headers", Json, nullable=False),
    Column("body", Json, nullable=False),
    Column("created_at", Double, nullable=False, index=True),
)

workers = Table(
    "workers",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("description", Json, nullable=False),
    Column("status", String(20), nullable=False),
    Column("started_at", Double, nullable=False),
    Column("heartbeat_at", Double, nullable=False, index=True),
)

# Questions of POST /v1/plan, each until it is answered or nobody waits for it any more.
plans = Table(
    "plans",
    metadata,
    Column("id", String(40), primary_key=True),  # sorts by the time it was asked
    Column("spec", Json, nullable=False),
    Column("hardware", Text),  # as in jobs
    Column("asked_at", Double, nullable=False),
    Column("taken_at", Double),  # by a worker
    Column("plan", Json),
    Column("error", Json),
)

# Counters and histogram buckets, raised in the transaction that finishes a job: restarts and replicas agree.
metric_values = Table(
    "metric_values",
    metadata,
    Column("metric", String(80), primary_key=True),
    Column("labels", String(200), primary_key=True),  # JSON with sorted keys
    Column("bucket", String(20), primary_key=True),  # upper bound, `+Inf`, `sum`, or `` for a counter
    Column("value", Double, nullable=False),
)
