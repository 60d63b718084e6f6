"""What storing and deleting a model or dataset means: the file is inspected, kept once, and never half."""

from __future__ import annotations

from typing import Any

import structlog
from sqlalchemy import Connection

from api.idempotency import Answer, Once, do_once, recalled
from api.objects.schemas import Dataset, Model, wire_object
from api.services import Services
from api.staging import StagedFile
from shared.database.object_repository import ObjectRepository
from shared.database.records import ObjectKind, ObjectRecord
from shared.dataset_file import inspect_dataset
from shared.errors import NotFound, OctavoError, StorageUnavailable
from shared.model_file import inspect_model
from shared.object_store import blob_key

_log = structlog.get_logger("octavo.api")


class ObjectService:
    """Models and datasets; every method blocks, so it runs in a thread."""

    def __init__(self, services: Services) -> None:
        self._database = services.database
        self._store = services.store

    def add(
        self, kind: ObjectKind, staged: StagedFile, *, name: str | None, filename: str | None, once: Once
    ) -> Answer:
        """Store a staged file: 201 with the object, or 200 with the one that already holds this content."""
        with self._database.read() as connection:
            known = recalled(connection, once)
        if known is not None:
            return known

        def effect(connection: Connection) -> Answer:
            record, created = self.record(connection, kind, staged, description, name=name, filename=filename)
            return Answer.of(201 if created else 200, wire_object(record))

        description = self.keep(kind, staged)
        try:
            return do_once(self._database, once, effect)
        except BaseException:
            self.release_blob(staged.sha256)
            raise

    def keep(self, kind: ObjectKind, staged: StagedFile) -> dict[str, Any]:
        """Inspect the file and put it into the store; what it holds."""
        with self._database.read() as connection:
            known = ObjectRepository(connection).find(kind, staged.sha256)
        if known is not None and self._store.stat(blob_key(known.sha256)) is not None:
            return known.description
        inspect = inspect_model if kind == "model" else inspect_dataset
        description: dict[str, Any] = inspect(staged.path).model_dump(mode="json")
        self._store.put_file(blob_key(staged.sha256), staged.path, staged.sha256, move=True, hashed_when_written=True)
        return description

    def record(
        self,
        connection: Connection,
        kind: ObjectKind,
        staged: StagedFile,
        description: dict[str, Any],
        *,
        name: str | None,
        filename: str | None,
    ) -> tuple[ObjectRecord, bool]:
        """Insert the row of content that `keep` has stored; whether it is new."""
        record, created = ObjectRepository(connection).add(
            kind=kind,
            name=name or filename,
            filename=filename,
            size_bytes=staged.size_bytes,
            sha256=staged.sha256,
            description=description,
        )
        # The insert waited for any deletion of the same content, which takes the bytes before it commits.
        if self._store.stat(blob_key(record.sha256)) is None:
            raise StorageUnavailable("This content was deleted while it was sent.", hint="Send it again.")
        return record, created

    def release_blob(self, sha256: str) -> None:
        """Take back what `keep` stored for an object that was not recorded; best effort."""
        try:
            with self._database.write() as connection:
                repository = ObjectRepository(connection)
                if not repository.find("model", sha256) and not repository.find("dataset", sha256):
                    self._store.delete(blob_key(sha256))
        except OctavoError as error:
            _log.warning("content without an object stays in the store", sha256=sha256, error=error.message)

    def get(self, kind: ObjectKind, object_id: str) -> Model | Dataset:
        """The object, or NotFound."""
        with self._database.read() as connection:
            return wire_object(_of_kind(ObjectRepository(connection), kind, object_id))

    def page(self, kind: ObjectKind, *, limit: int, after: str | None) -> tuple[list[Model | Dataset], bool]:
        """The newest objects before the id `after`; and whether there are more."""
        with self._database.read() as connection:
            records, has_more = ObjectRepository(connection).page(kind, limit=limit, after=after)
        return [wire_object(each) for each in records], has_more

    def delete(self, kind: ObjectKind, object_id: str) -> None:
        """Forget the object, and its bytes when nothing else has them; ObjectInUse while a job needs it."""
        with self._database.write() as connection:
            repository = ObjectRepository(connection)
            record = _of_kind(repository, kind, object_id)
            if repository.remove(record):
                # Before the commit: an upload of the same content waits for it, then sees that the bytes are gone.
                self._store.delete(blob_key(record.sha256))


def _of_kind(repository: ObjectRepository, kind: ObjectKind, object_id: str) -> ObjectRecord:
    record = repository.get(object_id)
    if record.kind != kind:
        raise NotFound(f"{object_id} is a {record.kind}, not a {kind}: look under /v1/{record.kind}s.")
    return record
