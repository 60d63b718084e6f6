"""`octavo-server up` is one process tree: it starts whole, mends itself, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from running_stack import RunningStack, tree
from torch import nn

import octavo
from tests.services.process import is_alive, wait_until


def up(data_dir: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """An `up` that is expected to end by itself."""
    command = [sys.executable, "-m", "server", "up", "--data-dir", str(data_dir), *options]
    environment = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)


def client_of(stack: RunningStack) -> octavo.Client:
    return octavo.Client(stack.address.geturl(), stack.key)


def is_ready(stack: RunningStack) -> bool:
    connection = stack.connect()
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def start_long_job(stack: RunningStack) -> octavo.Job:
    """A QAT job that trains for minutes, seen to be training."""
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
    with client_of(stack) as client:
        model = client.models.upload(network, (torch.randn(2, 1, 8, 8),), progress=False)
        images = torch.randn(512, 1, 8, 8)
        training = client.datasets.upload({model.inputs[0].name: images}, labels=torch.arange(512) % 10, progress=False)
        job = client.jobs.quantize(model, "qat", training=training, qat={"epochs": 1000})
        wait_until(lambda: job.refresh().step == "train", "training")
    return job


@pytest.fixture(scope="module")
def lasting_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """For tests after which it runs as before."""
    stack = RunningStack(tmp_path_factory.mktemp("up") / "data", {})
    yield stack
    stack.stop()


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[RunningStack]:
    stack = RunningStack(tmp_path / "data", {"OCTAVO_WORKER__THREADS": "1"})
    yield stack
    if stack.process.poll() is None:
        stack.stop()


def test_ctrl_c_hands_a_running_job_back_and_leaves_no_process(stack: RunningStack) -> None:
    job = start_long_job(stack)
    processes = [pid for pid, _ in tree(stack.process.pid)]
    assert len(processes) >= 5, "up, broker, API, worker and the runner"
    stack.stop()
    assert stack.process.returncode == 0
    assert not [pid for pid in processes if is_alive(pid)]

    again = RunningStack(stack.data_dir, {"OCTAVO_WORKER__THREADS": "1"})
    try:
        assert again.key == stack.key
        with client_of(again) as client:
            found = client.jobs.get(job.id)
            wait_until(lambda: found.refresh().step == "train", "training")
            found.cancel()
            wait_until(lambda: found.refresh().status == "cancelled", "the cancel")
    finally:
        again.stop()


def test_kill_9_leaves_no_orphan_and_the_directory_can_be_used_again(stack: RunningStack) -> None:
    start_long_job(stack)
    processes = [pid for pid, _ in tree(stack.process.pid)]
    stack.process.kill()
    stack.process.wait()
    again = RunningStack(stack.data_dir, {})
    try:
        assert not [pid for pid in processes if is_alive(pid)], "a new `up` waits for what is left of the old"
    finally:
        again.stop()


@pytest.mark.parametrize("module", ["api", "worker"])
def test_a_part_that_is_killed_comes_back(lasting_stack: RunningStack, module: str) -> None:
    stack = lasting_stack
    killed = stack.process_id(module)
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: not is_alive(killed), "its end")

    def is_back() -> bool:
        try:
            return stack.process_id(module) != killed and is_ready(stack)
        except LookupError:
            return False

    wait_until(is_back, f"{module} to come back")


@pytest.mark.parametrize("module", ["api", "worker"])
def test_neither_api_nor_worker_has_torch_loaded(lasting_stack: RunningStack, module: str) -> None:
    maps = Path(f"/proc/{lasting_stack.process_id(module)}/maps").read_text()
    assert "python" in maps
    assert "libtorch" not in maps


def test_a_second_stack_on_the_directory_is_refused(lasting_stack: RunningStack) -> None:
    stack = lasting_stack
    second = up(stack.data_dir, "--port", "0")
    assert second.returncode == 1
    assert f"process {stack.process.pid}" in second.stderr
    assert "--data-dir" in second.stderr


def test_a_port_in_use_is_a_clear_error(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = up(tmp_path / "data", "--port", str(port))
    assert result.returncode == 1
    assert f"127.0.0.1:{port}" in result.stderr
    assert "--port" in result.stderr


def test_a_database_that_does_not_answer_stops_the_start_and_says_why(tmp_path: Path) -> None:
    url = "postgresql+psycopg://nobody:secret@127.0.0.1:1/nothing"
    result = up(tmp_path / "data", "--port", "0", OCTAVO_DATABASE__URL=url)
    assert result.returncode == 1
    assert "The database does not answer" in result.stderr
    assert "secret" not in result.stderr


def test_an_object_store_that_does_not_answer_stops_the_start_and_says_why(tmp_path: Path) -> None:
    storage = {"OCTAVO_STORAGE__KIND": "s3", "OCTAVO_STORAGE__ENDPOINT_URL": "http://127.0.0.1:1"}
    keys = {"OCTAVO_STORAGE__ACCESS_KEY_ID": "nobody", "OCTAVO_STORAGE__SECRET_ACCESS_KEY": "secret"}
    result = up(tmp_path / "data", "--port", "0", **storage, **keys)
    assert result.returncode == 1
    assert "The object store does not answer" in result.stderr
