"""One suite for both object stores: a directory, and a bucket of a real S3 server.

What only one of them can suffer (a killed writer, a full disk, a server that is gone) stands at the end.
"""

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest

from server.broker import free_port
from shared.errors import DiskFull, ObjectCorrupt, ObjectMissing, StorageUnavailable
from shared.object_store import LocalStore, ObjectStat, ObjectStore, artifact_key, blob_key, open_store, part_key
from shared.object_store import s3 as s3_module
from shared.settings import Settings, StorageSettings
from tests.services.process import wait_until
from tests.services.s3_server import S3Server, s3_server

CONTENT = bytes(range(256)) * 4096  # 1 MiB
KEY = "blobs/sha256/content"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(params=["local", "s3"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    storage = StorageSettings() if request.param == "local" else request.getfixturevalue("s3_settings")
    return Settings(data_dir=tmp_path / "data", storage=storage)


@pytest.fixture
def store(settings: Settings) -> Iterator[ObjectStore]:
    store = open_store(settings)
    store.prepare()
    yield store
    store.close()


@pytest.fixture
def file_of(tmp_path: Path) -> Callable[[bytes], Path]:
    """Writes bytes to a new file."""

    def write(content: bytes) -> Path:
        path = tmp_path / f"source-{len(list(tmp_path.iterdir()))}"
        path.write_bytes(content)
        return path

    return write


def stored(store: ObjectStore, key: str) -> bytes:
    with store.open(key) as reader:
        return b"".join(reader)


def keys(store: ObjectStore, prefix: str) -> list[str]:
    return sorted(entry.key for entry in store.list(prefix))


# --- both stores -----------------------------------------------------------------------------------------------------


def test_an_object_comes_back_as_it_was_stored(
    store: ObjectStore, file_of: Callable[..., Path], tmp_path: Path
) -> None:
    path = file_of(CONTENT)
    store.put_file(KEY, path, sha256(CONTENT))
    store.get_file(KEY, tmp_path / "back", expected_sha256=sha256(CONTENT))
    assert (tmp_path / "back").read_bytes() == CONTENT
    assert store.stat(KEY) == ObjectStat(KEY, len(CONTENT))
    assert path.read_bytes() == CONTENT, "without move the file stays"


def test_an_empty_object_can_be_stored(store: ObjectStore, file_of: Callable[..., Path], tmp_path: Path) -> None:
    store.put_file(KEY, file_of(b""), sha256(b""))
    store.get_file(KEY, tmp_path / "back", expected_sha256=sha256(b""))
    assert (tmp_path / "back").read_bytes() == stored(store, KEY) == b""
    assert store.stat(KEY) == ObjectStat(KEY, 0)


def test_move_takes_the_file_away(store: ObjectStore, file_of: Callable[..., Path]) -> None:
    path = file_of(CONTENT)
    store.put_file(KEY, path, sha256(CONTENT), move=True)
    assert not path.exists()
    assert stored(store, KEY) == CONTENT


def test_an_object_of_several_parts_comes_back_whole(
    store: ObjectStore, file_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_module, "PART_BYTES", 5 * 1024**2)  # the least that S3 allows
    content = CONTENT * 11
    store.put_file(KEY, file_of(content), sha256(content))
    store.put_file(KEY, file_of(content), sha256(content))
    assert stored(store, KEY) == content


def test_the_same_bytes_may_be_stored_twice(store: ObjectStore, file_of: Callable[..., Path]) -> None:
    for move in (False, True):
        path = file_of(CONTENT)
        store.put_file(KEY, path, sha256(CONTENT), move=move)
        assert path.exists() is not move
    assert stored(store, KEY) == CONTENT


def test_a_part_is_taken_away_and_replaces_what_was_there(store: ObjectStore, file_of: Callable[..., Path]) -> None:
    key = part_key("upl_1", 1)
    for content in (b"first", CONTENT):
        path = file_of(content)
        store.put_part(key, path, sha256(content))
        assert not path.exists()
        assert stored(store, key) == content


@pytest.mark.parametrize("move", [False, True])
def test_other_bytes_under_the_same_key_are_refused_and_change_nothing(
    store: ObjectStore, file_of: Callable[..., Path], move: bool
) -> None:
    store.put_file(KEY, file_of(CONTENT), sha256(CONTENT))
    other = file_of(b"other")
    with pytest.raises(ObjectCorrupt):
        store.put_file(KEY, other, sha256(b"other"), move=move)
    assert stored(store, KEY) == CONTENT
    assert other.read_bytes() == b"other", "what was not stored is not taken away"


@pytest.mark.parametrize("move", [False, True])
@pytest.mark.parametrize("size", [1, 12])
def test_a_file_with_another_hash_than_announced_is_not_stored(
    store: ObjectStore, file_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, size: int, move: bool
) -> None:
    monkeypatch.setattr(s3_module, "PART_BYTES", 5 * 1024**2)
    path = file_of(CONTENT * size)
    with pytest.raises(ObjectCorrupt):
        store.put_file(KEY, path, sha256(b"announced"), move=move)
    assert store.stat(KEY) is None
    assert keys(store, "blobs/") == []
    assert path.exists()


def test_what_a_job_left_as_a_symbolic_link_is_not_followed(
    store: ObjectStore, file_of: Callable[..., Path], tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(file_of(CONTENT))
    with pytest.raises(OSError, match="symbolic"):
        store.put_file(KEY, link, sha256(CONTENT), move=True)
    assert store.stat(KEY) is None


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, None, CONTENT),
        (0, 1, CONTENT[:1]),
        (5, 9, CONTENT[5:9]),
        (len(CONTENT) - 3, None, CONTENT[-3:]),
        (10, len(CONTENT) + 100, CONTENT[10:]),
    ],
)
def test_a_range_is_read(
    store: ObjectStore, file_of: Callable[..., Path], start: int, end: int | None, expected: bytes
) -> None:
    store.put_file(KEY, file_of(CONTENT), sha256(CONTENT))
    with store.open(KEY, start, end) as reader:
        assert b"".join(reader) == expected


