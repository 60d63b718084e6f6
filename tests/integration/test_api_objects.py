"""Models and datasets over HTTP: stored once, never half, refused with a reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shared.object_store import blob_key
from tests.api_server import KEY, Api, content_digest, images, npz, running_api, sha256


def test_a_model_is_stored_under_its_hash_and_described(api: Api, small_net: Path) -> None:
    content = small_net.read_bytes()
    answer = api.client.post("/v1/models?name=small&filename=small.pt2", content=content)
    assert answer.status_code == 201
    model = answer.json()
    assert model["kind"] == "model"
    assert (model["name"], model["filename"]) == ("small", "small.pt2")
    assert (model["size_bytes"], model["sha256"]) == (len(content), sha256(content))
    assert model["inputs"] == [{"name": "x", "shape": [None, 3, 8, 8], "dtype": "float32"}]
    assert model["created_at"].endswith("Z")
    assert api.client.get(f"/v1/models/{model['id']}").json() == model
    with api.store.open(blob_key(sha256(content))) as reader:
        assert b"".join(reader) == content


def test_a_dataset_tells_its_samples_arrays_and_labels(api: Api) -> None:
    dataset = api.client.post("/v1/datasets?filename=d.npz", content=images(6, labels=np.arange(6))).json()
    assert dataset["samples"] == 6
    assert dataset["labels"] is True
    assert dataset["arrays"]["x"] == {"shape": [6, 3, 8, 8], "dtype": "float32"}
    assert dataset["name"] == "d.npz"


def test_the_same_content_again_answers_200_with_the_same_object_and_stores_nothing(api: Api) -> None:
    first = api.client.post("/v1/datasets?name=a", content=images())
    stored = api.stored_files()
    second = api.client.post("/v1/datasets?name=b", content=images())
    assert (first.status_code, second.status_code) == (201, 200)
    assert second.json() == first.json()
    assert api.stored_files() == stored


def test_content_whose_bytes_were_lost_is_mended_by_sending_it_again(api: Api) -> None:
    first = api.client.post("/v1/datasets", content=images()).json()
    api.store.delete(blob_key(first["sha256"]))
    assert api.client.post("/v1/datasets", content=images()).json() == first
    assert api.store.stat(blob_key(first["sha256"])) is not None


def test_a_right_content_digest_is_accepted_and_a_wrong_one_leaves_nothing(api: Api) -> None:
    content = images()
    wrong = api.client.post("/v1/datasets", content=content, headers={"Content-Digest": content_digest(b"other")})
    assert wrong.status_code == 400
    assert wrong.json()["code"] == "checksum_mismatch"
    assert api.stored_files() == []
    right = api.client.post("/v1/datasets", content=content, headers={"Content-Digest": content_digest(content)})
    assert right.status_code == 201


@pytest.mark.parametrize("digest", ["sha-256=:AAAA:", "sha-256=nonsense", "sha-256=:*:"])
def test_a_malformed_content_digest_is_an_invalid_request(api: Api, digest: str) -> None:
    answer = api.client.post("/v1/datasets", content=images(), headers={"Content-Digest": digest})
    assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")


def test_an_algorithm_that_octavo_does_not_know_is_ignored(api: Api) -> None:
    answer = api.client.post("/v1/datasets", content=images(), headers={"Content-Digest": "md5=:abc:"})
    assert answer.status_code == 201


@pytest.mark.parametrize(
    ("path", "content", "code"),
    [
        ("/v1/models", b"", "model_corrupt"),
        ("/v1/models", b"not a model at all", "model_unreadable"),
        ("/v1/models", npz(x=np.zeros((2, 3))), "model_unreadable"),
        ("/v1/datasets", b"not a dataset", "dataset_unreadable"),
        ("/v1/datasets", npz(x=np.zeros((2, 3)))[:-30], "dataset_corrupt"),
        ("/v1/datasets", npz(x=np.array([{"a": 1}], dtype=object)), "dataset_object_array"),
        ("/v1/datasets", npz(x=np.zeros((0, 3))), "dataset_empty"),
        ("/v1/datasets", npz(x=np.zeros((2, 3)), labels=np.zeros(3)), "labels_mismatch"),
    ],
)
def test_a_file_that_cannot_be_served_is_422_with_a_hint_and_leaves_nothing(
    api: Api, path: str, content: bytes, code: str
) -> None:
    answer = api.client.post(path, content=content)
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert answer.json()["hint"]
    assert api.stored_files() == []


def test_a_form_is_refused_with_the_curl_option_that_works(api: Api) -> None:
    answer = api.client.post("/v1/models", files={"file": b"x"})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert "-T" in answer.json()["hint"]


def test_more_than_the_limit_is_413_by_content_length_and_by_counting(tmp_path: Path) -> None:
    with running_api(tmp_path / "data", uploads={"max_bytes": 1000}) as api:
        announced = api.client.post("/v1/datasets", content=b"x" * 1001)
        counted = api.client.post("/v1/datasets", content=iter([b"x" * 600, b"x" * 401]))
        for answer in (announced, counted):
            assert (answer.status_code, answer.json()["code"]) == (413, "upload_too_large")
        assert api.stored_files() == []


def test_a_name_with_a_control_character_or_too_long_is_refused_before_the_body_is_kept(api: Api) -> None:
    for query in ("name=a%00b", f"name={'n' * 201}", "filename=%0a"):
        answer = api.client.post(f"/v1/datasets?{query}", content=images())
        assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")
    assert api.stored_files() == []


def test_lists_are_newest_first_and_paged_by_a_cursor(api: Api) -> None:
    ids = [api.add_dataset(images(seed=seed)) for seed in range(5)]
    found: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = api.client.get("/v1/datasets", params={"limit": 2, **after}).json()
        assert len(page["data"]) <= 2
        found += [each["id"] for each in page["data"]]
        assert page["has_more"] == (page["next"] is not None)
        if not page["has_more"]:
            break
        after = {"after": page["next"]}
    assert found == ids[::-1]
    assert api.client.get("/v1/models").json() == {"data": [], "has_more": False, "next": None}


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "after=!!", "after=bWRsXzE"])
def test_a_wrong_page_is_an_invalid_request(api: Api, query: str) -> None:
    answer = api.client.get(f"/v1/datasets?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")


def test_a_deleted_dataset_is_gone_with_its_bytes(api: Api) -> None:
    dataset = api.add_dataset(images())
    assert api.client.delete(f"/v1/datasets/{dataset}").status_code == 204
    assert api.client.get(f"/v1/datasets/{dataset}").status_code == 404
    assert api.client.delete(f"/v1/datasets/{dataset}").status_code == 404
    assert api.stored_files() == []


def test_an_object_that_an_unfinished_job_needs_stays(api: Api, small_net: Path) -> None:
    model, dataset = api.add_model(small_net), api.add_dataset(images())
    job = api.submit(method="static", model=model, calibration=dataset)
    for path in (f"/v1/models/{model}", f"/v1/datasets/{dataset}"):
        answer = api.client.delete(path)
        assert (answer.status_code, answer.json()["code"]) == (409, "object_in_use")
    api.client.post(f"/v1/jobs/{job['id']}/cancel")
    assert api.client.delete(f"/v1/models/{model}").status_code == 204


def test_an_object_of_the_other_kind_is_not_found_and_the_answer_says_where_it_is(api: Api) -> None:
    dataset = api.add_dataset(images())
    answer = api.client.get(f"/v1/models/{dataset}")
    assert answer.status_code == 404
    assert "/v1/datasets" in answer.json()["detail"]


def test_the_same_idempotency_key_repeats_the_answer_and_another_body_is_409(api: Api) -> None:
    headers = {"Idempotency-Key": "upload-1"}
    first = api.client.post("/v1/datasets", content=images(), headers=headers)
    again = api.client.post("/v1/datasets", content=images(), headers=headers)
    other = api.client.post("/v1/datasets", content=images(seed=1), headers=headers)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    assert again.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")
    assert len(api.client.get("/v1/datasets").json()["data"]) == 1


def test_an_idempotency_key_that_is_no_word_is_refused(api: Api) -> None:
    for key in ("", "k" * 256, "zwei Worte"):
        answer = api.client.post("/v1/datasets", content=images(), headers={"Idempotency-Key": key})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "Idempotency-Key")


def test_a_store_that_is_down_is_503_and_leaves_no_row(tmp_path: Path) -> None:
    with running_api(tmp_path / "data", uploads={"staging_path": str(tmp_path / "staging")}) as api:
        # A file where the directory of blobs should be: every write below it fails.
        (api.settings.storage_path / "blobs").write_text("")
        answer = api.client.post("/v1/datasets", content=images())
        assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")
        assert int(answer.headers["Retry-After"]) > 0
        assert api.client.get("/v1/datasets").json()["data"] == []
        (api.settings.storage_path / "blobs").unlink()
        assert api.client.post("/v1/datasets", content=images()).status_code == 201
    assert KEY not in answer.text
