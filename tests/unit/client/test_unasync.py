"""octavo/_sync is what octavo/_async makes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_generated_code_is_current() -> None:
    """After a change in client/octavo/_async: python client/scripts/unasync.py."""
    program = [sys.executable, str(ROOT / "client" / "scripts" / "unasync.py"), "--check"]
    result = subprocess.run(program, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_no_async_word_is_left_in_the_sync_code() -> None:
    for path in (ROOT / "client" / "octavo" / "_sync").glob("*.py"):
        code = path.read_text()
        assert "await " not in code, path
        assert "async " not in code, path
