"""The `octavo-server` command's own options."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from click.testing import CliRunner

from server.cli import main


class Replaced(Exception):
    """In place of a process that would have been replaced."""


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """That of the process, which the command only looks at and hands on."""

    def execv(*_: Any) -> None:
        raise Replaced

    changed = dict(os.environ)
    monkeypatch.setattr("server.cli.os.environ", changed)
    monkeypatch.setattr("server.cli.os.execv", execv)
    return changed


def test_labels_of_a_worker_are_added_to_those_of_the_environment(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCTAVO_WORKER__LABELS", '{"pool": "lab", "rack": "7"}')
    result = CliRunner().invoke(main, ["worker", "--label", "pool=edge", "--label", "note=a=b"])
    assert isinstance(result.exception, Replaced), result.output
    assert json.loads(environment["OCTAVO_WORKER__LABELS"]) == {"pool": "edge", "rack": "7", "note": "a=b"}


@pytest.mark.parametrize(
    ("label", "words"), [("pool", "is not like name=value"), ("cpu.model=1", "finds 'cpu.model' itself")]
)
def test_a_label_that_cannot_be_given_is_wrong_usage(environment: dict[str, str], label: str, words: str) -> None:
    result = CliRunner().invoke(main, ["worker", "--label", label])
    assert result.exit_code == 2
    assert words in result.output
    assert "OCTAVO_WORKER__LABELS" not in environment