def test_a_reader_may_be_closed_in_the_middle(store: ObjectStore, file_of: Callable[..., Path]) -> None:
    content = CONTENT * 4
    store.put_file(KEY, file_of(content), sha256(content))
    for _ in range(40):  # more than a pool of connections holds
        with store.open(KEY) as reader:
            assert content.startswith(next(reader))
    assert stored(store, KEY) == content


def test_get_refuses_an_object_with_another_hash_and_leaves_no_file(
    store: ObjectStore, file_of: Callable[..., Path], tmp_path: Path
) -> None:
    store.put_file(KEY, file_of(CONTENT), sha256(CONTENT))
    with pytest.raises(ObjectCorrupt):
        store.get_file(KEY, tmp_path / "back", expected_sha256=sha256(b"other"))
    assert not (tmp_path / "back").exists()


def test_get_tells_of_each_chunk_and_can_be_ended_by_it(
    store: ObjectStore, file_of: Callable[..., Path], tmp_path: Path
) -> None:
    content = CONTENT * 3
    store.put_file(KEY, file_of(content), sha256(content))
    seen: list[int] = []
    store.get_file(KEY, tmp_path / "back", expected_sha256=sha256(content), on_chunk=seen.append)
    assert sum(seen) == len(content)
    assert len(seen) >= 3

    def cancel(_: int) -> None:
        raise TimeoutError("cancelled")

    with pytest.raises(TimeoutError, match="cancelled"):
        store.get_file(KEY, tmp_path / "ended", expected_sha256=sha256(content), on_chunk=cancel)
    assert not (tmp_path / "ended").exists()


def test_a_copy_given_out_cannot_change_the_object(
    store: ObjectStore, file_of: Callable[..., Path], tmp_path: Path
) -> None:
    store.put_file(KEY, file_of(CONTENT), sha256(CONTENT))
    store.get_file(KEY, tmp_path / "back", expected_sha256=sha256(CONTENT))
    (tmp_path / "back").write_bytes(b"overwritten by a job")
    assert stored(store, KEY) == CONTENT


def test_a_missing_object_is_missing_everywhere(store: ObjectStore, tmp_path: Path) -> None:
    assert store.stat(KEY) is None
    with pytest.raises(ObjectMissing, match=KEY):
        store.open(KEY)
    with pytest.raises(ObjectMissing, match=KEY):
        store.get_file(KEY, tmp_path / "back", expected_sha256=sha256(CONTENT))
    assert not (tmp_path / "back").exists()


def test_delete_forgets_and_may_be_repeated(store: ObjectStore, file_of: Callable[..., Path]) -> None:
    store.put_file(KEY, file_of(CONTENT), sha256(CONTENT))
    store.delete(KEY)
    store.delete(KEY)
    assert store.stat(KEY) is None
    store.put_file(KEY, file_of(b"again"), sha256(b"again"))
    assert stored(store, KEY) == b"again"


