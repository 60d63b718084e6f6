"""`make demo` is what a newcomer types first: it does the whole job, and leaves nothing running."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def processes_of(directory: Path) -> list[str]:
    """The command lines of every process that was started on this data directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            known = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            if str(directory).encode() in known:
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:  # it has ended meanwhile, or is not ours
            continue
    return found


def test_the_demo_quantizes_by_all_three_methods_and_stops_what_it_started(tmp_path: Path) -> None:
    """One table with all three, artifacts that are right and run, and no process left."""
    directory = tmp_path / "octavo-demo"
    demo = subprocess.run(
        [sys.executable, str(DEMO), str(directory)],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        env=ENVIRONMENT,
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    rows = {line[0]: line[1:] for line in map(partial(re.split, r"  +"), demo.stdout.splitlines()) if len(line) == 4}
    assert rows["method"] == ["dynamic", "static", "qat"]
    for change in rows["top1"]:
        float_accuracy, int8_accuracy = (float(share) for share in re.findall(r"([\d.]+)%", change))
        assert float_accuracy > 95, change
        assert float_accuracy - int8_accuracy < 2, change
    for speedup in rows["speedup (95 % CI)"]:
        assert re.fullmatch(r"\d+\.\d+× \(\d+\.\d+–\d+\.\d+\)(, noisy)?", speedup)
    assert rows.keys() >= {"verdict", "change", "file", "p50"}
    assert demo.stdout.count("every SHA-256 is right") == 3
    assert demo.stdout.count("load_example.py says:\n") == 3
    assert demo.stdout.count("(1, 10) torch.float32") == 3
    for method in ("dynamic", "static", "qat"):
        assert (directory / "results" / method / "model_int8.pt").is_file()
    assert "octavo-server up --data-dir" in demo.stdout
    assert processes_of(directory) == []


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_demo_that_is_stopped_takes_its_server_with_it(tmp_path: Path, stop: signal.Signals) -> None:
    directory = tmp_path / "octavo-demo"
    with subprocess.Popen(
        [sys.executable, str(DEMO), str(directory)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=ENVIRONMENT
    ) as demo:
        deadline = time.monotonic() + 60
        while not any("-m worker" in line for line in processes_of(directory)):
            assert demo.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        demo.send_signal(stop)
        assert demo.wait(60) == (130 if stop == signal.SIGINT else 128 + stop)
    assert processes_of(directory) == []
