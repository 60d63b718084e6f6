"""Logs: one line an event on stderr, the same for structlog and for libraries that use `logging`."""

import json
import subprocess
import sys
from typing import Any

import pytest

PROGRAM = """
import logging, sys, structlog
from shared.settings import LogSettings
from shared.telemetry import configure_logging
configure_logging(LogSettings(format=sys.argv[1], level=sys.argv[2]))
structlog.contextvars.bind_contextvars(request_id="req_1")
structlog.get_logger("octavo").info("ours", job_id="job_1")
logging.getLogger("library").warning("theirs: %s", 7)
logging.getLogger("library").debug("not shown")
api_key = "oct_" + "secret"
try:
    raise ValueError("broken")
except ValueError:
    structlog.get_logger("octavo").exception("failed")
print("data")
"""


def run(log_format: str, level: str = "info") -> str:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, log_format, level], capture_output=True, text=True, check=True
    )
    assert result.stdout == "data\n", "logs never mix with data"
    return result.stderr


def test_json_has_one_object_a_line_with_time_level_and_context() -> None:
    lines: list[dict[str, Any]] = [json.loads(line) for line in run("json").splitlines()]
    assert [line["event"] for line in lines] == ["ours", "theirs: 7", "failed"]
    assert [line["level"] for line in lines] == ["info", "warning", "error"]
    assert all(line["timestamp"].endswith("Z") and line["request_id"] == "req_1" for line in lines)
    assert lines[0]["job_id"] == "job_1"
    assert lines[2]["exception"][0]["exc_value"] == "broken"


def test_console_is_for_people_and_has_no_colours_off_a_terminal() -> None:
    text = run("console")
    assert "ours" in text
    assert "theirs: 7" in text
    assert "ValueError: broken" in text
    assert "\x1b[" not in text


HOSTILE = """
import logging, structlog
from shared.settings import LogSettings
from shared.telemetry import configure_logging
configure_logging(LogSettings(format="console"))
sent = "/\\x1b]0;owned\\x07\\x1b[2J\\x9b31m\\u202e\\n2026-01-01T00:00:00Z [info] forged" + "x" * 100_000
structlog.get_logger("octavo").info("request", path=sent, status=401)
logging.getLogger("library").warning("asked for %s", sent)
try:
    raise ValueError(sent)
except ValueError:
    structlog.get_logger("octavo").exception("failed")
"""


def test_what_a_client_sent_obeys_no_terminal_and_begins_no_line() -> None:
    result = subprocess.run([sys.executable, "-c", HOSTILE], capture_output=True, text=True, check=True)
    assert not set("\x1b\x07\x9b\u202e") & set(result.stderr)
    request, library, *trace = result.stderr.split("\n")
    for line in (request, library):
        told = line.replace(r"\\", "\\")  # structlog quotes what has spaces once more
        assert r"/\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\n2026-01-01T00:00:00Z [info] forged" in told
        assert len(line) < 5000
    assert request.rstrip().endswith("status=401")
    assert "Traceback" in trace[1], "a trace keeps its lines"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_trace_shows_no_local_variable(log_format: str) -> None:
    assert "oct_secret" not in run(log_format)


@pytest.mark.parametrize(("level", "events"), [("warning", ["theirs: 7", "failed"]), ("error", ["failed"])])
def test_what_is_below_the_level_is_not_written(level: str, events: list[str]) -> None:
    assert [json.loads(line)["event"] for line in run("json", level).splitlines()] == events
