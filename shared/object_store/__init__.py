"""Where bytes are kept: one port, a directory or an S3-compatible bucket behind it.

    store = open_store(settings)
    store.put_file(blob_key(sha256), staged, sha256, move=True)
    store.get_file(blob_key(sha256), folder.model, expected_sha256=sha256)

An object is never changed once stored: a key is missing or whole, and putting the same bytes twice is harmless.
"""

from __future__ import annotations

from shared.object_store.local import LocalStore
from shared.object_store.port import (
    ObjectStat,
    ObjectStore,
    artifact_key,
    attempt_prefix,
    blob_key,
    checkpoint_key,
    checkpoint_prefix,
    job_prefix,
    part_key,
    upload_prefix,
)
from shared.object_store.transfer import ObjectReader
from shared.settings import Settings

__all__ = [
    "LocalStore",
    "ObjectReader",
    "ObjectStat",
    "ObjectStore",
    "artifact_key",
    "attempt_prefix",
    "blob_key",
    "checkpoint_key",
    "checkpoint_prefix",
    "job_prefix",
    "open_store",
    "part_key",
    "upload_prefix",
]


def open_store(settings: Settings) -> ObjectStore:
    """The object store that the settings name; nothing is connected or created yet.

    `store.prepare()` makes the directory or the bucket: `octavo-server migrate` and `up` call it once.
    """
    if settings.storage.kind == "local":
        return LocalStore(settings.storage_path)
    # boto3 costs 26 MiB and a fifth of a second, which the embedded stack never needs.
    from shared.object_store.s3 import S3Store  # noqa: PLC0415

    return S3Store(settings.storage)
