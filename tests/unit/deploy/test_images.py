"""The Dockerfile, and what `pip install .[api]` and `.[worker]` put into its two images."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Hides some modules, then imports every module of the image's own packages, and then what is only named in a URL or
# chosen at run time.
IMPORT_ALL = """
import importlib, pkgutil, sys
hidden, own, chosen, optional = (set(argument.split()) for argument in sys.argv[1:])
class Hide:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r} in the image", name=name)
sys.meta_path.insert(0, Hide())
for name in own:
    for module in pkgutil.walk_packages(importlib.import_module(name).__path__, name + "."):
        if not module.name.endswith(".__main__") and not module.name.startswith(tuple(optional)):
            importlib.import_module(module.name)
for name in chosen:
    importlib.import_module(name)
"""
#: What a worker imports only where the extras `onnxruntime` and `openvino` are installed; nothing else may need it.
OPTIONAL = (
    "worker.exporting worker.runtimes.onnx_runtime worker.runtimes.openvino_runtime "
    "worker.layer_times.onnx_layers worker.layer_times.onnx_runtime worker.layer_times.openvino_counters"
)
ANY_PROCESS = "kombu.transport.redis celery.concurrency.thread sqlalchemy.dialects.postgresql.psycopg psycopg"


def installed_by(extra: str) -> set[str]:
    """The names of all distributions that pip installs for an extra, by the metadata of those installed here."""
    found: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(f"octavo-server[{extra}]")]
    while waiting:
        each = waiting.pop()
        name = canonicalize_name(each.name)
        if (name, frozenset(each.extras)) in found:
            continue
        found.add((name, frozenset(each.extras)))
        if name == "octavo-server":
            lines = list(PROJECT["dependencies"])
            for own_extra in each.extras:
                lines += PROJECT["optional-dependencies"][own_extra]
        else:
            lines = requires(name) or []
        environments = [{"extra": name} for name in ("", *each.extras)]
        waiting += [
            further
            for further in map(Requirement, lines)
            if further.marker is None or any(map(further.marker.evaluate, environments))
        ]
    return {name for name, _ in found}


@pytest.mark.parametrize(
    ("extra", "own", "chosen"),
    [
        ("api", "api shared server", f"{ANY_PROCESS} uvicorn.protocols.http.httptools_impl uvloop"),
        ("worker", "worker shared server", ANY_PROCESS),
    ],
)
def test_an_image_holds_all_that_its_processes_import(extra: str, own: str, chosen: str) -> None:
    """A developer's environment holds more, and would hide what an image lacks."""
    image = installed_by(extra)
    hidden = [
        module
        for module, distributions in packages_distributions().items()
        if not any(canonicalize_name(name) in image for name in distributions)
    ]
    assert "hypothesis" in hidden
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, " ".join(hidden), own, chosen, OPTIONAL],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


def test_the_image_of_the_api_has_no_torch_and_no_numpy() -> None:
    assert installed_by("api").isdisjoint({"torch", "numpy", "safetensors"})
    assert "torch" in installed_by("worker")


def test_every_distribution_of_the_images_is_pinned() -> None:
    pinned = {
        canonicalize_name(line.partition("==")[0])
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    # What only the CUDA build of torch brings is not there in the CPU build.
    unpinned = {
        name
        for name in installed_by("all") - pinned - {"octavo-server"}
        if not re.match(r"nvidia-|cuda-|triton$", name)
    }
    assert unpinned == set()


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    result = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), ROOT / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_path_that_the_dockerfile_copies_exists_and_reaches_the_builder() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    copied = {path for line in copies for path in line.split()}
    assert copied == allowed
    assert all((ROOT / path).exists() for path in copied)
