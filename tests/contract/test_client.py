"""The SDK against the real API: uploads, jobs, events, artifacts, errors."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import octavo
from octavo._sync import uploads
from tests.api_server import KEY, PretendedWorker
from tests.contract.conftest import Served
from tests.hostile.models import SmallNet

IMAGES = np.random.default_rng(0).standard_normal((6, 3, 8, 8)).astype(np.float32)
LABELS = np.arange(6) % 4
ARTIFACTS = {
    "model_int8.pt": b"not really a model" * 10_000,
    "model_int8.onnx": b"nor this",
    "load_example_onnxruntime.py": b"print()",
    "report.json": b"{}",
    "empty": b"",
}


@contextmanager
def working(server: Served, job_id: str, work: Callable[[PretendedWorker], object]) -> Iterator[None]:
    """A worker that runs the job in a thread, beside whoever waits."""
    thread = threading.Thread(target=lambda: work(PretendedWorker(server.api, job_id)))
    thread.start()
    yield
    thread.join(30)


def succeed(worker: PretendedWorker) -> None:
    worker.progress(0.3, "Observing ranges")
    time.sleep(0.1)
    worker.progress(0.9)
    worker.succeed(ARTIFACTS)


def test_a_live_module_and_arrays_become_a_finished_job(server: Served, tmp_path: Path) -> None:
    """The main job: nn.Module and arrays in, report and artifacts out."""
    with server.client() as client:
        model = client.models.upload(SmallNet(), torch.randn(1, 3, 8, 8), name="small")
        assert (model.name, model.outputs, model.inputs[0].name) == ("small", 1, "x")
        assert model.inputs[0].shape == [None, 3, 8, 8]
        calibration = client.datasets.upload({"x": IMAGES})
        assert (calibration.samples, calibration.labels) == (6, False)
        evaluation = client.datasets.upload({"x": torch.tensor(IMAGES)}, labels=LABELS, name="held out")
        assert (evaluation.name, evaluation.labels, evaluation.arrays["x"].dtype) == ("held out", True, "float32")
        job = client.jobs.quantize(
            model,
            "static",
            calibration=calibration,
            evaluation=evaluation,
            metric="top1",
            max_accuracy_drop=None,
            qengine="x86",
            activation={"observer": "minmax"},
            weight={"observer": "minmax"},
            overrides=[{"op": "Linear"}],
            benchmark={"batch_sizes": [1, 8]},
            seed=3,
            name="a job",
            metadata={"team": "vision"},
        )
        assert (job.status, job.name, job.metadata, job.finished) == ("queued", "a job", {"team": "vision"}, False)
        assert job.spec["max_accuracy_drop"] is None
        assert job.spec["benchmark"]["batch_sizes"] == [1, 8]
        seen: list[str] = []
        with working(server, job.id, succeed):
            job.wait(on_event=lambda event: seen.append(event.kind))
        assert seen == ["status", "status", "progress", "progress", "status"]
        assert job.report.verdict.word == "recommended"
        assert job.report.quality.metric is not None
        assert job.report.quality.metric.int8_value == 0.9778
        paths = job.artifacts.download(tmp_path / "out")
        assert {name: path.read_bytes() for name, path in paths.items()} == ARTIFACTS


def test_a_broken_download_is_resumed_with_range(server: Served, small_net: Path, tmp_path: Path) -> None:
    """What an earlier process had received is not sent again, and the whole is right."""
    with server.client() as client:
        job = client.jobs.quantize(client.models.upload(small_net), "dynamic")
        with working(server, job.id, succeed):
            job.wait()
        artifact = job.artifacts["model_int8.pt"]
        part = tmp_path / f".model_int8.pt.{artifact.sha256[:16]}.part"
        part.write_bytes(ARTIFACTS["model_int8.pt"][:1000])
        assert (
            job.artifacts.download(tmp_path, "model_int8.pt")["model_int8.pt"].read_bytes()
            == (ARTIFACTS["model_int8.pt"])
        )
        part.write_bytes(b"something else entirely")
        (tmp_path / "model_int8.pt").unlink()
        with pytest.raises(octavo.ChecksumMismatch):
            job.artifacts.download(tmp_path, "model_int8.pt")


def test_waiting_by_long_poll_sees_the_same(server: Served, small_net: Path) -> None:
    """A timeout below a stream's patience polls; the events are the same."""
    seen: list[int] = []
    with server.client() as client:
        job = client.jobs.quantize(client.models.upload(small_net), "dynamic")
        with working(server, job.id, succeed):
            job.wait(timeout=30, on_event=lambda event: seen.append(event.seq))
    assert (job.status, seen) == ("succeeded", [1, 2, 3, 4, 5])