def test_list_gives_what_is_below_a_prefix(store: ObjectStore, file_of: Callable[..., Path]) -> None:
    wanted = [artifact_key("job_1", 2, name) for name in ("SHA256SUMS", "model_int8.pt", "report.json")]
    others = [artifact_key("job_10", 1, "report.json"), part_key("upl_1", 1), blob_key(sha256(b"x"))]
    for key in wanted + others:
        store.put_file(key, file_of(b"x"), sha256(b"x"))
    assert keys(store, "results/job_1/") == wanted
    assert keys(store, "results/") == sorted([*wanted, others[0]])
    assert list(store.list("uploads/upl_1/")) == [ObjectStat(others[1], 1)]
    assert keys(store, "uploads/upl_2/") == []


def test_list_goes_on_after_a_page(
    store: ObjectStore, file_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 gives at most 1,000 keys an answer; here 3, so that the test need not store a thousand."""
    monkeypatch.setattr(s3_module, "PAGE_KEYS", 3)
    path = file_of(b"x")
    names = [part_key("upl_many", number) for number in range(1, 11)]
    for key in names:
        store.put_file(key, path, sha256(b"x"))
    assert keys(store, "uploads/upl_many/") == sorted(names)


def test_many_writers_of_one_key_all_succeed_when_their_bytes_are_the_same(
    store: ObjectStore, file_of: Callable[..., Path]
) -> None:
    paths = [file_of(CONTENT) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda path: store.put_file(KEY, path, sha256(CONTENT), move=True), paths))
    assert stored(store, KEY) == CONTENT


def test_of_many_writers_with_other_bytes_one_has_the_key_whole(
    store: ObjectStore, file_of: Callable[..., Path]
) -> None:
    """The directory tells every loser; Swift looks before it writes, so losers of the same moment may not hear."""
    contents = [bytes([number]) * 100_000 for number in range(8)]
    paths = [file_of(content) for content in contents]

    def put(index: int) -> bool:
        try:
            store.put_file(KEY, paths[index], sha256(contents[index]))
        except ObjectCorrupt:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(put, range(8)))
    assert won[contents.index(stored(store, KEY))]
    assert won.count(True) == 1 or not isinstance(store, LocalStore)


def test_writers_and_deleters_side_by_side_leave_a_whole_object_or_none(
    store: ObjectStore, file_of: Callable[..., Path]
) -> None:
    path = file_of(CONTENT)

    def turn(number: int) -> None:
        key = artifact_key("job_1", 1, f"file-{number % 2}")
        if number % 3:
            # A store may say that the key came and went under it: a fault of the moment, retried like any other.
            with contextlib.suppress(StorageUnavailable):
                store.put_file(key, path, sha256(CONTENT))
        else:
            store.delete(key)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(turn, range(60)))
    for entry in store.list("results/"):
        assert stored(store, entry.key) == CONTENT


@pytest.mark.parametrize(
    "key",
    [
        "../evil",
        "blobs/../../evil",
        "/etc/passwd",
        "blobs//x",
        "blobs/.hidden",
        "blobs/a\\b",
        "blobs/a\nb",
        "blobs/a\0b",
        "blobs/",
        "blobs",
        "",
        "staging/x",
        "blobs/" + "x" * 201,
    ],
)
def test_a_key_that_octavo_never_makes_is_refused(
    store: ObjectStore, file_of: Callable[..., Path], tmp_path: Path, key: str
) -> None:
    path = file_of(b"x")
    for use in (
        lambda: store.put_file(key, path, sha256(b"x")),
        lambda: store.get_file(key, tmp_path / "back", expected_sha256=sha256(b"x")),
        lambda: store.open(key),
        lambda: store.stat(key),
        lambda: store.delete(key),
    ):
        with pytest.raises(ValueError, match="not an object key"):
            use()


@pytest.mark.parametrize("prefix", ["", "/", "../", "blobs/..", "blobs", "blobs/../", "tmp/"])
def test_a_prefix_that_octavo_never_makes_is_refused(store: ObjectStore, prefix: str) -> None:
    with pytest.raises(ValueError, match="not an object prefix"):
        list(store.list(prefix))


def test_prepare_may_be_repeated_and_check_passes(store: ObjectStore) -> None:
    store.prepare()
    store.check()


def test_before_prepare_everything_says_that_the_store_is_unavailable(
    settings: Settings, file_of: Callable[..., Path]
) -> None:
    """A disk that is not mounted must not look like an empty store."""
    store = open_store(settings)
    with pytest.raises(StorageUnavailable):
        store.check()
    with pytest.raises(StorageUnavailable):
        store.put_file(KEY, file_of(b"x"), sha256(b"x"))
    with pytest.raises(StorageUnavailable):
        store.open(KEY)
    with pytest.raises(StorageUnavailable):
        list(store.list("blobs/"))
    store.close()


# --- the directory ---------------------------------------------------------------------------------------------------

WRITER = """
import sys, pathlib
from shared.object_store import LocalStore
root, source, sha256 = sys.argv[1:]
store = LocalStore(pathlib.Path(root))
for number in range(10_000):
    store.put_file(f"blobs/file-{number}", pathlib.Path(source), sha256)
    print(number, flush=True)
"""


@pytest.fixture
def local(tmp_path: Path) -> ObjectStore:
    store = open_store(Settings(data_dir=tmp_path / "data"))
    store.prepare()
    return store


def test_a_killed_writer_leaves_whole_objects_only_and_all_that_it_had_stored(
    local: ObjectStore, file_of: Callable[..., Path], tmp_path: Path
) -> None:
    content = CONTENT * 4
    root = tmp_path / "data" / "objects"
    command = [sys.executable, "-c", WRITER, root, file_of(content), sha256(content)]
    torn = 0
    for _ in range(5):
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            # In the middle of a later file: a temporary one is half there.
            wait_until(
                lambda: any(0 < path.stat().st_size < len(content) for path in existing(root / "tmp")),
                "the writer to be writing",
            )
            writer.send_signal(signal.SIGKILL)
            acknowledged = writer.stdout.read().split()
        torn += sum(path.stat().st_size < len(content) for path in existing(root / "tmp"))
        stored_keys = keys(local, "blobs/")
        assert len(stored_keys) >= len(acknowledged)
        for key in stored_keys:
            local.get_file(key, tmp_path / "back", expected_sha256=sha256(content))
            local.delete(key)
    assert torn > 0, "no writer was killed in the middle of a file: the test showed nothing"


def existing(directory: Path) -> Iterator[Path]:
    for path in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):
            path.stat()
            yield path


def test_prepare_sweeps_what_a_killed_writer_left_a_day_ago(local: ObjectStore, tmp_path: Path) -> None:
    tmp = tmp_path / "data" / "objects" / "tmp"
    for name in ("old", "new"):
        (tmp / name).write_bytes(b"torn")
    os.utime(tmp / "old", (0, 0))
    local.prepare()
    assert [path.name for path in tmp.iterdir()] == ["new"]


def test_a_file_on_another_file_system_is_copied(
    local: ObjectStore, small_disk: Path, file_of: Callable[..., Path]
) -> None:
    path = small_disk / "elsewhere"
    path.write_bytes(CONTENT)
    local.put_file(KEY, path, sha256(CONTENT), move=True)
    assert stored(local, KEY) == CONTENT
    assert not path.exists()


def test_objects_are_private_and_read_only(local: ObjectStore, file_of: Callable[..., Path], tmp_path: Path) -> None:
    local.put_file(KEY, file_of(CONTENT), sha256(CONTENT), move=True)
    root = tmp_path / "data" / "objects"
    assert root.stat().st_mode & 0o777 == 0o700
    assert (root / KEY).stat().st_mode & 0o777 == 0o440


def test_downloads_of_a_directory_go_through_the_api(local: ObjectStore) -> None:
    assert local.presigned_url(KEY, filename="x", media_type="text/plain", expires_seconds=60) is None


def test_the_embedded_store_does_not_load_boto3() -> None:
    code = (
        "import sys; from shared.object_store import open_store; from shared.settings import Settings;"
        "open_store(Settings()); print('boto3' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "False"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", path], check=False, capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


def test_a_full_disk_is_said_and_leaves_nothing_half(
    small_disk: Path, file_of: Callable[..., Path], local: ObjectStore, tmp_path: Path
) -> None:
    content = CONTENT * 9
    path = file_of(content)
    full = open_store(Settings(storage=StorageSettings(path=small_disk / "objects")))
    full.prepare()
    with pytest.raises(DiskFull):
        full.put_file(KEY, path, sha256(content))
    assert full.stat(KEY) is None
    assert list((small_disk / "objects" / "tmp").iterdir()) == []
    full.put_file(KEY, file_of(CONTENT), sha256(CONTENT))  # there is room again

    local.put_file(KEY, path, sha256(content))
    with pytest.raises(DiskFull):
        local.get_file(KEY, small_disk / "input", expected_sha256=sha256(content))
    assert not (small_disk / "input").exists()


# --- the bucket ------------------------------------------------------------------------------------------------------


def client_of(settings: StorageSettings) -> Any:
    assert settings.access_key_id is not None
    assert settings.secret_access_key is not None
    return boto3.client(
        "s3",
        endpoint_url=settings.endpoint_url,
        region_name=settings.region,
        aws_access_key_id=settings.access_key_id.get_secret_value(),
        aws_secret_access_key=settings.secret_access_key.get_secret_value(),
    )


def test_an_upload_given_up_or_lost_to_another_leaves_no_parts_behind(
    s3_settings: StorageSettings, file_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts that nobody completes are paid for and never seen."""
    monkeypatch.setattr(s3_module, "PART_BYTES", 5 * 1024**2)
    store = open_store(Settings(storage=s3_settings))
    store.prepare()
    content = CONTENT * 11
    with pytest.raises(ObjectCorrupt):
        store.put_file(KEY, file_of(content), sha256(b"announced"))
    paths = [file_of(content) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda path: store.put_file(KEY, path, sha256(content)), paths))
    assert stored(store, KEY) == content
    assert client_of(s3_settings).list_multipart_uploads(Bucket=s3_settings.bucket).get("Uploads", []) == []
    store.close()


