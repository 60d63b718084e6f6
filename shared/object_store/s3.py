"""Objects in a bucket of any S3-compatible store.

Bytes are hashed here, not trusted from the store: an ETag of a multipart upload is no hash. Every request carries the
SHA-256 of its body, so a byte lost on the way is refused; the whole file's hash is checked before the object appears,
and `If-None-Match: *` makes a key once.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import boto3
import botocore.config
import botocore.exceptions
import urllib3.exceptions

from shared.errors import DiskFull, ObjectMissing, StorageUnavailable
from shared.object_store.port import ObjectStat, checked_key, checked_prefix
from shared.object_store.transfer import ObjectReader, open_regular, require_hash, save_hashed
from shared.settings import StorageSettings

# A file up to this size is one request; a larger one is sent in parts of it: at most this much is held in memory.
PART_BYTES = 16 * 1024**2
_MAX_PARTS = 10_000
PAGE_KEYS = 1000

_MISSING = {"404", "NoSuchKey", "NotFound"}
_EXISTS = {"PreconditionFailed", "412", "ConditionalRequestConflict", "BucketAlreadyOwnedByYou"}
_FULL = {"XMinioStorageFull", "InsufficientStorage", "507", "QuotaExceeded"}


class S3Store:
    """A bucket, or a prefix in it."""

    def __init__(self, settings: StorageSettings) -> None:
        self._bucket = settings.bucket
        self._prefix = f"{settings.prefix.strip('/')}/" if settings.prefix.strip("/") else ""
        self._presign = settings.presign_downloads
        config = botocore.config.Config(
            connect_timeout=5,
            read_timeout=60,
            retries={"mode": "standard", "max_attempts": 4},
            max_pool_connections=32,
            signature_version="s3v4",
            # Stores of one's own seldom have a DNS name for each bucket.
            s3={"addressing_style": "path" if settings.endpoint_url else "auto"},
            # We send SHA-256 ourselves and check what comes back; several stores answer boto3's own CRCs wrongly.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        self._client: Any = boto3.session.Session().client(
            "s3",
            endpoint_url=settings.endpoint_url,
            region_name=settings.region,
            aws_access_key_id=settings.access_key_id and settings.access_key_id.get_secret_value(),
            aws_secret_access_key=settings.secret_access_key and settings.secret_access_key.get_secret_value(),
            config=config,
        )
        self._region = settings.region

    def prepare(self) -> None:
        """Make the bucket if it is missing."""
        if self._bucket_exists():
            return
        elsewhere = self._region != "us-east-1"  # the one region that refuses its own name here
        placement = {"CreateBucketConfiguration": {"LocationConstraint": self._region}} if elsewhere else {}
        with suppress(_KeyExists), self._translated(self._bucket):
            self._client.create_bucket(Bucket=self._bucket, **placement)

    def check(self) -> None:
        """Ask for the bucket."""
        if not self._bucket_exists():
            raise StorageUnavailable(f"The bucket {self._bucket} does not exist.")

    def put_file(
        self,
        key: str,
        path: Path,
        sha256: str,
        *,
        move: bool = False,
        hashed_when_written: bool = False,  # noqa: ARG002 - it is read for the sending anyway
    ) -> None:
        """See ObjectStore."""
        target = {"Bucket": self._bucket, "Key": self._name(key)}
        with open_regular(path) as source:
            size_bytes = os.fstat(source.fileno()).st_size
            if size_bytes <= PART_BYTES:
                self._put_whole(key, target, source.read(), sha256)
            elif not self._already_holds(key, sha256):
                self._put_parts(key, target, source, size_bytes, sha256)
        if move:
            path.unlink(missing_ok=True)

    def put_part(self, key: str, path: Path, sha256: str) -> None:
        """See ObjectStore; the store checks the hash."""
        checksum = base64.b64encode(bytes.fromhex(sha256)).decode()
        with open_regular(path) as source, self._translated(key):
            self._client.put_object(Bucket=self._bucket, Key=self._name(key), Body=source, ChecksumSHA256=checksum)
        path.unlink()

    def get_file(
        self, key: str, path: Path, *, expected_sha256: str, on_chunk: Callable[[int], object] | None = None
    ) -> None:
        """See ObjectStore."""
        with self.open(key) as reader:
            save_hashed(reader, path, expected_sha256=expected_sha256, on_chunk=on_chunk)

    def open(self, key: str, start: int = 0, end: int | None = None) -> ObjectReader:
        """See ObjectStore."""
        wanted = {} if (start, end) == (0, None) else {"Range": f"bytes={start}-{'' if end is None else end - 1}"}
        with self._translated(key):
            answer = self._client.get_object(Bucket=self._bucket, Key=self._name(key), **wanted)
        return ObjectReader(answer["Body"], answer["ContentLength"], lambda: self._translated(key))

    def stat(self, key: str) -> ObjectStat | None:
        """See ObjectStore."""
        try:
            with self._translated(key):
                answer = self._client.head_object(Bucket=self._bucket, Key=self._name(key))
        except ObjectMissing:
            return None
        return ObjectStat(key, answer["ContentLength"])

    def delete(self, key: str) -> None:
        """See ObjectStore."""
        with suppress(ObjectMissing), self._translated(key):
            self._client.delete_object(Bucket=self._bucket, Key=self._name(key))

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        """See ObjectStore."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket,
            Prefix=self._prefix + checked_prefix(prefix),
            PaginationConfig={"PageSize": PAGE_KEYS},
        )
        with self._translated(prefix):
            for page in pages:
                for entry in page.get("Contents", ()):
                    yield ObjectStat(entry["Key"].removeprefix(self._prefix), entry["Size"])

    def presigned_url(self, key: str, *, filename: str, media_type: str, expires_seconds: int) -> str | None:
        """See ObjectStore; only where the operator lets users reach the bucket."""
        if not self._presign:
            return None
        quoted = filename.replace("\\", "_").replace('"', "_")
        with self._translated(key):
            url: str = self._client.generate_presigned_url(
                "get_object",
                Params={
                    "Bucket": self._bucket,
                    "Key": self._name(key),
                    "ResponseContentType": media_type,
                    "ResponseContentDisposition": f'attachment; filename="{quoted}"',
                },
                ExpiresIn=expires_seconds,
            )
        return url

    def close(self) -> None:
        """Close the pooled connections."""
        self._client.close()

    def _bucket_exists(self) -> bool:
        try:
            with self._translated(self._bucket):
                self._client.head_bucket(Bucket=self._bucket)
        except ObjectMissing:
            return False
        return True

    def _name(self, key: str) -> str:
        return self._prefix + checked_key(key)

    def _already_holds(self, key: str, sha256: str) -> bool:
        """Whether the key holds these bytes, read and hashed; ObjectCorrupt if it holds others."""
        digest = hashlib.sha256()
        try:
            with self.open(key) as reader:
                for chunk in reader:
                    digest.update(chunk)
        except ObjectMissing:
            return False
        require_hash(digest.hexdigest(), sha256, f"{key} as it stands")
        return True

    def _put_whole(self, key: str, target: dict[str, str], content: bytes, sha256: str) -> None:
        require_hash(hashlib.sha256(content).hexdigest(), sha256, f"the file for {key}")
        with self._made_once(key, sha256), self._translated(key):
            self._client.put_object(**target, Body=content, ChecksumSHA256=_digest(content), IfNoneMatch="*")

    def _put_parts(self, key: str, target: dict[str, str], source: BinaryIO, size_bytes: int, sha256: str) -> None:
        part_bytes = max(PART_BYTES, -(-size_bytes // _MAX_PARTS))
        whole = hashlib.sha256()
        parts: list[dict[str, object]] = []
        with self._translated(key):
            upload = self._client.create_multipart_upload(**target, ChecksumAlgorithm="SHA256")["UploadId"]
        completed = False
        try:
            while content := source.read(part_bytes):
                whole.update(content)
                number = len(parts) + 1
                checksum = _digest(content)
                with self._translated(key):
                    answer = self._client.upload_part(
                        **target, UploadId=upload, PartNumber=number, Body=content, ChecksumSHA256=checksum
                    )
                parts.append({"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": checksum})
            require_hash(whole.hexdigest(), sha256, f"the file for {key}")
            with self._made_once(key, sha256), self._translated(key):
                self._client.complete_multipart_upload(
                    **target, UploadId=upload, MultipartUpload={"Parts": parts}, IfNoneMatch="*"
                )
                completed = True
        finally:
            if not completed:
                # Best effort: what a dead store keeps of an upload is for the bucket's lifecycle rule.
                with suppress(botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError):
                    self._client.abort_multipart_upload(**target, UploadId=upload)

    @contextmanager
    def _made_once(self, key: str, sha256: str) -> Iterator[None]:
        """Let a refusal to overwrite pass if the other writer's bytes are the same."""
        try:
            yield
        except _KeyExists:
            if not self._already_holds(key, sha256):
                raise

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        """Turn what the store or the network says into the errors of the port."""
        try:
            yield
        except botocore.exceptions.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in _MISSING:
                raise ObjectMissing(f"{what} is not in the object store.") from None
            if code in _EXISTS:
                raise _KeyExists(f"{what} was made by another writer at the same time.") from error
            if code in _FULL:
                raise DiskFull(f"The object store is full: {error}") from error
            raise StorageUnavailable(f"The object store refused {what}: {error}") from error
        except (botocore.exceptions.BotoCoreError, urllib3.exceptions.HTTPError, OSError) as error:
            raise StorageUnavailable(f"The object store does not answer: {error}") from error


class _KeyExists(StorageUnavailable):
    """Another writer made the key first."""


def _digest(content: bytes) -> str:
    return base64.b64encode(hashlib.sha256(content).digest()).decode()
