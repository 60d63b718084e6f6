"""The README's own words, typed in: what it tells a reader to do works, in the order it stands there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_stack import RunningStack

README = (Path(__file__).parents[2] / "README.md").read_text()


def blocks(heading: str, language: str) -> list[str]:
    """The code blocks in this language below a heading, up to the next heading."""
    section = re.split(r"^#+ ", README.split(f"# {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A running service, and the environment of a second terminal beside it."""
    stack = RunningStack(tmp_path_factory.mktemp("readme") / "data", {"OCTAVO_WORKER__THREADS": "1"})
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    server = {"OCTAVO_URL": stack.address.geturl(), "OCTAVO_API_KEY": stack.key}
    yield {**os.environ, **server, "PATH": path, "OMP_NUM_THREADS": "1"}
    stack.stop()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, shell: dict[str, str]) -> Path:
    """A directory in which the files to quantize were made, as the README says."""
    directory = tmp_path_factory.mktemp("files")
    [program] = blocks("Keep it running", "python")
    run([sys.executable, "-c", program], directory, shell)
    return directory


def run(command: list[str], directory: Path, shell: dict[str, str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=directory, env=shell, timeout=240)
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result.stdout


def test_the_files_are_made(directory: Path) -> None:
    assert {path.name for path in directory.iterdir()} >= {"digits.pt2", "calibration.npz", "evaluation.npz"}


def test_curl_alone_uploads_submits_waits_and_downloads(directory: Path, shell: dict[str, str]) -> None:
    if shutil.which("curl") is None and os.environ.get("CI") != "true":
        pytest.skip("curl is not installed")
    commands = blocks("By curl alone", "bash")
    assert len(commands) == 4, "upload, submit, wait, download"
    printed = run(["bash", "-euo", "pipefail", "-c", "\n".join(commands)], directory, shell)
    assert re.search(r"^mdl_\w+ dst_\w+ dst_\w+$", printed, re.MULTILINE)
    assert '"status":"succeeded"' in printed
    assert re.search(r'"sentence":"top1 0\.\d+ → 0\.\d+ ', printed)
    for name in ("model_int8.pt", "report.json", "report.html", "load_example.py"):
        assert f"{name}: OK" in printed


def test_the_sdk_snippet_quantizes_the_same_network(directory: Path, shell: dict[str, str]) -> None:
    [network] = blocks("Keep it running", "python")
    [snippet] = blocks("By the SDK", "python")
    printed = run([sys.executable, "-c", network + snippet], directory, shell)
    assert printed.startswith("top1 0.")
    run([sys.executable, "load_example.py"], directory / "out", shell)


def test_the_commands_quantize_it_too(directory: Path, shell: dict[str, str]) -> None:
    [commands] = blocks("By the command", "bash")
    printed = run(["bash", "-euo", "pipefail", "-c", commands], directory, shell)
    assert "succeeded" in printed
    assert "dynamic" in printed


def test_the_second_terminal_finds_the_service_well(directory: Path, shell: dict[str, str]) -> None:
    assert "octavo doctor" in blocks("Keep it running", "bash")[1]
    run(["octavo", "doctor"], directory, shell)
