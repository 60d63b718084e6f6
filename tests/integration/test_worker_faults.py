"""What may happen to a worker, and what must hold: no acknowledged job is lost, one result accepted, nothing left."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from shared.job import JobStatus, Step
from shared.object_store import artifact_key, checkpoint_prefix
from tests.services.node import Node
from tests.services.process import is_alive, wait_until
from tests.services.small_inputs import write_dataset, write_model

QUICK: dict[str, Any] = {"method": "dynamic", "benchmark": {"max_seconds": 0.1}}
LONG_TRAINING: dict[str, Any] = {"method": "qat", "qat": {"epochs": 1000}, "benchmark": {"max_seconds": 0.1}}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    return {
        "model": write_model(folder / "net.pt2"),
        "data": write_dataset(folder / "data.npz"),
        "training": write_dataset(folder / "training.npz", samples=320),
        "more": write_dataset(folder / "more.npz", samples=200_000, labels=False),
    }


@pytest.fixture
def model(node: Node, inputs: dict[str, Path]) -> str:
    return node.add("model", inputs["model"])


@pytest.fixture
def data(node: Node, inputs: dict[str, Path]) -> str:
    return node.add("dataset", inputs["data"])


def runners_of(worker: subprocess.Popen[bytes]) -> list[int]:
    """Process ids of a worker's runners."""
    children = Path(f"/proc/{worker.pid}/task").glob("*/children")
    found = []
    for path in children:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended meanwhile
            found += [int(pid) for pid in path.read_text().split()]
    return found


def busy_runner_of(worker: subprocess.Popen[bytes]) -> int:
    """The runner that runs the job: the only one while a job runs, because the spare is started after it."""
    (runner,) = runners_of(worker)
    return runner


def training(job: Any) -> bool:
    return job.step is Step.TRAIN


def test_a_job_runs_in_the_sandbox_and_leaves_nothing_behind(node: Node, model: str, data: str) -> None:
    """The result is accepted with its artifacts, the level reached is in the job, and the workspace is empty."""
    with node.worker():
        job = node.wait_finished(node.submit(model=model, evaluation=data, **QUICK))
        assert job.status is JobStatus.SUCCEEDED, job.error
        assert job.sandbox_level == "landlock"
        assert job.report is not None
        assert job.report["environment"]["sandbox_level"] == "landlock"
        folders = node.settings.workspace_path
        wait_until(lambda: not list(folders.glob("*/job_*")), "the job's folder to be deleted")
        for artifact in job.artifacts:
            stat = node.store.stat(f"results/{job.id}/{job.fence}/{artifact.name}")
            assert stat is not None
            assert stat.size_bytes == artifact.size_bytes
    assert node.workers() == [], "a worker that stops says so"
    assert list(node.settings.workspace_path.iterdir()) == []


@pytest.mark.parametrize("step", [Step.LOAD, Step.CALIBRATE, Step.TRAIN, Step.BENCHMARK])
def test_cancel_stops_a_job_at_any_step(node: Node, model: str, data: str, inputs: dict[str, Path], step: Step) -> None:
    """The runner is dead when the job says cancelled, and the worker goes on with the next job."""
    spec: dict[str, Any] = {
        Step.LOAD: {**LONG_TRAINING, "training": data},
        Step.TRAIN: {**LONG_TRAINING, "training": data},
        # Large batches: the measurement of a small one is sure of itself within a moment.
        Step.BENCHMARK: {
            "method": "dynamic",
            "evaluation": data,
            "benchmark": {"batch_sizes": [4096, 4095, 4094], "max_seconds": 600},
        },
    }.get(step) or {"method": "static", "calibration": node.add("dataset", inputs["more"])}
    with node.worker() as worker:
        job_id = node.submit(model=model, **spec)
        node.wait_for(job_id, lambda job: job.step is step)
        runner = busy_runner_of(worker)
        node.cancel(job_id)
        job = node.wait_finished(job_id, timeout_seconds=20)
        assert job.status is JobStatus.CANCELLED
        assert not is_alive(runner)
        assert node.wait_finished(node.submit(model=model, evaluation=data, **QUICK)).status is JobStatus.SUCCEEDED


