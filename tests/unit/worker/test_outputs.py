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