def test_a_timeout_leaves_the_job_alone(server: Served, small_net: Path) -> None:
    with server.client() as client:
        job = client.jobs.quantize(client.models.upload(small_net), "dynamic")
        with pytest.raises(octavo.WaitTimeout):
            job.wait(timeout=0.3)
        assert job.refresh().status == "queued"
        with pytest.raises(octavo.NoReport):
            _ = job.report


def test_the_async_client_does_the_same(server: Served, tmp_path: Path) -> None:
    async def main_job() -> tuple[octavo.AsyncJob, dict[str, Path], list[str]]:
        async with octavo.AsyncClient() as client:
            model = await client.models.upload(SmallNet(), (torch.randn(2, 3, 8, 8),))
            dataset = await client.datasets.upload(IMAGES, LABELS, model=model)
            job = await client.jobs.quantize(model, calibration=dataset, evaluation=dataset)
            with working(server, job.id, succeed):
                await job.wait()
            paths = await job.artifacts.download(tmp_path)
            again = await job.retry_with(job.report.suggestions[0])
            assert again.based_on == job.id
            await again.cancel()
            listed = [each.id async for each in client.jobs.list(status="succeeded")]
            return job, paths, listed

    job, paths, listed = asyncio.run(main_job())
    assert job.report.method == "static"
    assert paths["model_int8.pt"].read_bytes() == ARTIFACTS["model_int8.pt"]
    assert listed == [job.id]


@pytest.mark.parametrize("one_shot_bytes", [0, 10**9], ids=["in parts", "at once"])
def test_the_same_content_is_stored_once(
    server: Served, small_net: Path, monkeypatch: pytest.MonkeyPatch, one_shot_bytes: int
) -> None:
    """Both ways of sending find the content that is already here."""
    monkeypatch.setattr(uploads, "ONE_SHOT_BYTES", one_shot_bytes)
    with server.client() as client:
        first, second = client.models.upload(small_net), client.models.upload(small_net, name="again")
        assert first.id == second.id
        assert [model.id for model in client.models.list()] == [first.id]