def test_cancel_does_not_wait_for_a_store_that_stalls(node: Node, model: str, data: str) -> None:
    """The store takes the connection and never answers; the job is cancelled while its inputs are being fetched."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        stalled = {
            "OCTAVO_STORAGE__KIND": "s3",
            "OCTAVO_STORAGE__ENDPOINT_URL": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "OCTAVO_STORAGE__ACCESS_KEY_ID": "key",
            "OCTAVO_STORAGE__SECRET_ACCESS_KEY": "secret",
        }
        with node.worker(**stalled) as worker:
            job_id = node.submit(model=model, evaluation=data, **QUICK)
            node.wait_for(job_id, lambda job: job.step is Step.FETCH)
            node.cancel(job_id)
            assert node.wait_finished(job_id, timeout_seconds=20).status is JobStatus.CANCELLED
            worker.kill()  # it waits for the store


def test_a_killed_worker_costs_an_attempt_and_not_the_job(node: Node, model: str, data: str) -> None:
    """SIGKILL while the job runs: its runner dies too, the lease expires, another worker succeeds at attempt 2."""
    with node.worker("worker1") as first:
        job_id = node.submit(model=model, training=data, **LONG_TRAINING)
        node.wait_for(job_id, training)
        runner = busy_runner_of(first)
        first.kill()
        wait_until(lambda: not is_alive(runner), "the runner to die with its supervisor", timeout_seconds=10)
    with node.worker("worker2"):
        job = node.wait_for(job_id, lambda job: job.attempt == 2 and job.status is JobStatus.RUNNING)
        assert node.statuses(job_id) == ["queued", "running", "queued", "running"]
        assert len(list(node.settings.workspace_path.iterdir())) == 1, "the dead worker's folders are swept"
        node.cancel(job.id)
        assert node.wait_finished(job_id).status is JobStatus.CANCELLED


def test_training_goes_on_from_the_last_epoch_of_a_killed_worker(
    node: Node, model: str, inputs: dict[str, Path]
) -> None:
    """The second attempt begins after an epoch that was stored, and ends as a training that nobody interrupted.

    Every figure of every epoch is the same, and the int8 model to the bit; no checkpoint is left in the store.
    """
    data = node.add("dataset", inputs["training"])
    spec: dict[str, Any] = {
        "method": "qat", "model": model, "training": data, "qengine": "fbgemm", "benchmark": {"max_seconds": 0.1},
        "analysis": {"layers": False, "sensitivity_seconds": 0},
        "qat": {"epochs": 10, "learning_rate": 1e-2},
    }  # fmt: skip
    with node.worker("worker1") as first:
        job_id = node.submit(**spec)
        wait_until(lambda: list(node.store.list(checkpoint_prefix(job_id))), "a checkpoint", timeout_seconds=120)
        first.kill()
    with node.worker("worker2"):
        job = node.wait_finished(job_id, timeout_seconds=300)
        wait_until(lambda: not list(node.store.list(checkpoint_prefix(job_id))), "the checkpoints to be deleted")
        other = node.wait_finished(node.submit(**spec), timeout_seconds=300)
    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 2)
    assert job.report is not None
    assert other.report is not None
    trained, straight = job.report["training"], other.report["training"]
    assert 1 <= trained["resumed_after_epoch"] <= 10
    assert straight["resumed_after_epoch"] is None
    assert [told(epoch) for epoch in trained["epochs"]] == [told(epoch) for epoch in straight["epochs"]]
    assert trained["offered"] == straight["offered"] == "qat"
    assert int8_answers(node, job) == int8_answers(node, other)


def told(epoch: dict[str, Any]) -> dict[str, Any]:
    """All that does not tell time."""
    return {key: value for key, value in epoch.items() if key != "seconds"}


def int8_answers(node: Node, job: Any) -> list[list[float]]:
    """What the job's int8 model answers to fixed inputs."""
    (artifact,) = [each for each in job.artifacts if each.name == "model_int8.pt"]
    path = node.directory / f"{job.id}.pt"
    node.store.get_file(artifact_key(job.id, job.fence, artifact.name), path, expected_sha256=artifact.sha256)
    model = torch.jit.load(path)
    with torch.inference_mode():
        output = model(torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)))[0]
    answers: list[list[float]] = output.tolist()
    return answers


