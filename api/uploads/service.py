"""Uploads in parts: begin, send each part any number of times, complete. Every method blocks."""

from __future__ import annotations

import hashlib
import time

import structlog
from sqlalchemy import Connection

from api.idempotency import Answer, Once, do_once, recalled
from api.objects.schemas import wire_object
from api.objects.service import ObjectService
from api.services import Services
from api.staging import StagedFile, StagingWriter
from api.uploads.schemas import MAX_PARTS, Part, Upload, UploadRequest, wire_upload
from shared.database.object_repository import ObjectRepository
from shared.database.records import PartRecord, UploadRecord
from shared.errors import (
    ChecksumMismatch,
    FieldError,
    NotFound,
    ObjectMissing,
    OctavoError,
    PartConflict,
    PartsMissing,
    SizeMismatch,
    UploadClosed,
    UploadTooLarge,
)
from shared.object_store import blob_key, part_key

_MAX_LISTED = 100

_log = structlog.get_logger("octavo.api")


class UploadService:
    """Resumable uploads."""

    def __init__(self, services: Services) -> None:
        self._database = services.database
        self._store = services.store
        self._staging = services.staging
        self._limits = services.settings.uploads
        self._objects = ObjectService(services)

    def begin(self, wanted: UploadRequest, once: Once) -> Answer:
        """201 with a new upload, or 200 with a complete one when this content is already here."""
        if wanted.size_bytes > self._limits.max_bytes:
            raise UploadTooLarge(
                f"The file has {wanted.size_bytes} bytes; at most {self._limits.max_bytes} are accepted here."
            )
        # Files too large for that many parts get larger parts.
        part_bytes = max(self._limits.part_bytes, -(-wanted.size_bytes // MAX_PARTS))

        def effect(connection: Connection) -> Answer:
            repository = ObjectRepository(connection)
            upload = repository.open_upload(
                **wanted.model_dump(), part_size_bytes=part_bytes, expire_seconds=self._limits.expire_seconds
            )
            stored = repository.find(wanted.kind, wanted.sha256) if wanted.sha256 else None
            if stored is None or self._store.stat(blob_key(stored.sha256)) is None:
                return Answer.of(201, wire_upload(upload))
            repository.complete_upload(upload.id, stored.id)
            return Answer.of(200, wire_upload(repository.get_upload(upload.id), stored))

        return do_once(self._database, once, effect)

    def get(self, upload_id: str) -> Upload:
        """The upload, or NotFound."""
        with self._database.read() as connection:
            repository = ObjectRepository(connection)
            upload = repository.get_upload(upload_id)
            try:
                stored = repository.get(upload.object_id) if upload.object_id else None
            except NotFound:  # it was deleted since
                stored = None
            return wire_upload(upload, stored)

    def part_bytes(self, upload_id: str, number: int) -> int:
        """The size that this part must have; NotFound or UploadClosed when it cannot be sent."""
        upload = self._open_upload(upload_id)
        count = _part_count(upload)
        if not 1 <= number <= count:
            raise NotFound(f"This upload has the parts 1 to {count}; there is no part {number}.")
        return upload.part_size_bytes if number < count else upload.size_bytes - (count - 1) * upload.part_size_bytes

    def add_part(self, upload_id: str, number: int, staged: StagedFile) -> Part:
        """Keep a part; the same bytes again change nothing, other bytes raise PartConflict."""
        wanted_bytes = self.part_bytes(upload_id, number)
        if staged.size_bytes != wanted_bytes:
            raise SizeMismatch(f"Part {number} must have {wanted_bytes} bytes; {staged.size_bytes} came.")
        part = PartRecord(number=number, size_bytes=staged.size_bytes, sha256=staged.sha256)
        if not self._is_recorded(upload_id, part):
            self._store.put_part(part_key(upload_id, number), staged.path, part.sha256)
            with self._database.write() as connection:
                ObjectRepository(connection).add_part(upload_id, part)
        return Part(number=number, size_bytes=part.size_bytes, sha256=part.sha256)

    def complete(self, upload_id: str, sha256: str, once: Once) -> Answer:
        """Join the parts, hash the whole, inspect it and store it: 201 with the object, 200 if it was here already."""
        with self._database.read() as connection:
            known = recalled(connection, once)
            upload = ObjectRepository(connection).get_upload(upload_id)
        if known is not None:
            return known
        if upload.completed:
            return self._completed(upload, sha256)
        self._open_upload(upload_id)
        _require_all_parts(upload)
        if upload.sha256 not in {None, sha256}:
            raise ChecksumMismatch(f"The upload was begun for SHA-256 {upload.sha256}, not {sha256}.")
        with self._staging.file() as writer:
            try:
                staged = self._join(upload, writer)
            except ObjectMissing:
                # Another request for the same completion may have been faster, and has deleted the parts.
                now = self._upload(upload_id)
                if now.completed:
                    return self._completed(now, sha256)
                staged = None
            if staged is None or staged.sha256 != sha256:
                self._forget_lost_parts(upload)
                raise ChecksumMismatch(f"The parts together do not have SHA-256 {sha256}.")
            answer = self._store_whole(upload, staged, once)
        self._delete_parts(upload)
        return answer

    def _store_whole(self, upload: UploadRecord, staged: StagedFile, once: Once) -> Answer:
        def effect(connection: Connection) -> Answer:
            record, created = self._objects.record(
                connection, upload.kind, staged, description, name=upload.name, filename=upload.filename
            )
            ObjectRepository(connection).complete_upload(upload.id, record.id)
            return Answer.of(201 if created else 200, wire_object(record))

        description = self._objects.keep(upload.kind, staged)
        try:
            return do_once(self._database, once, effect)
        except BaseException:
            self._objects.release_blob(staged.sha256)
            raise

    def _completed(self, upload: UploadRecord, sha256: str) -> Answer:
        """The answer to a completion that is asked for again."""
        with self._database.read() as connection:
            try:
                stored = ObjectRepository(connection).get(upload.object_id or "")
            except NotFound:
                raise UploadClosed("This upload was completed, and what it became was deleted since.") from None
        if stored.sha256 != sha256:
            raise ChecksumMismatch(f"The upload was completed with SHA-256 {stored.sha256}, not {sha256}.")
        return Answer.of(200, wire_object(stored))

    def _upload(self, upload_id: str) -> UploadRecord:
        with self._database.read() as connection:
            return ObjectRepository(connection).get_upload(upload_id)

    def _open_upload(self, upload_id: str) -> UploadRecord:
        upload = self._upload(upload_id)
        if upload.completed:
            raise UploadClosed("This upload is complete and takes no more parts.")
        if upload.expires_at < time.time():
            raise UploadClosed("This upload has expired; begin a new one.")
        return upload

    def _is_recorded(self, upload_id: str, part: PartRecord) -> bool:
        parts = self._upload(upload_id).parts
        known = next((each for each in parts if each.number == part.number), None)
        if known is not None and known != part:
            raise PartConflict(f"Part {part.number} was already sent with other bytes.")
        return known is not None

    def _join(self, upload: UploadRecord, writer: StagingWriter) -> StagedFile:
        for part in upload.parts:
            with self._store.open(part_key(upload.id, part.number)) as reader:
                for chunk in reader:
                    writer.write([chunk])
        return writer.finish()

    def _forget_lost_parts(self, upload: UploadRecord) -> None:
        """Raise PartsMissing if parts are no longer what arrived, as after a loss of power: they must be sent again."""
        lost = [part for part in upload.parts if self._hash_of(part_key(upload.id, part.number)) != part.sha256]
        if not lost:
            return
        with self._database.write() as connection:
            for part in lost:
                ObjectRepository(connection).forget_part(upload.id, part.number)
        _require_all_parts(self._upload(upload.id))

    def _hash_of(self, key: str) -> str | None:
        digest = hashlib.sha256()
        try:
            with self._store.open(key) as reader:
                for chunk in reader:
                    digest.update(chunk)
        except ObjectMissing:
            return None
        return digest.hexdigest()

    def _delete_parts(self, upload: UploadRecord) -> None:
        try:
            for part in upload.parts:
                self._store.delete(part_key(upload.id, part.number))
        except OctavoError as error:  # the sweeper takes them with the upload
            _log.warning("parts of a complete upload stay in the store", upload_id=upload.id, error=error.message)


def _part_count(upload: UploadRecord) -> int:
    return -(-upload.size_bytes // upload.part_size_bytes)


def _require_all_parts(upload: UploadRecord) -> None:
    arrived = {part.number for part in upload.parts}
    missing = [number for number in range(1, _part_count(upload) + 1) if number not in arrived]
    if missing:
        listed = [
            FieldError(pointer=f"/parts/{number}", code="missing", detail=f"Part {number} has not arrived.")
            for number in missing[:_MAX_LISTED]
        ]
        raise PartsMissing(f"{len(missing)} of {_part_count(upload)} parts have not arrived.", errors=listed)
