"""The doctor names what is wrong and what to do about it."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from server.cli import main
from shared.database import migrate
from shared.settings import Settings


def doctor(data_dir: Path) -> Result:
    return CliRunner().invoke(main, ["doctor", "--json", "--data-dir", str(data_dir)], catch_exceptions=False)


def finding(result: Result, check: str) -> dict[str, str]:
    [found] = [finding for finding in json.loads(result.stdout)["findings"] if finding["check"] == check]
    assert isinstance(found, dict)
    return found


def test_a_fresh_directory_is_healthy_and_stays_untouched(tmp_path: Path) -> None:
    result = doctor(tmp_path / "data")
    assert result.exit_code == 0, result.stdout
    assert json.loads(result.stdout)["healthy"] is True
    assert not (tmp_path / "data").exists()


def test_the_database_s_clock_is_compared_with_this_one(tmp_path: Path) -> None:
    migrate(Settings(data_dir=tmp_path).database_url)
    result = doctor(tmp_path)
    assert finding(result, "database")["detail"].endswith("schema up to date")
    assert finding(result, "clock")["status"] == "ok"


def test_a_broker_that_does_not_answer_is_an_error_with_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        port = nobody_listens.getsockname()[1]
        monkeypatch.setenv("OCTAVO_QUEUE__BROKER_URL", f"redis://127.0.0.1:{port}/0")
        result = doctor(tmp_path)
    assert result.exit_code == 1
    assert finding(result, "broker")["status"] == "error"
    assert "OCTAVO_QUEUE__BROKER_URL" in finding(result, "broker")["hint"]


def test_a_database_without_tables_says_how_to_make_them(tmp_path: Path) -> None:
    (tmp_path / "octavo.sqlite3").touch()
    result = doctor(tmp_path)
    assert result.exit_code == 1
    assert "octavo-server migrate" in finding(result, "database")["hint"]


def test_a_wrong_setting_is_named_by_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCTAVO_WORKER__CONCURRENCY", "0")
    result = doctor(tmp_path)
    assert result.exit_code == 2
    assert "OCTAVO_WORKER__CONCURRENCY" in result.stderr