def test_a_checkpoint_of_a_job_cancelled_in_the_queue_is_swept(node: Node, model: str, inputs: dict[str, Path]) -> None:
    """Its worker was killed and nobody took it up: the reconciler of the next worker deletes what is left."""
    data = node.add("dataset", inputs["training"])
    with node.worker("worker1") as first:
        job_id = node.submit(model=model, training=data, **LONG_TRAINING)
        wait_until(lambda: list(node.store.list(checkpoint_prefix(job_id))), "a checkpoint", timeout_seconds=60)
        first.kill()
    node.cancel(job_id)
    with node.worker("worker2"):
        assert node.wait_finished(job_id).status is JobStatus.CANCELLED
        gone_from_store = lambda: not list(node.store.list(checkpoint_prefix(job_id)))  # noqa: E731
        wait_until(gone_from_store, "the checkpoints to be swept", timeout_seconds=60)


def test_a_wiped_broker_loses_no_job(node: Node, model: str, data: str) -> None:
    """Jobs whose hints were all deleted run all the same, each once."""
    job_ids = [node.submit(model=model, evaluation=data, **QUICK) for _ in range(3)]
    with node.queue._celery.connection_for_write() as connection:
        connection.default_channel.client.flushall()
    with node.worker():
        for job_id in job_ids:
            assert node.wait_finished(job_id).status is JobStatus.SUCCEEDED
            assert node.statuses(job_id) == ["queued", "running", "succeeded"]


def test_hints_that_come_twenty_times_run_a_job_once(node: Node, model: str, data: str) -> None:
    job_id = node.submit(model=model, evaluation=data, **QUICK)
    for _ in range(20):
        node.queue.publish_hint(job_id)
    with node.worker("worker1"), node.worker("worker2"):
        assert node.wait_finished(job_id).status is JobStatus.SUCCEEDED
        assert node.statuses(job_id) == ["queued", "running", "succeeded"]


def test_a_worker_frozen_beyond_its_lease_cannot_spoil_the_other_attempt(node: Node, model: str, data: str) -> None:
    """SIGSTOP past the lease: another attempt begins; awake again, the first gives up and writes nothing."""
    with node.worker("worker1") as frozen:
        job_id = node.submit(model=model, training=data, **LONG_TRAINING)
        node.wait_for(job_id, training)
        runner = busy_runner_of(frozen)
        node.freeze(frozen)
        try:
            with node.worker("worker2"):
                node.wait_for(job_id, lambda job: job.attempt == 2 and training(job))
                frozen.send_signal(signal.SIGCONT)
                wait_until(lambda: not is_alive(runner), "the stale runner to be killed", timeout_seconds=10)
                job = node.job(job_id)
                assert (job.status, job.attempt) == (JobStatus.RUNNING, 2)
                node.cancel(job_id)
                assert node.wait_finished(job_id).status is JobStatus.CANCELLED
        finally:
            frozen.send_signal(signal.SIGCONT)
    assert node.statuses(job_id) == ["queued", "running", "queued", "running", "cancelled"]


def test_a_worker_that_is_told_to_stop_hands_its_job_back(node: Node, model: str, data: str) -> None:
    """SIGTERM: the job is queued again at once and the attempt does not count."""
    with node.worker("worker1") as worker:
        job_id = node.submit(model=model, training=data, **LONG_TRAINING)
        node.wait_for(job_id, training)
        worker.terminate()
        assert worker.wait(20) == 0
        job = node.job(job_id)
        assert (job.status, job.attempt) == (JobStatus.QUEUED, 0)
        node.cancel(job_id)


