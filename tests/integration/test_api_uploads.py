"""Uploads in parts: resumable, each part any number of times, the whole checked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.object_store import part_key
from tests.api_server import Api, content_digest, images, npz, running_api, sha256

PART_BYTES = 1024
CONTENT = images(4)
COUNT = -(-len(CONTENT) // PART_BYTES)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with running_api(tmp_path / "data", uploads={"part_bytes": PART_BYTES}) as started:
        yield started


def begin(api: Api, content: bytes = CONTENT, **more: Any) -> dict[str, Any]:
    wanted = {"kind": "dataset", "filename": "d.npz", "size_bytes": len(content), **more}
    answer = api.client.post("/v1/uploads", json=wanted)
    assert answer.status_code == 201, answer.text
    upload: dict[str, Any] = answer.json()
    return upload


def part(number: int, content: bytes = CONTENT) -> bytes:
    return content[(number - 1) * PART_BYTES : number * PART_BYTES]


def send(api: Api, upload_id: str, number: int, content: bytes | None = None, **headers: str) -> Any:
    body = part(number) if content is None else content
    return api.client.put(f"/v1/uploads/{upload_id}/parts/{number}", content=body, headers=headers)


def send_all(api: Api, upload_id: str, content: bytes = CONTENT) -> None:
    for number in range(1, -(-len(content) // PART_BYTES) + 1):
        assert send(api, upload_id, number, part(number, content)).status_code == 200


def complete(api: Api, upload_id: str, digest: str, **headers: str) -> Any:
    return api.client.post(f"/v1/uploads/{upload_id}/complete", json={"sha256": digest}, headers=headers)


def test_parts_in_any_order_become_the_dataset_and_nothing_else_stays(api: Api) -> None:
    upload = begin(api, name="parted")
    assert (upload["status"], upload["parts"], upload["object"]) == ("open", [], None)
    assert upload["part_size_bytes"] == PART_BYTES
    for number in reversed(range(1, COUNT + 1)):
        answer = send(api, upload["id"], number)
        assert answer.json() == {
            "number": number,
            "size_bytes": len(part(number)),
            "sha256": sha256(part(number)),
        }
    done = complete(api, upload["id"], sha256(CONTENT))
    assert done.status_code == 201
    assert (done.json()["name"], done.json()["sha256"]) == ("parted", sha256(CONTENT))
    assert api.stored_files() == [f"blobs/sha256/{sha256(CONTENT)}"]
    shown = api.client.get(f"/v1/uploads/{upload['id']}").json()
    assert shown["status"] == "complete"
    assert shown["object"] == done.json()


def test_a_resuming_client_sees_which_parts_have_arrived(api: Api) -> None:
    upload = begin(api)
    send(api, upload["id"], 2)
    shown = api.client.get(f"/v1/uploads/{upload['id']}").json()
    assert [each["number"] for each in shown["parts"]] == [2]
    answer = complete(api, upload["id"], sha256(CONTENT))
    assert (answer.status_code, answer.json()["code"]) == (409, "parts_missing")
    assert [each["pointer"] for each in answer.json()["errors"]] == [
        f"/parts/{number}" for number in range(1, COUNT + 1) if number != 2
    ]


def test_the_same_part_again_changes_nothing_and_other_bytes_are_409(api: Api) -> None:
    upload = begin(api)
    first, again = send(api, upload["id"], 1), send(api, upload["id"], 1)
    assert (again.status_code, again.json()) == (200, first.json())
    other = send(api, upload["id"], 1, b"y" * PART_BYTES)
    assert (other.status_code, other.json()["code"]) == (409, "part_conflict")
    send_all(api, upload["id"])
    assert complete(api, upload["id"], sha256(CONTENT)).status_code == 201


def test_bytes_that_a_killed_request_left_do_not_block_the_part(api: Api, tmp_path: Path) -> None:
    """The object is there and no row tells of it: as after a kill between the two."""
    upload = begin(api)
    replace_part(api, upload["id"], tmp_path, b"z" * PART_BYTES)
    send_all(api, upload["id"])
    assert complete(api, upload["id"], sha256(CONTENT)).status_code == 201


@pytest.mark.parametrize("left", [b"z" * PART_BYTES, b"", None])
def test_a_part_that_was_lost_with_the_power_is_asked_for_again(api: Api, tmp_path: Path, left: bytes | None) -> None:
    """Damaged, cut or gone: the upload goes on with that part alone."""
    upload = begin(api)
    send_all(api, upload["id"])
    if left is None:
        api.store.delete(part_key(upload["id"], 1))
    else:
        replace_part(api, upload["id"], tmp_path, left)
    answer = complete(api, upload["id"], sha256(CONTENT))
    assert (answer.status_code, answer.json()["code"]) == (409, "parts_missing")
    assert [each["pointer"] for each in answer.json()["errors"]] == ["/parts/1"]
    assert send(api, upload["id"], 1).status_code == 200
    assert complete(api, upload["id"], sha256(CONTENT)).status_code == 201


def replace_part(api: Api, upload_id: str, directory: Path, content: bytes) -> None:
    path = directory / "part"
    path.write_bytes(content)
    api.store.put_part(part_key(upload_id, 1), path, sha256(content))


@pytest.mark.parametrize("size", [0, PART_BYTES - 1, PART_BYTES + 1])
def test_a_part_of_another_size_is_refused(api: Api, size: int) -> None:
    upload = begin(api)
    for body in (b"x" * size, iter([b"x" * size])):
        answer = send(api, upload["id"], 1, body)  # type: ignore[arg-type]  # httpx takes iterables too
        assert (answer.status_code, answer.json()["code"]) == (400, "size_mismatch")


def test_a_part_with_a_wrong_digest_is_refused_and_can_be_sent_again(api: Api) -> None:
    upload = begin(api)
    wrong = send(api, upload["id"], 1, **{"Content-Digest": content_digest(b"?")})
    assert (wrong.status_code, wrong.json()["code"]) == (400, "checksum_mismatch")
    assert send(api, upload["id"], 1, **{"Content-Digest": content_digest(part(1))}).status_code == 200


@pytest.mark.parametrize("number", [COUNT + 1, 99_999])
def test_a_part_beyond_the_last_is_not_found(api: Api, number: int) -> None:
    assert send(api, begin(api)["id"], number, b"x").status_code == 404


def test_a_wrong_whole_hash_is_refused_and_the_upload_stays_open(api: Api) -> None:
    upload = begin(api)
    send_all(api, upload["id"])
    wrong = complete(api, upload["id"], sha256(b"?"))
    assert (wrong.status_code, wrong.json()["code"]) == (400, "checksum_mismatch")
    assert complete(api, upload["id"], sha256(CONTENT)).status_code == 201


def test_a_hash_other_than_announced_is_refused(api: Api) -> None:
    upload = begin(api, sha256=sha256(b"announced"))
    send_all(api, upload["id"])
    assert complete(api, upload["id"], sha256(CONTENT)).json()["code"] == "checksum_mismatch"


def test_a_file_that_cannot_be_served_is_refused_at_the_end_and_not_stored(api: Api) -> None:
    content = npz(x=np.array([{"a": 1}], dtype=object))
    upload = begin(api, content)
    send_all(api, upload["id"], content)
    answer = complete(api, upload["id"], sha256(content))
    assert (answer.status_code, answer.json()["code"]) == (422, "dataset_object_array")
    assert not any(path.startswith("blobs/") for path in api.stored_files())


def test_completing_again_answers_the_same_object(api: Api) -> None:
    upload = begin(api)
    send_all(api, upload["id"])
    first = complete(api, upload["id"], sha256(CONTENT))
    again = complete(api, upload["id"], sha256(CONTENT))
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    assert complete(api, upload["id"], sha256(b"?")).json()["code"] == "checksum_mismatch"
    late = send(api, upload["id"], 1)
    assert (late.status_code, late.json()["code"]) == (409, "upload_closed")


def test_completing_again_under_its_idempotency_key_repeats_201(api: Api) -> None:
    upload = begin(api)
    send_all(api, upload["id"])
    key = {"Idempotency-Key": "complete-1"}
    first = complete(api, upload["id"], sha256(CONTENT), **key)
    again = complete(api, upload["id"], sha256(CONTENT), **key)
    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["Idempotent-Replayed"] == "true"


def test_content_that_is_here_need_not_be_sent(api: Api) -> None:
    dataset = api.add_dataset(CONTENT)
    wanted = {"kind": "dataset", "size_bytes": len(CONTENT), "sha256": sha256(CONTENT)}
    answer = api.client.post("/v1/uploads", json=wanted)
    assert answer.status_code == 200
    assert answer.json()["status"] == "complete"
    assert answer.json()["object"]["id"] == dataset


def test_an_expired_upload_takes_no_more_parts(tmp_path: Path) -> None:
    with running_api(tmp_path / "short", uploads={"part_bytes": PART_BYTES, "expire_seconds": 1e-6}) as api:
        answer = send(api, begin(api)["id"], 1)
        assert (answer.status_code, answer.json()["code"]) == (409, "upload_closed")


def test_the_same_request_under_its_key_begins_one_upload(api: Api) -> None:
    wanted = {"kind": "dataset", "size_bytes": 10}
    answers = [
        api.client.post("/v1/uploads", json=wanted, headers={"Idempotency-Key": "begin"}).json() for _ in range(2)
    ]
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("wanted", "pointer"),
    [
        ({"kind": "picture", "size_bytes": 1}, "/kind"),
        ({"kind": "model"}, "/size_bytes"),
        ({"kind": "model", "size_bytes": 0}, "/size_bytes"),
        ({"kind": "model", "size_bytes": 1, "sha256": "AB"}, "/sha256"),
        ({"kind": "model", "size_bytes": 1, "name": "a\u0000"}, "/name"),
        ({"kind": "model", "size_bytes": 1, "colour": "red"}, "/colour"),
    ],
)
def test_a_wrong_beginning_points_at_what_is_wrong(api: Api, wanted: dict[str, Any], pointer: str) -> None:
    answer = api.client.post("/v1/uploads", json=wanted)
    assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")
    assert [each["pointer"] for each in answer.json()["errors"]] == [pointer]


def test_a_file_beyond_the_limit_cannot_be_begun(tmp_path: Path) -> None:
    with running_api(tmp_path / "small", uploads={"max_bytes": 100}) as api:
        answer = api.client.post("/v1/uploads", json={"kind": "model", "size_bytes": 101})
        assert (answer.status_code, answer.json()["code"]) == (413, "upload_too_large")


def test_an_unknown_upload_is_not_found(api: Api) -> None:
    assert api.client.get("/v1/uploads/upl_nothing").status_code == 404
    assert send(api, "upl_nothing", 1).status_code == 404
    assert complete(api, "upl_nothing", sha256(b"")).status_code == 404
