"""The arrows of the architecture hold in running processes, not only in import statements."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("api", "server", "shared", "worker", "client", "examples", "benchmarks")
COMPUTE_LIBRARIES = {"torch", "numpy"}


def modules_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after running the code."""
    program = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(result.stdout.splitlines()[-1].split())


def source_files() -> Iterator[Path]:
    for package in PACKAGES:
        yield from (ROOT / package).rglob("*.py")


def imported_names(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, at the top or anywhere inside."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and node.attr == "ao" and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.ao"


def test_a_started_api_process_holds_neither_torch_nor_numpy(tmp_path: Path) -> None:
    """The application is built and its startup and shutdown run, as in `python -m api`."""
    start = f"""
import asyncio, os
os.environ["OCTAVO_DATA_DIR"] = {str(tmp_path)!r}
from shared.settings import Settings
from shared.database import migrate
from shared.object_store import open_store
settings = Settings()
migrate(settings.database_url)
open_store(settings).prepare()
from api.app import create_app
app = create_app(settings)
async def run():
    async with app.router.lifespan_context(app):
        pass
asyncio.run(run())
"""
    loaded = modules_after(start)
    assert "fastapi" in loaded
    assert not loaded & COMPUTE_LIBRARIES


@pytest.mark.parametrize("module", ["worker.app", "worker.execution", "server.cli", "server.stack"])
def test_a_supervising_process_holds_neither_torch_nor_numpy(module: str) -> None:
    assert not modules_after(f"import {module}") & COMPUTE_LIBRARIES


def test_importing_the_sdk_loads_neither_torch_nor_numpy() -> None:
    loaded = modules_after("import octavo; octavo.Client")
    assert "octavo" in loaded
    assert not loaded & COMPUTE_LIBRARIES


def test_only_worker_quantization_imports_torch_ao() -> None:
    importers = {
        path.relative_to(ROOT)
        for path in source_files()
        if any(name == "torch.ao" or name.startswith("torch.ao.") for name in imported_names(path))
    }
    assert importers, "nobody imports torch.ao: this test looks in the wrong place"
    quantization = Path("worker/quantization")
    held_against_ours = {Path("benchmarks/qat_schedule.py")}  # measures torch's own fake quantize beside ours
    assert {path for path in importers if not path.is_relative_to(quantization)} == held_against_ours


def test_the_sdk_imports_nothing_of_the_server() -> None:
    server = {"api", "server", "shared", "worker"}
    for path in (ROOT / "client" / "octavo").rglob("*.py"):
        names = {name.partition(".")[0] for name in imported_names(path)}
        assert not names & server, path