def test_a_job_whose_process_is_killed_twice_fails_and_says_so(node: Node, model: str, data: str) -> None:
    with node.worker() as worker:
        job_id = node.submit(model=model, training=data, **LONG_TRAINING)
        for attempt in (1, 2):
            node.wait_for(job_id, lambda job, attempt=attempt: job.attempt == attempt and training(job))
            os.kill(busy_runner_of(worker), signal.SIGKILL)
        job = node.wait_finished(job_id)
        assert job.status is JobStatus.FAILED
        assert job.error is not None
        assert (job.error.code, job.error.owner, job.error.step) == ("worker_crashed", "service", "train")
        assert "SIGKILL" in job.error.message
        assert "2 times" in job.error.message


@pytest.mark.parametrize(
    ("limit", "code"),
    [
        ({"OCTAVO_WORKER__WALL_LIMIT_SECONDS": "1"}, "job_timed_out"),
        ({"OCTAVO_WORKER__MEMORY_LIMIT_BYTES": str(64 * 1024**2)}, "job_out_of_memory"),
    ],
)
def test_a_job_that_exceeds_a_limit_fails_at_once(
    node: Node, model: str, data: str, limit: dict[str, str], code: str
) -> None:
    """The limit is the user's affair: one attempt, and a hint at what to do."""
    with node.worker(**limit):
        job = node.wait_finished(node.submit(model=model, training=data, **LONG_TRAINING))
    assert job.status is JobStatus.FAILED
    assert job.error is not None
    assert (job.error.code, job.error.owner, job.attempt) == (code, "user", 1)
    assert job.error.hint


def test_a_job_that_has_the_node_for_itself_too_long_fails(node: Node, model: str, data: str) -> None:
    """What it measures is cut to fit, but not what it takes to open and to warm up."""
    many = {"benchmark": {"batch_sizes": [1, 2, 3, 4, 5, 6, 7, 8]}}
    with node.worker(OCTAVO_WORKER__MEASURE_LIMIT_SECONDS="0.05"):
        job = node.wait_finished(node.submit(model=model, evaluation=data, **{**QUICK, **many}))
    assert job.status is JobStatus.FAILED
    assert job.error is not None
    assert (job.error.code, job.error.step) == ("job_timed_out", "benchmark")
    assert "for which it may have the node alone" in job.error.message


def test_a_full_disk_is_the_services_fault(node: Node, model: str, data: str, tmp_path: Path) -> None:
    """The job is tried again, and fails honestly when the disk stays full; the uploads are untouched."""
    workspace = tmp_path / "full"
    workspace.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(workspace)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode:
        if os.environ.get("CI") == "true":
            pytest.fail("CI runs as root and mounts a small file system for this test")
        pytest.skip("mounting a small file system needs root")
    try:
        with node.worker(OCTAVO_WORKER__WORKSPACE=str(workspace)):
            job = node.wait_finished(node.submit(model=model, evaluation=data, **QUICK))
    finally:
        subprocess.run(["umount", str(workspace)], check=True)
    assert job.status is JobStatus.FAILED
    assert job.error is not None
    assert (job.error.code, job.error.owner, job.attempt) == ("disk_full", "service", 3)


def test_an_object_store_that_is_down_is_tried_again_and_then_reported(node: Node, model: str, data: str) -> None:
    """With nobody at the S3 endpoint the job fails after its attempts; with the store back a new job succeeds."""
    down = {
        "OCTAVO_STORAGE__KIND": "s3",
        "OCTAVO_STORAGE__ENDPOINT_URL": "http://127.0.0.1:9",
        "OCTAVO_STORAGE__ACCESS_KEY_ID": "key",
        "OCTAVO_STORAGE__SECRET_ACCESS_KEY": "secret",
    }
    with node.worker("worker1", **down):
        job = node.wait_finished(node.submit(model=model, evaluation=data, **QUICK))
    assert job.status is JobStatus.FAILED
    assert job.error is not None
    assert (job.error.code, job.error.owner, job.attempt) == ("storage_unavailable", "service", 3)
    with node.worker("worker2"):
        assert node.wait_finished(node.submit(model=model, evaluation=data, **QUICK)).status is JobStatus.SUCCEEDED