def test_an_upload_in_parts_can_be_repeated_after_its_model_was_deleted(
    server: Served, small_net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer that the server kept for the first upload is out of date: a new one is begun."""
    monkeypatch.setattr(uploads, "ONE_SHOT_BYTES", 0)
    with server.client() as client:
        first = client.models.upload(small_net)
        client.models.delete(first)
        second = client.models.upload(small_net)
        assert second.sha256 == first.sha256
        assert client.models.get(second).id == second.id
        client.models.delete(second.id)
        assert client.models.upload(small_net).sha256 == first.sha256


def test_a_data_loader_becomes_a_dataset(server: Served) -> None:
    loader = DataLoader(TensorDataset(torch.tensor(IMAGES), torch.tensor(LABELS)), batch_size=4)
    with server.client() as client:
        dataset = client.datasets.upload(loader, input_names=["x"])
        same = client.datasets.upload({"x": IMAGES}, labels=LABELS)
    assert (dataset.samples, dataset.labels, list(dataset.arrays)) == (6, True, ["labels", "x"])
    assert dataset.id == same.id


def test_lists_go_through_pages_and_are_newest_first(server: Served, small_net: Path) -> None:
    with server.client() as client:
        model = client.models.upload(small_net)
        ids = [client.jobs.quantize(model, "dynamic", seed=seed).id for seed in range(23)]
        assert [job.id for job in client.jobs.list()] == ids[::-1]
        assert [job.id for job in client.jobs.list(limit=21)] == ids[:1:-1]
        client.jobs.cancel(ids[3])
        assert [job.id for job in client.jobs.list(status="cancelled")] == [ids[3]]


def test_a_queued_job_is_cancelled_and_says_so(server: Served, small_net: Path) -> None:
    with server.client() as client:
        job = client.jobs.quantize(client.models.upload(small_net), "dynamic")
        assert job.cancel().status == "cancelled"
        with pytest.raises(octavo.JobCancelled):
            job.wait()
        with pytest.raises(octavo.ConflictError, match="job_already_finished"):
            job.cancel()


def test_an_earlier_spec_can_be_submitted_again(server: Served, small_net: Path) -> None:
    with server.client() as client:
        job = client.jobs.quantize(client.models.upload(small_net), "dynamic", seed=7)
        assert client.jobs.submit(job.spec).spec == job.spec


def test_advice_is_followed_by_number_by_suggestion_and_by_warning(server: Served, small_net: Path) -> None:
    with server.client() as client:
        dataset = client.datasets.upload({"x": IMAGES})
        job = client.jobs.quantize(client.models.upload(small_net), calibration=dataset, overrides=[{"op": "add"}])
        with working(server, job.id, succeed):
            job.wait()
        changes: dict[str, Any] = {"name": "again", "evaluation": dataset, "max_accuracy_drop": None}
        jobs = [
            job.retry_with(0, **changes),
            job.retry_with(job.report.suggestions[0], **changes),
            job.retry_with(job.report.warnings[0], **changes),
            client.jobs.quantize(based_on=job, apply=[0], **changes),
            client.jobs.quantize(based_on=job.id, apply=[0], **changes),
        ]
        assert len({each.id for each in jobs} | {job.id}) == 6
        for each in jobs:
            assert each.based_on == job.id
            assert each.spec == jobs[0].spec
        spec = jobs[0].spec
        assert [each["op"] or each["layer"] for each in spec["overrides"]] == ["add", "conv1"]
        assert (spec["name"], spec["evaluation"], spec["max_accuracy_drop"]) == ("again", dataset.id, None)
        assert job.based_on is None
        assert job.retry_with(activation={"observer": "minmax"}).spec["activation"]["observer"] == "minmax"
        reset = jobs[0].retry_with(overrides=None, name=None)
        assert (reset.spec["overrides"], reset.name) == ([], None)


def test_advice_that_is_not_there_is_refused(server: Served, small_net: Path) -> None:
    with server.client() as client:
        job = client.jobs.quantize(client.models.upload(small_net), "dynamic")
        with pytest.raises(octavo.ConflictError, match="no_report"):
            job.retry_with(0)
        with working(server, job.id, succeed):
            job.wait()
        with pytest.raises(octavo.UnprocessableError, match="no_suggestion"):
            job.retry_with(5)
        with pytest.raises(ValueError, match="no advice of this job"):
            job.retry_with(octavo.Suggestion(title="mine", patch={"seed": 3}))
        with pytest.raises(octavo.APIStatusError, match="calibration"):
            job.retry_with(method="static")
        with pytest.raises(TypeError, match="needs a model"):
            client.jobs.quantize()
        with pytest.raises(TypeError, match="based_on"):
            client.jobs.quantize("mdl_x", apply=[0])


def test_jobs_are_compared(server: Served, small_net: Path) -> None:
    with server.client() as client:
        jobs = [client.jobs.quantize(client.models.upload(small_net), "dynamic", seed=seed) for seed in range(2)]
        with pytest.raises(octavo.NoReport):
            octavo.compare(jobs)
        for job in jobs:
            with working(server, job.id, succeed):
                job.wait()
        assert [each.job for each in octavo.compare(jobs).jobs] == [job.id for job in jobs]


def test_meta_is_typed(server: Served) -> None:
    with server.client() as client:
        meta = client.meta()
    assert (meta.api, meta.methods, meta.workers) == ("v1", ["dynamic", "static", "qat", "benchmark"], [])
    assert meta.limits["part_size_bytes"] == 4096


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "wrong"])
def test_without_the_key_nothing_is_told(server: Served, monkeypatch: pytest.MonkeyPatch, key: str | None) -> None:
    monkeypatch.delenv("OCTAVO_API_KEY")
    with octavo.Client(server.url, key) as client, pytest.raises(octavo.AuthenticationError) as raised:
        client.meta()
    assert raised.value.code == ("authentication_required" if key is None else "api_key_invalid")
    assert "api-key" in str(raised.value.hint)
    assert str(raised.value.request_id).startswith("req_")


def test_an_unknown_id_is_not_found(server: Served) -> None:
    with server.client() as client:
        for ask in (client.models.get, client.datasets.get, client.jobs.get, client.models.delete):
            with pytest.raises(octavo.NotFoundError, match="not_found"):
                ask("mdl_00000000000000000000000")


def test_a_wrong_spec_is_refused_with_every_place(server: Served, small_net: Path) -> None:
    with server.client() as client:
        model = client.models.upload(small_net)
        with pytest.raises(octavo.UnprocessableError) as raised:
            client.jobs.quantize(model, "dynamic", max_accuracy_drop=-1, benchmark={"threads": [0]})
    pointers = {error.pointer for error in raised.value.errors}
    assert {"/max_accuracy_drop", "/benchmark/threads/0"} <= pointers
    assert all(pointer in str(raised.value) for pointer in pointers)


def test_a_method_without_its_data_says_which_is_missing(server: Served, small_net: Path) -> None:
    with server.client() as client:
        model = client.models.upload(small_net)
        with pytest.raises(octavo.APIStatusError, match="calibration"):
            client.jobs.quantize(model, "static")


def test_a_pickle_is_refused_with_the_lines_that_export(server: Served, tmp_path: Path) -> None:
    torch.save(SmallNet(), tmp_path / "net.pt")
    with server.client() as client, pytest.raises(octavo.APIStatusError) as raised:
        client.models.upload(tmp_path / "net.pt")
    assert raised.value.code == "model_is_pickle"
    assert "torch.export.export" in str(raised.value)


def test_a_dataset_is_no_model(server: Served) -> None:
    with server.client() as client:
        dataset = client.datasets.upload({"x": IMAGES})
        with pytest.raises(octavo.APIStatusError):
            client.jobs.quantize(dataset.id, "dynamic")


def test_an_object_in_use_is_not_deleted(server: Served, small_net: Path) -> None:
    with server.client() as client:
        model = client.models.upload(small_net)
        client.jobs.quantize(model, "dynamic")
        with pytest.raises(octavo.ConflictError, match="object_in_use"):
            client.models.delete(model)


def test_a_file_that_is_too_large_is_refused_before_it_is_sent(tmp_path: Path, small_net: Path) -> None:
    from tests.contract.conftest import served

    content: dict[str, Any] = {"x": np.zeros((100, 3, 8, 8), np.float32)}
    with served(tmp_path, uploads={"max_bytes": 10_000}) as server, octavo.Client(server.url, KEY) as client:
        with pytest.raises(octavo.TooLargeError, match="upload_too_large"):
            client.datasets.upload(content)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(uploads, "ONE_SHOT_BYTES", 0)
            with pytest.raises(octavo.TooLargeError, match="upload_too_large"):
                client.datasets.upload(content)
