"""What a runner left behind, when the runner lies."""

from pathlib import Path

import pytest

from shared.errors import InternalError
from worker.outputs import collect_artifacts


def test_thousands_of_hostile_names_are_refused_in_one_sentence(tmp_path: Path) -> None:
    for index in range(2000):
        (tmp_path / f"{index}\x1b[31m{'n' * 200}").touch()
    with pytest.raises(InternalError) as caught:
        collect_artifacts(tmp_path, limit_bytes=2**20)
    assert len(caught.value.message) < 1000
    assert "\x1b" not in caught.value.message


def test_what_a_recipe_writes_is_taken_with_its_kind_and_media_type(tmp_path: Path) -> None:
    for name in ("model_int8.pt", "report.json", "report.html", "load_example.py", "SHA256SUMS"):
        (tmp_path / name).write_text(name)
    found = {each.name: (each.kind, each.media_type) for each in collect_artifacts(tmp_path, limit_bytes=2**20)}
    assert found == {
        "model_int8.pt": ("model", "application/octet-stream"),
        "report.json": ("report", "application/json"),
        "report.html": ("page", "text/html; charset=utf-8"),
        "load_example.py": ("example", "text/x-python; charset=utf-8"),
        "SHA256SUMS": ("manifest", "text/plain; charset=utf-8"),
    }


def test_an_output_without_the_page_is_refused(tmp_path: Path) -> None:
    for name in ("model_int8.pt", "report.json", "load_example.py", "SHA256SUMS"):
        (tmp_path / name).write_text(name)
    with pytest.raises(InternalError, match=r"report\.html"):
        collect_artifacts(tmp_path, limit_bytes=2**20)
