"""Every SQL statement about uploaded objects and resumable uploads."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from shared.database import metrics
from shared.database.job_repository import unfinished_jobs_of
from shared.database.records import ObjectKind, ObjectRecord, PartRecord, UploadRecord
from shared.database.tables import now, stored_objects, upload_parts, uploads
from shared.errors import NotFound, ObjectInUse, PartConflict, UploadClosed
from shared.job import new_id


class ObjectRepository:
    """Models, datasets and uploads, within one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(
        self,
        *,
        kind: ObjectKind,
        name: str | None,
        filename: str | None,
        size_bytes: int,
        sha256: str,
        description: dict[str, Any],
    ) -> tuple[ObjectRecord, bool]:
        """Record stored content; the object that is already here, and False, when this content was recorded before."""
        dialect = postgresql if self._connection.dialect.name == "postgresql" else sqlite
        statement = dialect.insert(stored_objects).values(
            id=new_id("mdl" if kind == "model" else "dst"),
            kind=kind,
            name=name,
            filename=filename,
            size_bytes=size_bytes,
            sha256=sha256,
            description=description,
            created_at=now(),
        )
        statement = statement.on_conflict_do_nothing(index_elements=["kind", "sha256"])
        created = self._connection.scalar(statement.returning(stored_objects.c.id)) is not None
        if created:
            metrics.increment(self._connection, "octavo_upload_bytes_total", {"kind": kind}, by=size_bytes)
        found = self.find(kind, sha256)
        if found is None:  # pragma: no cover - deleted by another transaction between the two statements
            raise NotFound
        return found, created

    def find(self, kind: ObjectKind, sha256: str) -> ObjectRecord | None:
        """The object of this content, if it is here."""
        query = select(stored_objects).where(stored_objects.c.kind == kind, stored_objects.c.sha256 == sha256)
        row = self._connection.execute(query).one_or_none()
        return None if row is None else _object(row)

    def get(self, object_id: str, *, keep: bool = False) -> ObjectRecord:
        """The object, or NotFound; with `keep` nobody removes it before this transaction ends."""
        query = select(stored_objects).where(stored_objects.c.id == object_id)
        row = self._connection.execute(query.with_for_update(read=True) if keep else query).one_or_none()
        if row is None:
            raise NotFound(f"No model or dataset has the id {object_id!r}.")
        return _object(row)

    def page(self, kind: ObjectKind, *, limit: int, after: str | None) -> tuple[list[ObjectRecord], bool]:
        """The newest objects first, those before the id `after`; and whether there are more."""
        query = select(stored_objects).where(stored_objects.c.kind == kind)
        if after is not None:
            query = query.where(stored_objects.c.id < after)
        rows = self._connection.execute(query.order_by(stored_objects.c.id.desc()).limit(limit + 1)).all()
        return [_object(row) for row in rows[:limit]], len(rows) > limit

    def remove(self, record: ObjectRecord) -> bool:
        """Forget the object; True when nothing else refers to its content. ObjectInUse while a job needs it."""
        locked = select(stored_objects.c.id).where(stored_objects.c.id == record.id).with_for_update()
        self._connection.execute(locked)  # waits for a job that is being submitted with it
        if jobs := unfinished_jobs_of(self._connection, record.id):
            raise ObjectInUse(f"{len(jobs)} unfinished job(s) need {record.id}, among them {jobs[0]}.")
        self._connection.execute(delete(stored_objects).where(stored_objects.c.id == record.id))
        same = select(stored_objects.c.id).where(stored_objects.c.sha256 == record.sha256)
        return self._connection.execute(same).first() is None

    # --- resumable uploads ---

    def open_upload(
        self,
        *,
        kind: ObjectKind,
        name: str | None,
        filename: str | None,
        size_bytes: int,
        sha256: str | None,
        part_size_bytes: int,
        expire_seconds: float,
    ) -> UploadRecord:
        """Begin an upload."""
        upload_id = new_id("upl")
        self._connection.execute(
            insert(uploads).values(
                id=upload_id,
                kind=kind,
                name=name,
                filename=filename,
                size_bytes=size_bytes,
                sha256=sha256,
                part_size_bytes=part_size_bytes,
                created_at=now(),
                expires_at=now() + expire_seconds,
            )
        )
        return self.get_upload(upload_id)

    def get_upload(self, upload_id: str) -> UploadRecord:
        """The upload with the parts that have arrived, or NotFound."""
        row = self._connection.execute(select(uploads).where(uploads.c.id == upload_id)).one_or_none()
        if row is None:
            raise NotFound(f"No upload has the id {upload_id!r}; uploads that are not completed are swept after a day.")
        parts = self._connection.execute(
            select(upload_parts).where(upload_parts.c.upload_id == upload_id).order_by(upload_parts.c.number)
        )
        return UploadRecord(
            **{key: value for key, value in row._mapping.items()},  # noqa: SLF001, C416 - SQLAlchemy's public name for it
            parts=[PartRecord(number=each.number, size_bytes=each.size_bytes, sha256=each.sha256) for each in parts],
        )

    def add_part(self, upload_id: str, part: PartRecord) -> None:
        """Record a stored part. The same part again changes nothing; PartConflict when its bytes differ."""
        dialect = postgresql if self._connection.dialect.name == "postgresql" else sqlite
        values = {
            "upload_id": upload_id,
            "number": part.number,
            "size_bytes": part.size_bytes,
            "sha256": part.sha256,
        }
        statement = dialect.insert(upload_parts).values(**values)
        self._connection.execute(statement.on_conflict_do_nothing(index_elements=["upload_id", "number"]))
        upload = self.get_upload(upload_id)
        if upload.completed:
            raise UploadClosed
        if part not in upload.parts:
            raise PartConflict(f"Part {part.number} was already sent with other bytes.")

    def forget_part(self, upload_id: str, number: int) -> None:
        """A part was lost or damaged in the store: it must be sent again."""
        self._connection.execute(
            delete(upload_parts).where(upload_parts.c.upload_id == upload_id, upload_parts.c.number == number)
        )

    def complete_upload(self, upload_id: str, object_id: str) -> None:
        """Close the upload: it has become the object."""
        self._connection.execute(
            update(uploads).where(uploads.c.id == upload_id).values(completed=True, object_id=object_id)
        )

    def expired_uploads(self, limit: int) -> list[str]:
        """Ids of uploads past their time, for the sweeper."""
        query = select(uploads.c.id).where(uploads.c.expires_at < now()).order_by(uploads.c.expires_at).limit(limit)
        return list(self._connection.scalars(query))

    def forget_upload(self, upload_id: str) -> None:
        """Delete the upload's rows; its parts are gone from the store."""
        self._connection.execute(delete(uploads).where(uploads.c.id == upload_id))


def _object(row: Row[Any]) -> ObjectRecord:
    return ObjectRecord(**dict(row._mapping))  # noqa: SLF001 - SQLAlchemy's public name for it