def test_two_services_share_a_bucket_by_prefix(s3: S3Server, file_of: Callable[..., Path]) -> None:
    settings = s3.settings(prefix="/one/")
    one = open_store(Settings(storage=settings))
    two = open_store(Settings(storage=settings.model_copy(update={"prefix": "two"})))
    one.prepare()
    one.put_file(KEY, file_of(CONTENT), sha256(CONTENT))
    assert keys(one, "blobs/") == [KEY]
    assert two.stat(KEY) is None
    assert keys(two, "blobs/") == []
    assert client_of(settings).list_objects_v2(Bucket=settings.bucket)["Contents"][0]["Key"] == f"one/{KEY}"


def test_a_presigned_url_serves_the_object_under_its_file_name(s3: S3Server, file_of: Callable[..., Path]) -> None:
    store = open_store(Settings(storage=s3.settings(presign_downloads=True)))
    store.prepare()
    store.put_file(KEY, file_of(CONTENT), sha256(CONTENT))
    url = store.presigned_url(KEY, filename='model "int8".pt', media_type="application/x-test", expires_seconds=60)
    assert url is not None
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == CONTENT
        assert answer.headers["Content-Disposition"] == 'attachment; filename="model _int8_.pt"'
        assert answer.headers["Content-Type"] == "application/x-test"


def test_urls_are_presigned_only_where_the_operator_asks(s3_settings: StorageSettings) -> None:
    store = open_store(Settings(storage=s3_settings))
    assert store.presigned_url(KEY, filename="x", media_type="text/plain", expires_seconds=60) is None


def test_wrong_credentials_make_the_store_unavailable(s3: S3Server, file_of: Callable[..., Path]) -> None:
    store = open_store(Settings(storage=s3.settings(secret_access_key="wrong")))
    with pytest.raises(StorageUnavailable):
        store.check()
    with pytest.raises(StorageUnavailable):
        store.put_file(KEY, file_of(CONTENT), sha256(CONTENT))


def test_a_server_that_is_not_there_is_said_by_every_method(file_of: Callable[..., Path], tmp_path: Path) -> None:
    settings = S3Server(free_port("127.0.0.1")).settings()
    store = open_store(Settings(storage=settings))
    path = file_of(CONTENT)
    for use in (
        store.prepare,
        store.check,
        lambda: store.put_file(KEY, path, sha256(CONTENT), move=True),
        lambda: store.get_file(KEY, tmp_path / "back", expected_sha256=sha256(CONTENT)),
        lambda: store.open(KEY),
        lambda: store.stat(KEY),
        lambda: store.delete(KEY),
        lambda: list(store.list("blobs/")),
    ):
        with pytest.raises(StorageUnavailable):
            use()
    assert path.read_bytes() == CONTENT
    assert not (tmp_path / "back").exists()


def test_a_server_killed_in_the_middle_of_a_download_is_said_and_leaves_no_file(
    tmp_path: Path, file_of: Callable[..., Path]
) -> None:
    content = CONTENT * 64
    with s3_server(tmp_path / "swift") as server:
        store = open_store(Settings(storage=server.settings()))
        store.prepare()
        store.put_file(KEY, file_of(content), sha256(content))
        assert server.process is not None
        process = server.process

        def kill(_: int) -> None:
            process.kill()
            process.wait()

        with pytest.raises(StorageUnavailable):
            store.get_file(KEY, tmp_path / "back", expected_sha256=sha256(content), on_chunk=kill)
        assert not (tmp_path / "back").exists()
